"""Whether the operators of a run can grow one candidate to another: asked of the library itself, without weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outgrow.data.needs import TextNeeds, model_config
from outgrow.engine.step import build_for_training
from outgrow.errors import OutgrowError
from outgrow.methods.build import DEPTH, WIDTH
from outgrow.methods.options import GrowthOptions
from outgrow.methods.registry import find
from outgrow.models.architecture import resolve
from outgrow.models.model import Model
from outgrow.planning.config import PlanConfig
from outgrow.planning.sizes import Candidate, planned_data
from outgrow.state.asked import plan_options
from outgrow.state.training_state import TrainingState


def check_operators(plan: PlanConfig) -> None:
    """Raises `OutgrowError` for a `grow` that no growth can follow: a plan would take a misspelt operator for one that refuses."""
    if plan.grow.width is not None:
        find(plan.grow.width, "width", WIDTH)
    find(plan.grow.depth, "depth", DEPTH)


def targets(small: Mapping[str, Any], large: Mapping[str, Any]) -> dict[str, Any]:
    """The config fields that change, with their new values: the `to` of a growth."""
    return {name: value for name, value in large.items() if small.get(name) != value}


def refusal(plan: PlanConfig, small: Candidate, large: Candidate) -> str | None:
    """Why the growth cannot be, in one line; None where it can, or where candidates are numbers alone."""
    if small.fields is None or large.fields is None:
        return None
    try:
        content = model_config(
            dict(small.fields),
            TextNeeds(int(small.fields["vocab_size"]), planned_data(plan).sequence_length, 0),
        )
        config = TrainingState.from_model(build_for_training(content, "meta")).config
        options = GrowthOptions(width=plan.grow.width, depth=plan.grow.depth)
        grown = plan_options(config, targets(small.fields, large.fields), options)
    except OutgrowError as error:
        return " ".join(str(error).split())
    return _difference(grown.large, resolve(large.fields))


def _difference(grown: Model, wanted: Model) -> str | None:
    """Sizes that a growth keeps and the candidate has otherwise: of heads, where a config does not give them."""
    names = [name for name in wanted.sizes if grown.sizes.get(name) != wanted.sizes[name]]
    if not names:
        return None
    listed = ", ".join(f"{name} {grown.sizes.get(name)}, not {wanted.sizes[name]}" for name in names)
    return f"the growth ends in another model: {listed}; give candidates that differ only in what grows"
