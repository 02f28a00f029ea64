"""The `run.yaml` of a plan: its sizes, growths and tokens as stages of a run."""

from __future__ import annotations

from typing import Any

from outgrow.errors import ConfigError
from outgrow.planning.growable import targets
from outgrow.planning.worked import WorkedPlan
from outgrow.run.config import RunConfig
from outgrow.run.run_file import parse_run


def planned_run(worked: WorkedPlan) -> RunConfig:
    """The schedule as a run that `outgrow train` does as it is; raises `ConfigError` for what the plan file lacks."""
    if worked.plan.run is None:
        raise ConfigError(
            "no run.yaml can be written: the plan has no section run",
            fix="add run: {output: ..., data: ..., optimizer: ...}, the keys of run.yaml besides model and stages",
        )
    places = worked.path.sizes
    chosen = [worked.candidates[place] for place in places]
    if chosen[0].fields is None:
        raise ConfigError(
            "no run.yaml can be written: candidates are numbers of parameters alone",
            fix="give candidates by sizes, with a common model",
        )
    stages: list[dict[str, Any]] = []
    for place, (one, tokens) in enumerate(zip(chosen, worked.path.tokens, strict=True)):
        stage: dict[str, Any] = {"name": one.name, "tokens": max(1, round(tokens))}
        if place:
            before = chosen[place - 1].fields
            assert before is not None
            assert one.fields is not None
            stage["grow"] = {"to": targets(before, one.fields), **worked.plan.grow}
            if worked.plan.reentry is not None:
                stage["reentry"] = worked.plan.reentry.model_dump(mode="json", exclude_unset=True)
        stages.append(stage)
    data = {**worked.plan.run, "model": dict(chosen[0].fields), "stages": stages}
    data.setdefault("output", "runs/plan")
    return parse_run(data, where="the plan's run.yaml")
