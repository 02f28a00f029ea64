"""What activations of an axis can pass through: one entry per kind, with all that code may ask of it.

A new kind is an entry here, and its check in `growth/checks.py`: nothing else asks for a kind by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class AxisKind:
    """One row of the table of docs/explanation/maths.md."""

    meaning: str
    kept_when: str
    """When the function is kept, in words for people."""
    grows: bool = True
    """Whether a target may ask for more units."""
    is_table: bool = False
    """Whether units are tokens or places, whose rows are looked up."""
    inside_head: bool = False
    """Whether units are dimensions of a head, which attention scores mix or a norm sees."""
    shares_readers: bool = False
    """Whether readers of copies share what one unit gave, without a word of anything between."""
    maskable: bool = True
    """Whether a reader of new units stands there to be masked while they fade in."""


KINDS: Mapping[str, AxisKind] = {
    "stream": AxisKind(
        "the residual stream, written by sums and read by norms",
        "norms see c·I: copies scaled alike (any width under RMSNorm), or silent new channels",
    ),
    "norm": AxisKind("the output of a norm `of` another axis", "follows the stream; its gain is compensated"),
    "elementwise": AxisKind(
        "a nonlinearity, unit by unit (gated or not)",
        "each new unit copies one unit, or its readers are zero",
        shares_readers=True,
    ),
    "heads": AxisKind(
        "whole attention heads", "whole heads are copied, or their readers are zero", shares_readers=True
    ),
    "dot": AxisKind(
        "contracted `with` another axis in attention scores; `rotary` if rotated in pairs",
        "dot products are kept; rotary pairs keep their frequency (whole factors)",
        inside_head=True,
        maskable=False,
    ),
    "raw": AxisKind(
        "a projection that only a norm reads (query and key before their norm)",
        "copied evenly: its norm sees the same mean square",
        inside_head=True,
        maskable=False,
    ),
    "linear": AxisKind("nothing: written and read by matrices", "always: any width", shares_readers=True),
    "lookup": AxisKind(
        "indexed by tokens",
        "old tokens keep their logits; new ones take a share of the probability",
        is_table=True,
        maskable=False,
    ),
    "router": AxisKind(
        "a choice: the router's logits, and the experts, `active` of which work for a token; grows by operators on experts",
        "experts are copied or cut, and the router's shares add up (--experts)",
        grows=False,
    ),
    "positions": AxisKind(
        "rows of a learned table with a place each, one after the other: new ones stand behind the old",
        "always: old places keep their rows",
        is_table=True,
        maskable=False,
    ),
    "grid": AxisKind(
        "the side of a square of patches, whose learned positions are resampled when it is finer",
        "never: an image has more patches",
        is_table=True,
        maskable=False,
    ),
    "input": AxisKind(
        "the values of the data (pixels), read by matrices", "cannot grow: the data's", grows=False
    ),
    "fixed": AxisKind(
        "rows of a table with a place each (positions, labels)", "cannot grow", grows=False, is_table=True
    ),
}
