"""What a growth does to one axis, said before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What a growth does to one axis."""

    axis: str
    small: int
    large: int
    through: str
    function: bool
    gradient: bool
    compensated: str = ""
    why: str = ""
