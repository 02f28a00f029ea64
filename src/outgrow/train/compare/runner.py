"""Runs what a study still lacks, piece by piece, in one process or several, and collects the decayed frontiers.

Every piece is an ordinary resumable run in `pieces/<key>`; what is there is never run again. Several processes may work
on one study: a piece that another one holds is left to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from outgrow.store.atomic import write_json_atomic
from outgrow.train.compare.pieces import Branch, Piece, branches
from outgrow.train.compare.saving import Frontier, Saving, best_of, savings
from outgrow.train.compare.study import StudyConfig
from outgrow.train.files import RunBusyError
from outgrow.train.folder import RunFolder, read_metrics
from outgrow.train.loop import train
from outgrow.train.result import machine
from outgrow.train.run_file import dump_yaml

Say = Callable[[str], None]


@dataclass(frozen=True)
class Point:
    """One decayed end: validation loss in nats, and all that was spent on it, the small stages and growth included."""

    arm: str
    seed: int
    rate: float
    budget: int
    loss: float
    flops: float
    tokens: int
    seconds: float
    folder: str


@dataclass(frozen=True)
class StudyResult:
    """What a study came to."""

    study: StudyConfig
    points: tuple[Point, ...]
    sweep: tuple[Point, ...]
    rates: Mapping[str, float]
    """The learning rate that was chosen for each arm."""
    sweep_flops: float
    """FLOPs of the sweeps alone; they are not part of any saving, and every arm had the same."""

    def frontier(self, arm: str) -> Frontier:
        """Decayed losses of an arm over its compute."""
        budgets = self.study.arm_budgets(arm)
        own = {(point.seed, point.budget): point for point in self.points if point.arm == arm}
        first = self.study.seeds[0]
        return Frontier(
            tuple(own[first, budget].flops for budget in budgets),
            tuple(tuple(own[seed, budget].loss for budget in budgets) for seed in self.study.seeds),
        )

    def savings(self) -> dict[str, tuple[Saving, ...]]:
        """Every arm against the baseline."""
        scratch = self.frontier(self.study.baseline)
        return {arm: savings(self.frontier(arm), scratch) for arm in self.study.arms}

    def best_scratch(self) -> tuple[tuple[float, ...], Any]:
        """The second baseline: the best model from scratch of any size at every compute."""
        return best_of([self.frontier(arm) for arm, config in self.study.arms.items() if config.is_scratch])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        compute, losses = self.best_scratch()
        return {
            "study": self.study.model_dump(mode="json"),
            "machine": machine(),
            "rates": dict(self.rates),
            "sweep_flops": self.sweep_flops,
            "points": [asdict(point) for point in self.points],
            "sweep": [asdict(point) for point in self.sweep],
            "savings": {arm: [asdict(one) for one in found] for arm, found in self.savings().items()},
            "best_scratch": {"flops": list(compute), "loss": [float(loss) for loss in losses]},
        }


def run_study(study: StudyConfig, say: Say = print) -> StudyResult:
    """Do a study, or what is left of it; the result is also written to `study.json`.

    Raises `ConfigError` before any training for a mistake in any arm, and what `train` raises.
    """
    root = Path(study.output)
    root.mkdir(parents=True, exist_ok=True)
    tuning = study.tuning
    candidates = {
        (arm, rate): branches(study, arm, tuning.seed, rate, study.arm_budgets(arm))
        for arm in study.arms
        for rate in tuning.rates
    }
    sweep = [
        branch
        for (arm, _), found in candidates.items()
        for branch in found
        if branch.budget == study.tuning_budget(arm)
    ]
    (root / "study.yaml").write_text(dump_yaml(study.model_dump(mode="json")), encoding="utf-8")
    run_pieces(_pieces(sweep), study.output, say, "sweep")
    swept = tuple(point_of(branch, study.output) for branch in sweep)
    rates = {
        arm: min((point for point in swept if point.arm == arm), key=lambda point: point.loss).rate
        for arm in study.arms
    }
    for arm, rate in rates.items():
        say(f"{arm}: learning rate {rate:g} of {', '.join(f'{one:g}' for one in tuning.rates)}")
    wanted = [
        branch
        for arm in study.arms
        for seed in study.seeds
        for branch in branches(study, arm, seed, rates[arm], study.arm_budgets(arm))
    ]
    run_pieces(_pieces(wanted), study.output, say, "study")
    points = tuple(point_of(branch, study.output) for branch in wanted)
    swept_flops = sum(_own(piece, study.output)["flops"] for piece in _pieces(sweep))
    result = StudyResult(study, points, swept, rates, swept_flops)
    write_json_atomic(root / "study.json", result.to_json())
    return result


def run_pieces(pieces: Sequence[Piece], root: str, say: Say, title: str) -> None:
    """Train every piece that is not there yet, parents first; those that another process holds are waited for."""
    waiting = [piece for piece in pieces if not _finished(piece, root)]
    total, done, began = sum(map(_tokens, waiting)), 0, time.monotonic()
    if waiting:
        say(f"{title}: {len(waiting)} of {len(pieces)} pieces to train, {total:,} tokens")
    while waiting:
        moved = False
        for piece in list(waiting):
            if piece.parent is not None and not _finished(piece.parent, root):
                continue
            try:
                train(piece.run(root), progress=False)
            except RunBusyError:
                continue  # another process trains it; it is looked at again
            waiting.remove(piece)
            moved = True
            done += _tokens(piece)
            left = (time.monotonic() - began) / done * (total - done)
            say(
                f"{title}: {piece.name} ({piece.key}); {done / total:.0%} of the tokens, about {left / 60:.0f} min left"
            )
        if not moved:
            time.sleep(2.0)


def point_of(branch: Branch, root: str) -> Point:
    """What a finished branch came to: its own loss, and the cost of its whole line."""
    line = [_own(piece, root) for piece in branch.piece.line]
    return Point(
        branch.arm,
        branch.seed,
        branch.rate,
        branch.budget,
        line[-1]["loss"],
        sum(one["flops"] for one in line),
        sum(one["tokens"] for one in line),
        sum(one["seconds"] for one in line),
        f"pieces/{branch.piece.key}",
    )


def _pieces(found: Sequence[Branch]) -> list[Piece]:
    """All pieces of some branches, parents before children, shared ones once."""
    return list({piece.key: piece for branch in found for piece in branch.piece.line}.values())


def _own(piece: Piece, root: str) -> dict[str, Any]:
    rows = read_metrics(RunFolder(Path(root) / "pieces" / piece.key).metrics)
    last = [row for row in rows if row["kind"] == "validation"][-1]
    return {
        "loss": last["val_loss"],
        "flops": last["flops"],
        "tokens": last["tokens"],
        "seconds": last["seconds"],
    }


def _finished(piece: Piece, root: str) -> bool:
    pointer = RunFolder(Path(root) / "pieces" / piece.key).pointer()
    return pointer is not None and pointer.finished


def _tokens(piece: Piece) -> int:
    return int(piece.settings["stages"][0]["tokens"])
