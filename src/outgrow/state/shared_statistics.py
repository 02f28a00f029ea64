"""Means that a growth asks of whole source tensors, worked out by many processes: each reads some tensors, all know all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from outgrow.parallel.ranks import Ranks
from outgrow.state.grown_view import GrownView

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


def _asked(view: GrownView) -> set[tuple[str, str, str]]:
    """What reading no row of each tensor asks for: fills ask before they look at rows."""
    recorder = _Recorder()
    probe = replace(view, _statistics=recorder)
    for slot in view.plan.recipes:
        for name in view.names(slot):
            probe.read(name, slot, slice(0, 0))
    return {key for key in recorder.asked if key[2] in _ASKED}
