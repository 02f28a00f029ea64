"""Where a grown model re-enters the learning-rate schedule, and with which peak.

    learning rate = peak * schedule.factor(position + tokens in the stage, total) * min(1, tokens in the stage / rewarm_tokens)

    position   keep            what the run has reached: nothing to do under WSD (arXiv 2404.06395)
               loss-matched    the tokens after which the target itself, from scratch, would have this loss
                               (arXiv 2203.06211: S_target = S_pre / ratio; its released code has the ratios below)
    peak       size law        peak * lr(N_large) / lr(N_small),  lr(N) = 0.003239 - 0.0001395 log10 N
               muP             peak * width_small / width_large   (AdamW, arXiv 2203.03466)

The re-warm-up multiplies whatever the schedule says. (The released code replaces the schedule inside the re-warm-up, and
overshoots where that straddles the end of the first warm-up.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from outgrow.errors import ConfigError
from outgrow.files.section import Section, TokenCount

DoublingKind = Literal["width", "depth", "width_depth"]
"""What doubled in a growth of Shen et al.; other factors have no published constants."""
LOSS_MATCHED_RATIO: dict[DoublingKind, float] = {"width": 1.776, "depth": 1.412, "width_depth": 2.455}
"""S_pre / S_target of one doubling, from the released code of arXiv 2203.06211."""


class Ratio(Section):
    """The position divided by this number."""

    ratio: Annotated[float, Field(gt=0)]


class EqualLossPosition(Section):
    """The tokens at which another run, of the target from scratch, had the loss that this one has."""

    curve: str
    """Its metrics.jsonl: validation losses on the same held-out text."""


def _form(value: Any) -> str:
    """Which of the forms of a position this is, so that a mistake is told once."""
    if isinstance(value, dict):
        return "<curve>" if "curve" in value else "<ratio>"
    if isinstance(value, Ratio | EqualLossPosition):
        return "<curve>" if isinstance(value, EqualLossPosition) else "<ratio>"
    return "<word>" if isinstance(value, str) and not any(char.isdigit() for char in value) else "<tokens>"


Position = Annotated[
    Annotated[Literal["keep", "loss_matched"], Tag("<word>")]
    | Annotated[TokenCount, Tag("<tokens>")]
    | Annotated[Ratio, Tag("<ratio>")]
    | Annotated[EqualLossPosition, Tag("<curve>")],
    Discriminator(_form),
]


class Reentry(Section):
    """How a stage's learning rate goes on after a growth."""

    position: Position = "keep"
    """`keep`, `loss_matched` (published ratios, for doublings), a number of tokens, `{ratio: r}` or `{curve: file}`."""
    rewarm_tokens: TokenCount = 0
    """Tokens over which the learning rate rises once more from 0 to what the schedule says."""
    peak: Literal["keep", "size_law", "mup"] | Annotated[float, Field(gt=0)] = "keep"
    """`keep` (that of the stage before), `size_law`, `mup`, or a number."""


@dataclass(frozen=True)
class Factors:
    """By how much a model grows, each as large / small."""

    width: float
    """Of the residual stream."""
    layers: float
    parameters: float
    """Without embeddings and head, as the scaling laws count."""
    flops: float
    """Of training, per token."""

    @property
    def kind(self) -> DoublingKind | None:
        """The published case that this is, or None.

        >>> Factors(width=2, layers=1, parameters=4, flops=3.9).kind, Factors(1.5, 1, 2.2, 2.2).kind
        ('width', None)
        """
        kinds: dict[tuple[float, float], DoublingKind] = {
            (2, 1): "width",
            (1, 2): "depth",
            (2, 2): "width_depth",
        }
        return kinds.get((self.width, self.layers))


def learning_rate_law(parameters: float) -> float:
    """The peak learning rate of arXiv 2203.06211 for a model of so many parameters (without embeddings), AdamW.

    >>> round(learning_rate_law(84.9e6), 6), round(learning_rate_law(679.5e6), 6)
    (0.002133, 0.002007)
    """
    return 0.003239 - 0.0001395 * math.log10(parameters)


def entry_peak(rule: str | float, peak: float, parameters: float, factors: Factors | None) -> float:
    """The peak of a stage whose predecessor had `peak` and `parameters` (without embeddings).

    The size law is used as a ratio, so that a peak that was tuned on the small model stays tuned. `mup` gives every
    tensor the multiplier of the hidden matrices; muP proper leaves embeddings and vectors at 1.
    """
    if isinstance(rule, float | int):
        return float(rule)
    if rule == "keep":
        return peak
    assert factors is not None, "RunConfig asks for a growth"
    if rule == "mup":
        return peak / factors.width
    if not parameters:
        raise ConfigError(
            "reentry.peak: size_law knows no rate for a model without layers", fix="give a number"
        )
    return peak * learning_rate_law(parameters * factors.parameters) / learning_rate_law(parameters)


def matched_ratio(factors: Factors, where: str) -> Ratio:
    """The published ratio of a growth, or an error that says what to give instead."""
    if factors.kind is None:
        raise ConfigError(
            f"{where}: loss_matched has published ratios for doublings only",
            got=f"width x {factors.width:g}, layers x {factors.layers:g}",
            fix="give {ratio: r} or {curve: metrics.jsonl of the target}, or a number of tokens",
        )
    return Ratio(ratio=LOSS_MATCHED_RATIO[factors.kind])


def matched_tokens(curve: Sequence[tuple[float, float]], loss: float) -> int:
    """The tokens at which a curve of (tokens, loss), in order, first came down to a loss; its ends where it never did.

    Between two points the loss is a straight line in log tokens.

    >>> matched_tokens([(100, 5.0), (1000, 4.0), (10_000, 3.5)], 4.5)
    316
    >>> matched_tokens([(100, 5.0), (1000, 4.0)], 2.0)
    1000
    """
    before: tuple[float, float] | None = None
    for tokens, here in curve:
        if here <= loss:
            if before is None:
                return round(tokens)
            share = (before[1] - loss) / (before[1] - here)
            return round(before[0] * math.exp(share * math.log(tokens / before[0])))
        if before is None or here < before[1]:
            before = (tokens, here)
    return round(curve[-1][0])
