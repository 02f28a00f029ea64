"""When to grow: the sizes and switch points with the least total compute, and the published rules on the same numbers.

    compute = sum over stages of FLOPs per token * tokens            small models included, growth itself included

(What a run file calls stages, and trains, is `outgrow.training.stage_plans`; this package only computes.)
"""

from outgrow.planning.stages.optimal import best_for_flops, best_for_loss
from outgrow.planning.stages.paths import StagePath, loss_along, replay_path, sensitivity
from outgrow.planning.stages.problem import LOSS_PRESERVING, OperatorCost, Problem, Size
from outgrow.planning.stages.rules import (
    SHEN_RULES,
    PracticalPoints,
    ShenRule,
    gstack_tokens,
    late_switch_tokens,
    practical_points,
    slopes,
)

__all__ = [
    "LOSS_PRESERVING",
    "SHEN_RULES",
    "OperatorCost",
    "PracticalPoints",
    "Problem",
    "ShenRule",
    "Size",
    "StagePath",
    "best_for_flops",
    "best_for_loss",
    "gstack_tokens",
    "late_switch_tokens",
    "loss_along",
    "practical_points",
    "replay_path",
    "sensitivity",
    "slopes",
]
