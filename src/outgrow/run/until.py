"""When a stage ends early: at a loss, or where its efficiency falls below a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from outgrow.errors import ConfigError
from outgrow.files.section import Section, TokenCount
from outgrow.run.reentry import DoublingKind, Factors

PUBLISHED_SLOPE: dict[DoublingKind | None, float] = {
    "width": -0.0475,
    "depth": -0.0575,
    "width_depth": -0.03,
    None: -0.052,
}
"""Where to stop before a doubling, and (None) where a last stage is compute-efficient: the released code of arXiv 2203.06211."""


@dataclass(frozen=True)
class Threshold:
    """The slope at which to grow: `slope + per_nat / L`."""

    slope: float
    per_nat: float = 0.0

    def at(self, loss: float) -> float:
        """The slope at this loss."""
        return self.slope + self.per_nat / loss


class _Watch(Section):
    min_tokens: TokenCount | None = None
    """Tokens of the stage before which nothing is decided (default: a tenth of them)."""
    check_tokens: Annotated[TokenCount, Field(ge=1)] | None = None
    """Tokens between two decisions (default: a hundredth of the stage's)."""
    patience: Annotated[int, Field(ge=1)] = 3
    """Decisions in a row that must agree."""
    window: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Only rows after `window` x tokens so far are fitted: 0.5 is the newer half."""
    exponent: Annotated[float, Field(gt=0)] = 0.76
    """b: Kaplan's exponent of the steps."""


class UntilLoss(_Watch):
    """The fitted training loss is at or below a number."""

    loss: Annotated[float, Field(gt=0)]


class UntilEfficiency(_Watch):
    """The slope has become flatter than the threshold, after its steepest point."""

    trigger: Literal["efficiency"]
    threshold: Literal["law", "published"] | Annotated[float, Field(lt=0)] | Threshold = "law"
    """`law` (the formula above), `published` (doublings only), a slope d log L / d log C, or what either came to: `{slope, per_nat}`."""
    size_exponent: Annotated[float, Field(gt=0)] = 0.076
    """a: Kaplan's exponent of the parameters."""
    asymptote_gain: Annotated[float, Field(gt=0)] | None = None
    """Nats by which the next model's asymptote is lower, from a law of one's own; absent: Kaplan's law."""


def _form(value: Any) -> str:
    """By its own key, so that a mistake is told once."""
    by_loss = "loss" in value if isinstance(value, dict) else isinstance(value, UntilLoss)
    return "<loss>" if by_loss else "<trigger>"


Until = Annotated[
    Annotated[UntilLoss, Tag("<loss>")] | Annotated[UntilEfficiency, Tag("<trigger>")], Discriminator(_form)
]


def threshold(until: UntilEfficiency, factors: Factors | None, where: str) -> Threshold:
    """What an efficiency trigger waits for; `factors` of the growth that follows, None for a last stage.

    >>> round(threshold(UntilEfficiency(trigger="efficiency"), Factors(2, 1, 4, 4), "stages.0.until").at(3.0), 4)
    -0.0826
    """
    b, a = until.exponent, until.size_exponent
    if isinstance(until.threshold, Threshold):
        return until.threshold
    if isinstance(until.threshold, float | int):
        return Threshold(float(until.threshold))
    if until.threshold == "published":
        kind = factors.kind if factors is not None else None
        if factors is not None and kind is None:
            raise ConfigError(
                f"{where}: slopes are published for doublings only",
                got=f"width x {factors.width:g}, layers x {factors.layers:g}",
                fix="use threshold: law, or a number",
            )
        return Threshold(PUBLISHED_SLOPE[kind])
    if factors is None:  # nothing to grow to: where this size touches the compute-efficient frontier
        return Threshold(-a * b / (a + b))
    if factors.flops <= 1:
        raise ConfigError(
            f"{where}: the next model costs no more FLOPs per token", got=f"x {factors.flops:g}"
        )
    k = factors.flops ** (1 / (1 + 1 / b))
    if until.asymptote_gain is not None:
        return Threshold(0.0, -b * until.asymptote_gain / (k - 1))
    q = factors.parameters**-a
    return Threshold(-b * (1 - q) / (k - q))  # the formula above with gain = E (1 - q) solved for A t^-b / L
