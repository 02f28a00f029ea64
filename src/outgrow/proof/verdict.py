"""What a proof measured, what of it holds, and what that means in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

from outgrow.text.numbers import counted
from outgrow.text.table import TextTable

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


_WORST = 6
"""Tensors that a proof names in a table, and in its verdict."""


@dataclass(frozen=True, repr=False)
class Report:
    """The result of `verify`; `print` shows its verdict and its numbers."""

    model_type: str
    dtype: str
    loss_small: float
    loss_large: float
    function_error: float
    promised: bool
    tolerance: float
    unlike: tuple[str, ...]
    """What of the large state is not what its lineage says, as `weight of NAME`."""
    findings: tuple[Mapping[str, Any], ...]
    steps: int = 0
    """0: the function alone, of one model after the other. All below is measured with steps."""
    gradient: tuple[TensorLaw, ...] = ()
    gradient_error: float = 0.0
    gradient_promised: bool = False
    gradient_tolerance: float | None = None
    """None in half precision, whose rounding alone moves gradients by 1 to 30 %: there they are shown, and not judged."""
    escape_start: float | None = None
    escape: float | None = None
    """None where it is not defined: nothing grows in width, or weights are sums of several."""
    losses_small: tuple[float, ...] = ()
    losses_large: tuple[float, ...] = ()
    moment_norms: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    first_update: Mapping[str, FirstUpdate] = field(default_factory=dict)
    experts: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Of experts that grew, at the start and after the steps: how far copies are from their mean (`spread`), the highest and
    lowest load of an expert (1 is even), the share without a token (`idle`)."""
    stored: str = ""
    """In which dtype the weights of the large state are; `dtype` is the one that the proof computes in."""
    data: str = ""
    """What the losses were measured on."""
    moments: str = ""
    """How the optimizer's moments grew; empty where there are none."""

    @property
    def function_kept(self) -> bool:
        """Whether the loss is the same within rounding."""
        return self.function_error <= self.tolerance

    @property
    def matches_plan(self) -> bool:
        """Whether the large state is, bit for bit, what its lineage says."""
        return not self.unlike

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
        if not self.steps:
            parts.append("gradients were not looked at")
        elif self.gradient_kept:
            parts.append("its gradients are the small model's, transported" + self._moments("exact"))
        elif self.gradient_promised and self.gradient_kept is None:
            parts.append(
                f"gradients should be transports and differ by {self.gradient_error:.1e}, which half precision alone can do"
                " (float64 tells)"
            )
        elif self.gradient_promised:
            parts.append(f"BROKEN: gradients should be transports, but differ by {self.gradient_error:.1e}")
        else:
            parts.append(
                f"gradients differ from their transport by up to {self.gradient_error:.1e}{self._moments('approximate')}"
            )
        if self.escape is not None and self.escape < CAGED:
            parts.append("but copies stay equal: the new capacity is caged; use noise or another operator")
        elif self.escape is not None:
            parts.append(
                f"and copies part: {self.escape:.1%} of the weights lie outside the small subspace after {counted(self.steps, 'step')}"
            )
        if self.experts:
            spread, low, high = (self.experts[name][1] for name in ("spread", "load_min", "load_max"))
            parts.append(
                f"copies of experts are {spread:.1%} from their mean after {counted(self.steps, 'step')}, with loads from {low:.2f} to"
                f" {high:.2f} of an even one"
            )
        if not self.matches_plan:
            listed = ", ".join(self.unlike[:_WORST])
            more = f" and {len(self.unlike) - _WORST} more" * (len(self.unlike) > _WORST)
            parts.append(
                f"THE SAVED STATE IS NOT WHAT ITS LINEAGE SAYS (trained since, edited or damaged): {listed}{more}"
            )
        return "; ".join(parts) + "."

    def table(self) -> TextTable:
        """The numbers of the proof, and the tensors whose gradients are farthest from their transport."""
        promised = f"≤ {self.tolerance:g}" if self.promised else "changes, as this operator does"
        rows = [
            ("loss, small → large", f"{self.loss_small:.9f} → {self.loss_large:.9f}", ""),
            ("function error", f"{self.function_error:.1e}", promised),
        ]
        if self.steps:
            rows.append(
                ("gradient-law error, worst tensor", f"{self.gradient_error:.1e}", self._wanted_law())
            )
            rows += [(f"  {one.name}", f"{one.error:.1e}", "") for one in self.gradient[:_WORST]]
        if self.escape is not None:
            what = f"escape, at growth → after {counted(self.steps, 'step')}"
            rows.append((what, f"{self.escape_start:.2%} → {self.escape:.2%}", "> 0"))
        rows += [
            (
                f"experts: {name}, at growth → after {counted(self.steps, 'step')}",
                f"{before:.3g} → {after:.3g}",
                "",
            )
            for name, (before, after) in self.experts.items()
        ]
        if self.steps:
            ends = f"{self.losses_small[-1]:.4f} and {self.losses_large[-1]:.4f}"
            rows.append((f"loss after {counted(self.steps - 1, 'step')}, small and large", ends, ""))
        for slot, (small, large) in self.moment_norms.items():
            if small or large:
                rows.append((f"norm of {slot}, small → large", f"{small:.4g} → {large:.4g}", ""))
        for kind, size in self.first_update.items():
            what = f"first update of {kind} entries (median, largest)"
            wanted = "about as old entries" if kind == "new" else ""
            rows.append((what, f"{size.median:.2f}, {size.largest:.2f} lr", wanted))
        stored = f", weights stored in {self.stored}" if self.stored else ""
        heading = f"proof of a {self.model_type}, computed in {self.dtype}{stored}"
        note = f"Data: {self.data}." if self.data else ""
        return TextTable(heading, ("what", "measured", "wanted"), rows, note, numbers=False)

    def _moments(self, how: str) -> str:
        """What follows for moments, where they follow the law of the gradients."""
        return f", so the moments are {how}" * (self.moments == "transport")

    def _wanted_law(self) -> str:
        if not self.gradient_promised:
            return "not promised"
        if self.gradient_tolerance is None:
            return "not judged in half precision"
        return f"≤ {self.gradient_tolerance:.0e}"

    def __repr__(self) -> str:
        return f"Report({self.model_type}, {'passed' if self.passed else 'FAILED'}: {self.verdict})"

    def __str__(self) -> str:
        return f"{self.verdict}\n{self.table()}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.verdict)}</p>{self.table()._repr_html_()}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **asdict(self),
            "matches_plan": self.matches_plan,
            "function_kept": self.function_kept,
            "gradient_kept": self.gradient_kept,
            "passed": self.passed,
            "verdict": self.verdict,
        }
