"""Weights and optimizer state use the same maps, with the roles of F and G swapped.

    weight                     W' = F_o W G_iᵀ        gain'  = a · gain
    momentum                   m' = G_o m F_iᵀ        gain m' = b · m
    second moment              v' = G_o² v (F_i²)ᵀ    (squares elementwise)
    its factors v ≈ r cᵀ / mean r        r' = κ_c G_o² r,   c' = κ_r F_i² c     (docs/explanation/maths.md, Factored second moments)

This one table serves every operator, every architecture and every optimizer (docs/explanation/maths.md; checked in tests/battery).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from outgrow.algebra.axes import Role
from outgrow.algebra.linear import LinearMap
from outgrow.algebra.maps import AxisMap

Which = Literal["forward", "backward"]


@dataclass(frozen=True)
class Slot:
    """Which of an axis's two maps each role uses, to which power, and which of a weight's dimensions the slot has."""

    name: str
    writes: Which
    reads: Which
    scales: Which
    power: Literal[1, 2] = 1
    mean_over: Literal[-1, -2] | None = None
    """The dimension of the weight over which a factor holds the mean; None for a slot of the weight's own shape."""
    keeps_dim: bool = False
    """Whether a factor keeps the averaged dimension, with one unit in it."""
    partner: str | None = None
    """The other factor."""

    def map(self, axis: AxisMap, role: Role) -> LinearMap:
        """The map of one dimension."""
        which = {"writes": self.writes, "reads": self.reads, "scales": self.scales}[role]
        chosen = axis.forward if which == "forward" else axis.backward
        return chosen if self.power == 1 else chosen.square()

    def dims(self, rank: int) -> tuple[int | None, ...]:
        """The weight's dimension that each dimension of the slot is; None for a single unit.

        >>> ROW_VAR.dims(2), EXP_AVG_SQ_COL.dims(2), MOMENTUM.dims(1)
        ((0, None), (1,), (0,))
        """
        if self.mean_over is None:
            return tuple(range(rank))
        averaged = rank + self.mean_over
        found = (None if dim == averaged else dim for dim in range(rank))
        return tuple(dim for dim in found if self.keeps_dim or dim is not None)

    def shape(self, weight: tuple[int, ...]) -> tuple[int, ...]:
        """The slot's shape for a weight of this shape.

        >>> COL_VAR.shape((3, 5))
        (1, 5)
        """
        return tuple(1 if dim is None else weight[dim] for dim in self.dims(len(weight)))

    @property
    def law(self) -> tuple[object, ...]:
        """Slots with equal laws grow by the same recipes."""
        return (self.writes, self.reads, self.scales, self.power, self.mean_over, self.keeps_dim)


WEIGHT = Slot("weight", "forward", "backward", "forward")
EXP_AVG = Slot("exp_avg", "backward", "forward", "backward")
EXP_AVG_SQ = Slot("exp_avg_sq", "backward", "forward", "backward", power=2)
MOMENTUM = Slot("momentum_buffer", "backward", "forward", "backward")
VARIANCE = Slot("variance", "backward", "forward", "backward", power=2)


def _factor(name: str, mean_over: Literal[-1, -2], partner: str, *, keeps_dim: bool) -> Slot:
    return Slot(name, "backward", "forward", "backward", 2, mean_over, keeps_dim, partner)


ROW_VAR = _factor("row_var", -1, "col_var", keeps_dim=True)
COL_VAR = _factor("col_var", -2, "row_var", keeps_dim=True)
EXP_AVG_SQ_ROW = _factor("exp_avg_sq_row", -1, "exp_avg_sq_col", keeps_dim=False)
EXP_AVG_SQ_COL = _factor("exp_avg_sq_col", -2, "exp_avg_sq_row", keeps_dim=False)

SLOTS: dict[str, Slot] = {
    slot.name: slot
    for slot in (
        WEIGHT,
        EXP_AVG,
        EXP_AVG_SQ,
        MOMENTUM,
        VARIANCE,
        ROW_VAR,
        COL_VAR,
        EXP_AVG_SQ_ROW,
        EXP_AVG_SQ_COL,
    )
}
MOMENTS = tuple(name for name in SLOTS if name != "weight")
"""Every slot that some optimizer keeps."""

Moments = Literal["transport", "cautious", "keep_zero", "copy", "parts", "reset"]
"""What becomes of an optimizer's moments: the exact law; the same, with experts' second moments as noise has them; old
entries kept and new ones fresh; raw copies; as the operator's parts; none."""
