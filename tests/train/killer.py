"""Do a run whole, then others that are killed with SIGKILL again and again: `killer.py WHOLE.yaml KILLED.yaml...`

Kills come at moments that chance would hardly hit (while a checkpoint, the grown state or the last state is written)
and at random ones between. Forked children share this process's imports, so a kill costs a second and not five. Prints one line per kill.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import transformers.models.llama.modeling_llama  # noqa: F401  (imported once, before the forks)

from outgrow.training import load_run, train_run


def start(path: str) -> int:
    """A child that does the run; its exit status is 0 where it finished."""
    child = os.fork()
    if child == 0:
        try:
            train_run(load_run(path), progress=False)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def kill_when(child: int, due: Callable[[], bool]) -> bool:
    """Kill the child as soon as it is due; False where it finished before."""
    while not due():
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, f"the run failed: {status}"
            return False
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def torment(path: str, seed: int) -> int:
    """Start and kill at one moment after the other; the number of kills. A run that was too fast begins anew."""
    root = Path(load_run(path).output)
    generator = random.Random(seed)
    kills = 0
    for name, due in moments(root, generator):
        if not kill_when(start(path), due):
            print("finished before:", name)
            shutil.rmtree(root)
            continue
        kills += 1
        latest = root / "latest.json"
        print("killed:", name, latest.read_text().split('"flops')[0] if latest.is_file() else "")
    return kills


def moments(root: Path, generator: random.Random) -> list[tuple[str, Callable[[], bool]]]:
    """In the order of a run: while something is written, just after, and after a random line of the log."""
    return [
        ("a checkpoint is written", appears(root, "stages/1-*/step-*.tmp-*")),
        ("somewhere in stage 1", logged(root, generator.randint(3, 9))),
        ("somewhere in stage 1", logged(root, generator.randint(9, 12))),
        ("the grown state is written", appears(root, "stages/2-*/grown.tmp-*")),
        ("the grown state is there", appears(root, "stages/2-*/grown")),
        ("somewhere in stage 2", logged(root, generator.randint(14, 22))),
        ("a checkpoint is written", appears(root, "stages/2-*/step-*.tmp-*")),
        ("the last state is written", appears(root, "final.tmp-*")),
    ]


def appears(root: Path, pattern: str) -> Callable[[], bool]:
    """Whether there is a path of this kind."""
    return lambda: any(root.glob(pattern))


def logged(root: Path, rows: int) -> Callable[[], bool]:
    """Whether metrics.jsonl has so many lines."""
    log = root / "metrics.jsonl"
    return lambda: log.is_file() and log.read_bytes().count(b"\n") >= rows


if __name__ == "__main__":
    gc.freeze()  # a child that looked for garbage here would copy every page
    torch.set_num_threads(1)
    whole, *killed = sys.argv[1:]
    assert os.waitpid(start(whole), 0)[1] == 0
    for seed, path in enumerate(killed):
        assert torment(path, seed) >= 3, "the run was too fast to be killed"
        assert os.waitpid(start(path), 0)[1] == 0
