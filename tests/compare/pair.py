"""Two processes do one study at once, then this one does it alone: `pair.py TOGETHER.json ALONE.json`; prints both results."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers.models.llama.modeling_llama  # noqa: F401  (imported once, before the forks)

from outgrow.comparing import parse_study, run_study


def points(content: dict[str, Any], first_piece: Callable[[], object] = bool) -> list[list[Any]]:
    """Losses and FLOPs of every end, and which pieces this process trained; `first_piece` is called in the first of them."""
    trained: list[str] = []

    def say(line: str) -> None:
        if "% of the FLOPs" in line:
            trained.append(line)
            if len(trained) == 1:
                first_piece()

    result = run_study(parse_study(content), say)
    return [[[p.arm, p.seed, p.budget, p.loss, p.flops] for p in result.points], trained]


def start(content: dict[str, Any], out: Path, first_piece: Callable[[], object]) -> int:
    """A child that does the study; its exit status is 0 where it finished."""
    child = os.fork()
    if child == 0:
        try:
            out.write_text(json.dumps(points(content, first_piece)))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def main() -> None:
    """Print {"together": [[points, trained], [points, trained]], "alone": [points, trained]}."""
    torch.set_num_threads(1)
    together, alone = (json.loads(Path(path).read_text()) for path in sys.argv[1:])
    outs = [Path(f"{sys.argv[1]}.{place}") for place in range(2)]
    both_in_a_piece = multiprocessing.Barrier(2, timeout=120)  # a busy machine may else run one alone
    children = [start(together, out, both_in_a_piece.wait) for out in outs]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        raise SystemExit(f"exit codes {codes}")
    print(json.dumps({"together": [json.loads(out.read_text()) for out in outs], "alone": points(alone)}))


main()
