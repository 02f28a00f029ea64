"""What a proof measured, what of it holds, and what that means in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

CAGED = 1e-6
"""An escape below this is rounding: the weights have not left the small model's subspace."""


@dataclass(frozen=True)
class TensorLaw:
    """How far one tensor's gradient is from its transport, on entries that the small model determines."""

    name: str
    error: float
    norm: float


@dataclass(frozen=True)
class FirstUpdate:
    """Size of AdamW's first update after the growth, in learning rates: median and largest entry."""

    median: float
    largest: float


@dataclass(frozen=True)
class Report:
    """The result of `verify`."""

    model_type: str
    dtype: str
    loss_small: float
    loss_large: float
    function_error: float
    promised: bool
    gradient: tuple[TensorLaw, ...]
    gradient_error: float
    gradient_promised: bool
    escape_start: float | None
    escape: float | None
    """None where it is not defined: nothing grows in width, or weights are sums of several."""
    steps: int
    losses_small: tuple[float, ...]
    losses_large: tuple[float, ...]
    moment_norms: Mapping[str, tuple[float, float]]
    first_update: Mapping[str, FirstUpdate]
    tolerance: float
    gradient_tolerance: float | None
    """None in half precision, whose rounding alone moves gradients by 1 to 30 %: there they are shown, and not judged."""
    matches_plan: bool
    findings: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def function_kept(self) -> bool:
        """Whether the loss is the same within rounding."""
        return self.function_error <= self.tolerance

    @property
    def gradient_kept(self) -> bool | None:
        """Whether the gradient law holds within rounding; None where half precision cannot tell."""
        return None if self.gradient_tolerance is None else self.gradient_error <= self.gradient_tolerance

    @property
    def passed(self) -> bool:
        """Whether everything that the operators promise holds, and the state is what its plan says."""
        return (
            (self.function_kept or not self.promised)
            and self.matches_plan
            and (self.gradient_kept is not False or not self.gradient_promised)
        )

    @property
    def verdict(self) -> str:
        """What the numbers mean, in a sentence or two."""
        parts = []
        if self.function_kept:
            parts.append(
                f"The large model computes the same function (relative loss gap {self.function_error:.1e})"
            )
        elif self.promised:
            parts.append(
                f"BROKEN: the function should be kept, but the loss moves by {self.function_error:.1e}"
            )
        else:
            parts.append(
                f"The function changes, as this operator does (loss {self.loss_small:.3f} → {self.loss_large:.3f})"
            )
        if self.gradient_kept:
            parts.append("its gradients are the small model's, transported, so the moments are exact")
        elif self.gradient_promised and self.gradient_kept is None:
            parts.append(
                f"gradients should be transports and differ by {self.gradient_error:.1e}, which half precision alone can do"
                " (float64 tells)"
            )
        elif self.gradient_promised:
            parts.append(f"BROKEN: gradients should be transports, but differ by {self.gradient_error:.1e}")
        else:
            parts.append(
                f"gradients differ from their transport by up to {self.gradient_error:.1e}, so moments are approximate"
            )
        if self.escape is not None and self.escape < CAGED:
            parts.append("but copies stay equal: the new capacity is caged; use noise or another operator")
        elif self.escape is not None:
            parts.append(
                f"and copies part: {self.escape:.1%} of the weights lie outside the small subspace after {self.steps} steps"
            )
        if not self.matches_plan:
            parts.append("THE SAVED WEIGHTS ARE NOT WHAT THEIR LINEAGE SAYS (trained since, or damaged)")
        return "; ".join(parts) + "."

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **asdict(self),
            "function_kept": self.function_kept,
            "gradient_kept": self.gradient_kept,
            "passed": self.passed,
            "verdict": self.verdict,
        }
