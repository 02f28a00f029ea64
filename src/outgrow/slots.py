"""Weights and optimizer state use the same maps, with the roles of F and G swapped.

    weight       W' = F_o W G_iᵀ        gain'  = a · gain
    exp_avg      m' = G_o m F_iᵀ        gain m' = b · m
    exp_avg_sq   v' = G_o² v (F_i²)ᵀ    (squares elementwise)

This one table serves every operator and every architecture (DESIGN 2.1; checked in tests/battery).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from outgrow.axes import Role
from outgrow.linear import LinearMap
from outgrow.maps import AxisMap

Which = Literal["forward", "backward"]


@dataclass(frozen=True)
class Slot:
    """Which of an axis's two maps each role uses, and to which power."""

    name: str
    writes: Which
    reads: Which
    scales: Which
    power: Literal[1, 2] = 1

    def map(self, axis: AxisMap, role: Role) -> LinearMap:
        """The map of one dimension."""
        which = {"writes": self.writes, "reads": self.reads, "scales": self.scales}[role]
        chosen = axis.forward if which == "forward" else axis.backward
        return chosen if self.power == 1 else chosen.square()


WEIGHT = Slot("weight", "forward", "backward", "forward")
EXP_AVG = Slot("exp_avg", "backward", "forward", "backward")
EXP_AVG_SQ = Slot("exp_avg_sq", "backward", "forward", "backward", power=2)

SLOTS: dict[str, Slot] = {slot.name: slot for slot in (WEIGHT, EXP_AVG, EXP_AVG_SQ)}

Moments = Literal["transport", "keep_zero", "copy", "parts", "reset"]
"""What becomes of Adam's moments: the exact law; old entries kept and new ones fresh; raw copies; the operator's parts; none."""
