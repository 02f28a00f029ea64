"""An arm that is another arm's schedule from scratch: `fair: {schedule_of: grown}`.

model                                           that of the baseline, or its own
stages of `grown`, without what grows           stages: tokens, rates, lengths, batches, precisions, optimizer numbers
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outgrow.errors import ConfigError

OWN_STEPS = ("data", "batch", "precision", "optimizer")
"""What a stage of an arm may have of its own beside its model: what its steps read, and how they compute."""
_TAKEN = ("tokens", "rate", *OWN_STEPS)
"""What an arm with the schedule of another takes over of each of its stages."""


def with_schedules(study: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The study with every arm's `schedule_of` replaced by stages: those of the arm that it names, without what grows.

    The model is the baseline's, if the arm names none. Raises `ConfigError` for an arm that is not there, whose stages a
    trigger ends (so nobody knows its schedule), or that changes nothing but its model.
    """
    arms = study.get("arms")
    if not isinstance(arms, Mapping):
        return dict(study)
    return {
        **study,
        "arms": {
            name: _scheduled(study, arms, name, where)
            if isinstance(arm, Mapping) and "schedule_of" in arm
            else arm
            for name, arm in arms.items()
        },
    }


def _scheduled(study: Mapping[str, Any], arms: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    arm, place = arms[name], f"{where}: arms.{name}.schedule_of"
    if unknown := [key for key in arm if key not in ("schedule_of", "model", "budgets")]:
        raise ConfigError(
            f"{place}: the stages are those of the arm that it names",
            got=", ".join(map(str, unknown)),
            expected="schedule_of, and model and budgets at most",
        )
    wanted = arm["schedule_of"]
    source = arms.get(wanted) if isinstance(wanted, str) else None
    if not isinstance(source, Mapping) or "schedule_of" in source:
        others = [one for one, it in arms.items() if isinstance(it, Mapping) and "schedule_of" not in it]
        raise ConfigError(
            f"{place}: no such arm with stages", got=wanted, expected=f"one of {', '.join(map(str, others))}"
        )
    baseline = arms.get(str(study.get("baseline")))
    model = arm.get("model") or (baseline.get("model") if isinstance(baseline, Mapping) else None)
    if model is None:
        raise ConfigError(
            f"{place}: the model is the baseline's, and that has none",
            got=f"baseline: {study.get('baseline')}",
            expected=f"one of {', '.join(str(one) for one in arms if one != name)}",
        )
    stages = source.get("stages", [])
    if not isinstance(stages, list | tuple) or not all(isinstance(one, Mapping) for one in stages):
        return {"model": model}  # what is wrong with the stages is told of the arm that has them
    if any(stage.get("until") is not None for stage in stages):
        raise ConfigError(
            f"{place}: a trigger ends a stage of '{wanted}', so its schedule is not known beforehand",
            fix="give its stages tokens alone, or write out the stages of this arm",
        )
    if not any(stage.get(key) is not None for stage in stages for key in OWN_STEPS):
        raise ConfigError(
            f"{place}: '{wanted}' has no schedule: no stage of it has {', '.join(OWN_STEPS)} of its own",
            fix="leave this arm out: the baseline is what it would be",
        )
    own = [{key: stage[key] for key in _TAKEN if key in stage} for stage in stages]
    return {"model": model, "stages": own} | ({"budgets": arm["budgets"]} if "budgets" in arm else {})
