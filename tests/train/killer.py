"""Do a run whole, then others that are killed with SIGKILL again and again: `killer.py WHOLE.yaml KILLED.yaml...`

Kills wait for moments that chance would hardly hit (while a checkpoint, the grown state or the last state is written),
every other one plus a random delay. Forked children share this process's imports, so a kill costs a second and not five. Prints one line per kill.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import transformers.models.llama.modeling_llama  # noqa: F401  (imported once, before the forks)

from outgrow.api import grow  # noqa: F401
from outgrow.train import load_run, train

MOMENTS = (
    "stages/1-*/step-*.tmp-*",
    "stages/2-*/grown.tmp-*",
    "stages/2-*/grown",
    "stages/2-*/step-*.tmp-*",
    "final.tmp-*",
)


def start(path: str) -> int:
    """A child that does the run; its exit status is 0 where it finished."""
    child = os.fork()
    if child == 0:
        try:
            train(load_run(path), progress=False)
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
    """Start and kill until all moments were met; the number of kills."""
    root = Path(load_run(path).output)
    generator = random.Random(seed)
    kills = 0
    for pattern in MOMENTS:
        for due in (appears(root, pattern, generator.uniform(0.0, 0.3)), appears(root, pattern)):
            if not kill_when(start(path), due):
                return kills
            kills += 1
            latest = root / "latest.json"
            print(
                "killed:",
                pattern,
                latest.read_text().split('"metrics')[0].replace("\n", "") if latest.is_file() else "",
            )
    return kills


def appears(root: Path, pattern: str, delay: float = 0.0) -> Callable[[], bool]:
    """Whether a path of this kind was first seen so many seconds ago."""
    seen: list[float] = []

    def due() -> bool:
        if not seen and any(root.glob(pattern)):
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() - seen[0] >= delay

    return due


if __name__ == "__main__":
    torch.set_num_threads(1)
    whole, *killed = sys.argv[1:]
    assert os.waitpid(start(whole), 0)[1] == 0
    for seed, path in enumerate(killed):
        assert torment(path, seed) >= 4, "the run was too fast to be killed"
        assert os.waitpid(start(path), 0)[1] == 0
