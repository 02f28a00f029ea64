"""Kills of random ranks at random moments, by hand: `torment.py FOLDER KILLS [SEED]`; every run must end in the bits of one never killed.

A moment is a line of the log, a file of a checkpoint that appears, or some milliseconds after one of them.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


from distributed import forks
from distributed.worker import digest, logged, tiny, trained
from train.tiny_corpus import write_corpus

WORLD = 2


def moment(root: Path, chance: random.Random) -> tuple[str, Callable[[], bool]]:
    """When to kill, in words and as a question."""
    log = root / "metrics.jsonl"
    so_far = log.read_bytes().count(b'"kind": "train"') if log.is_file() else 0
    pointer = root / "latest.json"
    age = pointer.stat().st_mtime_ns if pointer.is_file() else 0
    shards = len(list(root.glob("stages/*/*/*.distcp")))
    kind = chance.choice(["step", "shard", "pointer", "second"])
    until = time.monotonic() + chance.uniform(0.2, 4.0)
    return kind, {
        "step": partial(logged, root, so_far + chance.randint(1, 3)),
        "shard": lambda: len(list(root.glob("stages/*/*/*.distcp"))) > shards,
        "pointer": lambda: pointer.is_file() and pointer.stat().st_mtime_ns > age,
        "second": lambda: time.monotonic() > until,
    }[kind]


def main(folder: Path, kills: int, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["OUTGROW_CACHE"] = str(folder / "cache")
    write_corpus(folder / "text.txt")
    chance, done, whole = random.Random(seed), 0, 0
    checkpoint = {"every_steps": 2, "keep": 1, "asynchronous": True}
    forks.run(WORLD, partial(trained, tiny(folder, "whole", checkpoint=checkpoint)))
    expected, root = digest(folder / "whole"), folder / "killed"
    counts = dict[str, int]()
    while done < kills:
        children = forks.start(WORLD, partial(trained, tiny(folder, "killed", checkpoint=checkpoint)))
        what, due = moment(root, chance)
        delay, victim = chance.choice([0.0, 0.0, 0.01, 0.1]), chance.randrange(WORLD)
        ended = False
        while not due() and not ended:
            time.sleep(0.001)
            ended = finished(root)
        if ended:
            assert forks.wait(children) == [0] * WORLD
        else:
            time.sleep(delay)
            for child in (children[victim], *children):
                os.kill(child, signal.SIGKILL)
            for child in children:
                os.waitpid(child, 0)
            done += 1
            counts[what] = counts.get(what, 0) + 1
        if finished(root):
            forks.run(WORLD, partial(trained, tiny(folder, "killed", checkpoint=checkpoint)))
            assert digest(root) == expected, "other bits"
            whole += 1
            shutil.rmtree(root)
    forks.run(WORLD, partial(trained, tiny(folder, "killed", checkpoint=checkpoint)))
    assert digest(root) == expected, "other bits"
    print(f"{done} kills {counts}, {whole + 1} runs ended, all in the same bits")


def finished(root: Path) -> bool:
    """Whether the run has come to its end."""
    pointer = root / "latest.json"
    return pointer.is_file() and '"finished": true' in pointer.read_text()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
