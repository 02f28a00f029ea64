"""Sentence classification tasks of GLUE (arXiv 1804.07461): their files, and the metric that each is judged by.

Matthews correlation = (TP · TN - FP · FN) / √((TP + FP)(TP + FN)(TN + FP)(TN + FN))
F1                   = 2 TP / (2 TP + FP + FN)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outgrow.data.corpus import open_text
from outgrow.errors import ConfigError

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Example:
    """One or two sentences and their class, 0 or 1."""

    sentences: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Task:
    """Columns of a tab-separated file, and the metric. A larger value is better."""

    header: bool
    sentences: tuple[int, ...]
    label: int
    classes: tuple[str, str]
    metric: str
    score: Callable[[Labels, Labels], float]


def accuracy(found: Labels, right: Labels) -> float:
    """Share of equal labels.

    >>> accuracy(np.array([0, 1]), np.array([1, 1]))
    0.5
    """
    return float((found == right).mean())


def matthews(found: Labels, right: Labels) -> float:
    """Matthews correlation; 0 where one side has one class only.

    >>> round(matthews(np.array([0, 1, 1]), np.array([0, 1, 1])), 6), matthews(np.array([1, 1]), np.array([0, 1]))
    (1.0, 0.0)
    """
    spread = float(found.std() * right.std())
    return 0.0 if spread == 0 else float(((found - found.mean()) * (right - right.mean())).mean()) / spread


def f1(found: Labels, right: Labels) -> float:
    """F1 of class 1.

    >>> f1(np.array([1, 1, 0]), np.array([1, 0, 0])) == 2 / 3
    True
    """
    both, wrong = int(((found == 1) & (right == 1)).sum()), int((found != right).sum())
    return 2 * both / (2 * both + wrong) if both else 0.0


TASKS: Mapping[str, Task] = {
    "sst2": Task(True, (0,), 1, ("0", "1"), "accuracy", accuracy),
    "cola": Task(False, (3,), 1, ("0", "1"), "matthews", matthews),
    "mrpc": Task(True, (3, 4), 0, ("0", "1"), "f1", f1),
    "rte": Task(True, (1, 2), 3, ("not_entailment", "entailment"), "accuracy", accuracy),
}


def task_file(folder: Path, name: str, part: str) -> Path:
    """Where the `train` or `dev` part of a task is; ConfigError where it is not."""
    path = folder / f"{name}_{part}.tsv.xz"
    if not path.is_file():
        raise ConfigError(f"downstream.tasks: no such file: {path}")
    return path


def read_task(folder: Path, name: str, part: str, most: int | None = None) -> list[Example]:
    """Examples of a task in the file's order; ConfigError names a line that does not have the task's columns, or a file without any."""
    task, path, found = TASKS[name], task_file(folder, name, part), []
    with open_text(path, encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if task.header and number == 1:
                continue
            cells = line.rstrip("\r\n").split("\t")
            if len(cells) <= max(*task.sentences, task.label) or cells[task.label] not in task.classes:
                raise ConfigError(f"{path}, line {number} is no example of {name}", got=line[:80])
            found.append(
                Example(
                    tuple(cells[place] for place in task.sentences), task.classes.index(cells[task.label])
                )
            )
            if len(found) == most:
                break
    if not found:
        raise ConfigError(f"no examples of {name} in {path}")
    return found
