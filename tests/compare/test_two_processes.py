"""Processes share a study: two real ones come to the bits of one, and the time left counts what others have trained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from compare.tiny import text_study
from outgrow.comparing import parse_study
from outgrow.comparing.check import check_study
from outgrow.comparing.piece_trainer import PieceTrainer
from outgrow.comparing.pieces import all_pieces
from outgrow.comparing.sweeps import sweep_branches


def test_two_processes_share_the_work(corpus: Path, tmp_path: Path) -> None:
    files = []
    for name in ("together", "alone"):
        content = text_study(corpus, tmp_path / name)
        content["arms"].pop("identity")
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(content))
    script = Path(__file__).with_name("pair.py")
    done = subprocess.run(
        [sys.executable, script, *map(str, files)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    (first, some), (second, others) = found["together"]
    alone, all_of_them = found["alone"]
    assert first == second == alone
    keys = [{line.split("(")[1].split(")")[0] for line in part} for part in (some, others, all_of_them)]
    assert keys[0] | keys[1] == keys[2]
    assert keys[0]
    assert keys[1]


def test_the_time_left_counts_what_another_process_has_trained(corpus: Path, tmp_path: Path) -> None:
    """Once the first piece of three is there, somebody else trains the rest: nothing is left."""
    study = parse_study(text_study(corpus, tmp_path, tuning={"rates": [1e-3, 2e-3, 4e-3]}))
    pieces = all_pieces(sweep_branches(study, "scratch"))
    plans = check_study(study, lambda _: None)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 2:
            PieceTrainer(plans, study.pieces_folder, lambda _: None).train(pieces, "another process")

    PieceTrainer(plans, study.pieces_folder, say).train(pieces, "sweep")
    assert "% of the FLOPs" in said[1]
    assert " 100%" not in said[1]
    assert len(said) == 1 + len(pieces)
    assert all("; 100% of the FLOPs, about 0.0 s left" in line for line in said[2:])
