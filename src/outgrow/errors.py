"""Errors that a person can act on: what is wrong and where, what was found and expected, and what to do.

Every mistake a user can make raises an `OutgrowError`; `assert` is for mistakes of our own.
The command line prints the message alone and exits with code 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class OutgrowError(Exception):
    """A mistake in the input, told in the user's words.

    >>> print(OutgrowError("axis 'mlp' cannot shrink", got=64, expected="at least 96", fix="choose 96 or more"))
    axis 'mlp' cannot shrink
      got:      64
      expected: at least 96
      to do:    choose 96 or more
    """

    def __init__(
        self, what: str, *, got: object = None, expected: object = None, fix: str | None = None
    ) -> None:
        lines = [what]
        if got is not None:
            lines.append(f"  got:      {got}")
        if expected is not None:
            lines.append(f"  expected: {expected}")
        if fix is not None:
            lines.append(f"  to do:    {fix}")
        super().__init__("\n".join(lines))


class GrowthError(OutgrowError):
    """A growth that cannot be done: sizes, axes, operators."""


class ArchitectureError(OutgrowError):
    """A model that the architecture files do not describe, or an architecture file that is wrong."""


class CheckpointError(OutgrowError):
    """A file or folder that cannot be read or written as a training state."""


class ConfigError(OutgrowError):
    """A run file or an option with a wrong key or value."""


def near(name: str, known: Iterable[str]) -> str:
    """A sentence that names the closest known words.

    >>> near("isometrc", ["isometric", "pad"])
    'did you mean isometric? known: isometric, pad'
    """
    known = sorted(known)
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    listing = "known: " + ", ".join(known)
    return f"did you mean {' or '.join(close)}? {listing}" if close else listing


class TrainingError(OutgrowError):
    """A training that cannot go on, for example because the loss is not a number."""
