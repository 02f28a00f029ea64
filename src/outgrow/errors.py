"""Errors that a person can act on: what is wrong and where, what was found and expected, and what to do.

Every mistake a user can make raises an `OutgrowError`; `assert` is for mistakes of our own.
The command line prints the message alone and exits with code 2. What a file or a user said is shown, never obeyed: its
control characters are spelled out, and what is too long is cut.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

_LONGEST = 1200
"""Characters of each part of a message: a screenful."""
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys instead of showing it: controls, marks that turn the text around, halves of pairs."""


def printable(text: str) -> str:
    r"""The text with every character that a terminal would obey spelled out; lines and tabs stay.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


def brief(value: object, longest: int = 200) -> str:
    """A value as Python writes it, cut short: any depth, any length, any number of digits.

    >>> brief([0] * 1000), brief("a" * 1000, longest=20), brief(10**20_000)
    ('[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ...]', "'aaaaaaa...aaaaaaaa'", 'a number of 66,439 bits')
    """
    short = _Short()
    short.maxlevel, short.maxstring, short.maxother, short.maxlong = 3, longest, longest, 40
    short.maxlist = short.maxtuple = short.maxset = short.maxfrozenset = short.maxdict = 12
    return cut(short.repr(value), 4 * longest)


def cut(text: str, longest: int = _LONGEST) -> str:
    """The text, or its beginning and how much is left out.

    >>> cut("a" * 1000, 5)
    'aaaaa ... (995 characters more)'
    """
    return text if len(text) <= longest else f"{text[:longest]} ... ({len(text) - longest:,} characters more)"


class _Short(reprlib.Repr):
    """Python turns no number of more than 4,300 digits into text."""

    def repr_int(self, x: int, level: int) -> str:
        return (
            f"a number of {x.bit_length():,} bits" if x.bit_length() > 10_000 else super().repr_int(x, level)
        )


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
        lines = [printable(cut(what, 16 * _LONGEST))]  # a run file may have many mistakes
        if got is not None:
            lines.append(f"  got:      {_told(got)}")
        if expected is not None:
            lines.append(f"  expected: {_told(expected)}")
        if fix is not None:
            lines.append(f"  to do:    {_told(fix)}")
        super().__init__("\n".join(lines))


def _told(value: object) -> str:
    """A part of a message, safe to print."""
    endless = isinstance(value, int | list | tuple | set | frozenset | dict)
    return printable(cut(brief(value, _LONGEST) if endless else str(value)))


@contextmanager
def told_of(place: str) -> Iterator[None]:
    """What goes wrong inside is told with this place before it; with none, as it is.

    >>> with told_of("arm small"):
    ...     raise OutgrowError("too short", got=3)
    Traceback (most recent call last):
    ...
    outgrow.errors.OutgrowError: arm small: too short
      got:      3
    """
    try:
        yield
    except OutgrowError as error:
        if place:
            error.args = (f"{place}: {error}",)
        raise


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
    >>> near("adamw", ["AdamW", "SGD"])
    'did you mean AdamW? known: AdamW, SGD'
    """
    known = sorted(known)
    folded = {word.casefold(): word for word in reversed(known)}
    # Below 0.65 it misleads more than it helps.
    close = [folded[word] for word in get_close_matches(name[:100].casefold(), folded, n=3, cutoff=0.65)]
    listing = "known: " + ", ".join(known)
    return f"did you mean {' or '.join(close)}? {listing}" if close else listing


class TrainingError(OutgrowError):
    """A training that cannot go on, for example because the loss is not a number."""
