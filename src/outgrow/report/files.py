"""What became of the files of a source, in a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_SHOWN = 12


def file_lines(folder: Path, fates: Mapping[str, Any]) -> Iterator[str]:
    """An inventory (`store.inventory.fates`) for people: each fate and its files, what stays behind with the reason.

    >>> list(file_lines(Path("small"), {"grown": ["a"], "rewritten": [], "carried": [], "left_behind": {"b": "why"}}))
    ['Files of small:', '  grown:       a', '  left behind: b (why)']
    """
    left = fates["left_behind"]
    if not any(fates.values()):
        return
    yield f"Files of {folder}:"
    for fate in ("grown", "rewritten", "carried"):
        if fates[fate]:
            yield f"  {fate + ':':12} {_listed(fates[fate])}"
    yield from left_lines(left)


def left_lines(left: Mapping[str, str]) -> Iterator[str]:
    """A line for each file that stays behind, with the reason."""
    for name, why in left.items():
        yield f"  left behind: {name} ({why})"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
