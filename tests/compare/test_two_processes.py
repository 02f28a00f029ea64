"""Two real processes share one study, and come to the bits of one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from compare.tiny import text_study


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
