"""A plan as plain data, for JSON: numbers with their units in the names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from outgrow.planning.cautions import plan_cautions
from outgrow.planning.laws import Interval
from outgrow.planning.plan_law import SizeLaw
from outgrow.planning.stages import OperatorCost, StagePath
from outgrow.planning.stages.measured import PilotCost
from outgrow.planning.worked import WorkedPlan


def summary(worked: WorkedPlan) -> dict[str, Any]:
    """Everything that the table and the picture show."""
    return {
        "target": worked.plan.target.model_dump(exclude_none=True),
        "law": law_summary(worked.law),
        "operators": [_operator(worked, one) for one in worked.problem.operators],
        "schedules": [
            {
                **_path(worked, path),
                "saving": worked.saving(place),
                "saving_interval": _interval(worked.savings[place]),
                "baseline_flops": worked.baselines[place].total_flops,
                "baseline_size": worked.candidates[worked.baselines[place].sizes[0]].name,
            }
            for place, path in enumerate(worked.paths)
        ],
        "chosen_stages": len(worked.path.sizes),
        "sensitivity": [
            {"switch": place, "token_factor": factors.tolist(), "compute_ratio": _finite(costs.tolist())}
            for place, (factors, costs) in enumerate(worked.sensitivity())
        ],
        "rules": [asdict(row) for row in worked.rules],
        "warnings": list(plan_cautions(worked)),
    }


def law_summary(law: SizeLaw) -> dict[str, Any]:
    """The law, its constants with intervals, its quality and the range of its data."""
    return {
        "words": law.words,
        "ranges": {name: [one.low, one.high] for name, one in law.ranges.items()},
        "fits": [
            {
                "constants": {
                    name: _interval(fit.interval(lambda one, name=name: getattr(one, name)))  # type: ignore[misc]
                    for name in (field.name for field in fields(fit.law))
                },
                "quality": asdict(fit.quality),
            }
            for fit in law.fitted
        ],
        "curves": [
            {"source": c.source, "parameters": c.parameters, "points": len(c.tokens), "notes": list(c.notes)}
            for c in law.curves
        ],
    }


def _operator(worked: WorkedPlan, operator: OperatorCost) -> dict[str, Any]:
    """What is planned with, and where it was measured, what it was measured as."""
    measured = worked.measured.get(operator.name)
    numbers = {
        "growth": operator.name,
        **{name: value for name, value in asdict(operator).items() if name != "name"},
    }
    if measured is None:
        return {**numbers, "measured": None}
    return {
        **numbers,
        "measured": {
            "loss_gap": measured.loss_gap,
            "loss_gap_spread": measured.loss_gap_spread,
            "lost_tokens": measured.lost_tokens,
            "lost_tokens_spread": measured.lost_tokens_spread,
            "lost_tokens_last_half": list(measured.last_half),
            "flops": measured.flops,
            "pilots": [_pilot(one) for one in measured.pilots],
        },
    }


def _pilot(one: PilotCost) -> dict[str, Any]:
    return {
        "grown": one.source,
        "scratch": one.own,
        "loss_gap": one.loss_gap,
        "lost_tokens": one.lost_tokens,
        "readings": {"tokens_since_growth": one.tokens.tolist(), "lost_tokens": one.lost.tolist()},
        "notes": list(one.notes),
    }


def _path(worked: WorkedPlan, path: StagePath) -> dict[str, Any]:
    return {
        "flops": path.total_flops,
        "final_loss": path.losses[-1],
        "stages": [
            {
                "size": worked.candidates[place].name,
                "parameters": worked.candidates[place].parameters,
                "tokens": tokens,
                "flops": flops,
                "end_loss": loss,
                "batch_tokens": None if worked.law.batch is None else batch,
            }
            for place, tokens, flops, loss, batch in zip(
                path.sizes, path.tokens, path.flops, path.losses, worked.batches(path), strict=True
            )
        ],
    }


def _interval(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else asdict(interval)


def _finite(values: Sequence[float]) -> list[float | None]:
    """JSON has no infinity: a switch that never reaches the target is null."""
    return [value if value < float("inf") else None for value in values]
