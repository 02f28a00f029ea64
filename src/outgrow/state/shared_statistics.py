"""Means that a growth asks of whole source tensors, worked out by many processes: each reads some tensors, all know all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from outgrow.parallel.ranks import Ranks
from outgrow.state.grown_view import GrownView
from outgrow.store.source import Rows, TensorMeta, TensorSource

_ASKED = ("mean", "rms", "lowest")


def share_statistics(view: GrownView, ranks: Ranks) -> None:
    """Fill a view's statistics before it is read: without this, every rank reads every tensor that one is asked of.

    Each is computed whole by one rank, so its bits are those of a process alone.
    """
    if ranks.alone:
        return
    asked = sorted(_asked(view))
    sizes = [view.source.meta(name, slot).bytes for name, slot, _ in asked]
    load = [0] * ranks.world
    owner = {}
    for key, size in sorted(zip(asked, sizes, strict=True), key=lambda pair: -pair[1]):
        owner[key] = load.index(min(load))
        load[owner[key]] += size
    mine = [key for key in asked if owner[key] == ranks.rank]

    def work() -> list[tuple[str, str, str, float]]:
        return [(name, slot, which, view.statistic(name, slot, which)) for name, slot, which in mine]  # type: ignore[arg-type]

    for part in ranks.gather(ranks.together(work)):
        for name, slot, which, value in part:
            view.know(name, slot, which, value)


def know_statistics(view: GrownView) -> None:
    """The same where the source's tensors are brought one by one: every rank brings and computes each, in one order."""
    for name, slot, which in sorted(_asked(view)):
        view.source.prepare((name,), slot)
        view.statistic(name, slot, which)  # type: ignore[arg-type]


class _Recorder(dict[tuple[str, str, str], Any]):
    """Statistics that are all known to be zero, and remember what was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[tuple[str, str, str]] = set()

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: tuple[str, str, str]) -> float:
        self.asked.add(key)
        return 0.0


@dataclass(frozen=True)
class _Hollow(TensorSource):
    """Names and shapes of a source, and zeros that take no memory."""

    source: TensorSource

    def names(self, slot: str) -> tuple[str, ...]:
        return self.source.names(slot)

    def meta(self, name: str, slot: str) -> TensorMeta:
        return self.source.meta(name, slot)

    def read(self, name: str, slot: str, rows: Rows = None) -> Tensor:
        meta = self.meta(name, slot)
        zeros = torch.zeros((), dtype=meta.dtype).expand(meta.shape)
        return zeros if rows is None else zeros[rows]


def _asked(view: GrownView) -> set[tuple[str, str, str]]:
    """What the first and the last row of each tensor ask for: units that copy nothing stand at an end, or are in every row."""
    recorder = _Recorder()
    probe = replace(view, source=_Hollow(view.source), _statistics=recorder, _mean_rows={})
    for slot in view.plan.recipes:
        for name in view.names(slot):
            for end in (slice(0, 1), slice(-1, None)):
                probe.read(name, slot, end)
    return {key for key in recorder.asked if key[2] in _ASKED}
