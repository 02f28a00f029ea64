"""Two processes do one study at once, then this one does it alone: `pair.py TOGETHER.json ALONE.json`; prints both results."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
import transformers.models.llama.modeling_llama  # noqa: F401  (imported once, before the forks)

from outgrow.api import grow  # noqa: F401
from outgrow.train.compare import parse_study, run_study


def points(content: dict[str, Any]) -> list[list[Any]]:
    """Losses and FLOPs of every end, and which pieces this process trained."""
    said: list[str] = []
    result = run_study(parse_study(content), said.append)
    trained = [line for line in said if "% of the tokens" in line]
    return [[[p.arm, p.seed, p.budget, p.loss, p.flops] for p in result.points], trained]


def start(content: dict[str, Any], out: Path) -> int:
    """A child that does the study; its exit status is 0 where it finished."""
    child = os.fork()
    if child == 0:
        try:
            out.write_text(json.dumps(points(content)))
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
    children = [start(together, out) for out in outs]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        raise SystemExit(f"exit codes {codes}")
    print(json.dumps({"together": [json.loads(out.read_text()) for out in outs], "alone": points(alone)}))


main()
