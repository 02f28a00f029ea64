"""The published rules on the plan's own sizes and curves: where each would switch, and what that would save."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from outgrow.errors import ConfigError
from outgrow.planning.stages import (
    SHEN_RULES,
    Problem,
    StagePath,
    gstack_tokens,
    late_switch_tokens,
    replay_path,
)
from outgrow.planning.stages.rules import GSTACK_FACTOR, first_at_slope


@dataclass(frozen=True)
class RuleRow:
    """A rule's schedule of two stages; or, where it gives none here, why."""

    rule: str
    small: str
    switch_tokens: float | None
    saving: float | None
    why_not: str | None


def rule_rows(
    problem: Problem, paths: Sequence[StagePath], baseline: StagePath, mixing_tokens: float | None
) -> tuple[RuleRow, ...]:
    """Shen et al.'s PRE-GROWTH, G_stack and the late switch, all to the size and loss of the baseline."""
    large, loss = baseline.sizes[-1], baseline.losses[-1]
    smaller = [i for i in range(large) if problem.operator_of[i, large] >= 0]
    if not smaller:
        return ()
    logs = np.log([problem.sizes[i].parameters for i in smaller])
    size = float(np.log(problem.sizes[large].parameters))

    def near(factor: float) -> int:
        return smaller[int(np.argmin(np.abs(size - logs - np.log(factor))))]

    optimum = next((p.sizes[0] for p in paths if len(p.sizes) == 2 and p.sizes[1] == large), near(4))
    ratio = float(np.exp(size - np.log(problem.sizes[optimum].parameters)))
    kind = min(SHEN_RULES, key=lambda name: abs(np.log(SHEN_RULES[name].parameter_factor / ratio)))
    rows = [_shen(problem, optimum, large, loss, baseline, kind)]
    four = near(GSTACK_FACTOR)
    tokens = gstack_tokens(problem.sizes[large].parameters, baseline.total_flops)
    rows.append(
        _row(problem, "G_stack: early, factor 4 (arXiv 2405.15319)", four, large, loss, baseline, tokens)
    )
    late = late_switch_tokens(baseline.total_tokens, mixing_tokens)
    words = "0.8 T" if mixing_tokens is None else "T less the mixing time"
    rows.append(_row(problem, f"late: {words} (arXiv 2511.04981)", optimum, large, loss, baseline, late))
    return tuple(rows)


def _shen(problem: Problem, small: int, large: int, loss: float, baseline: StagePath, kind: str) -> RuleRow:
    rule = f"PRE-GROWTH, slope {SHEN_RULES[kind].slope} for {kind} (arXiv 2203.06211)"
    chosen = problem.sizes[small]
    compute = np.geomspace(1e-5, 1e3, 6000) * baseline.total_flops
    try:
        flops, _ = first_at_slope(
            compute,
            problem.end_loss(small, 0, compute / chosen.flops_per_token),
            SHEN_RULES[kind].slope,
            rule,
        )
    except ConfigError:
        return RuleRow(rule, chosen.name, None, None, "its curve never rises to this slope")
    return _row(problem, rule, small, large, loss, baseline, flops / chosen.flops_per_token)


def _row(
    problem: Problem, rule: str, small: int, large: int, loss: float, baseline: StagePath, tokens: float
) -> RuleRow:
    name = problem.sizes[small].name
    if tokens * problem.sizes[small].flops_per_token > baseline.total_flops:
        return RuleRow(rule, name, tokens, None, "its first stage alone costs more than the baseline")
    staged = replay_path(problem, (small, large), (tokens,), loss)
    if not np.isfinite(staged.total_flops):
        already = float(problem.end_loss(small, 0, tokens)) <= loss
        why = "by then it has the target loss" if already else "by then it is off the large size's curve"
        return RuleRow(rule, name, tokens, None, why)
    return RuleRow(rule, name, tokens, staged.saving(baseline), None)
