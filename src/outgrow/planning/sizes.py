"""Candidates of a plan: what each one costs, how the law counts it, and which growths lead from one to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from outgrow.cost.flops import training_flops_per_token
from outgrow.errors import ConfigError, OutgrowError
from outgrow.files.mistakes import explain
from outgrow.models.architecture import resolve
from outgrow.planning.config import CandidateConfig, OperatorConfig, PlanConfig
from outgrow.planning.curves import ParameterCount, law_parameters
from outgrow.planning.stages import OperatorCost
from outgrow.planning.stages.measured import MeasuredOperator
from outgrow.run.config import DataConfig

KINDS = ("depth", "width", "both")


@dataclass(frozen=True)
class Candidate:
    """A size: `parameters` as the law counts them; `fields` is its `model` section, where it has one."""

    name: str
    parameters: float
    flops_per_token: float
    fields: Mapping[str, Any] | None = field(default=None, hash=False)


def planned_candidates(plan: PlanConfig) -> tuple[Candidate, ...]:
    """All candidates in order of cost."""
    if plan.series is not None:
        numbers = np.geomspace(plan.series.smallest, plan.series.largest, plan.series.count)
        return tuple(_by_number(f"{number:.4g}", float(number)) for number in numbers)
    data = planned_data(plan)
    found = [
        _by_number(one.name, float(one.parameters))
        if one.parameters is not None
        else _by_sizes(plan, place, one, data)
        for place, one in enumerate(plan.candidates)
    ]
    return tuple(sorted(found, key=lambda one: (one.flops_per_token, one.parameters)))


def planned_data(plan: PlanConfig) -> DataConfig:
    """The plan's data as far as a token's FLOPs depend on it: the length of sequences, and how much of them is hidden."""
    data = (plan.run or {}).get("data")
    known = data if isinstance(data, Mapping) else {}
    own = {key: known[key] for key in ("sequence_length", "mask_share") if key in known}
    if plan.sequence_length is not None:
        own["sequence_length"] = plan.sequence_length
    try:
        return DataConfig.model_validate(own)
    except ValidationError as error:
        raise ConfigError(explain(error, own, "run.data", DataConfig)) from None


def _by_number(name: str, parameters: float) -> Candidate:
    return Candidate(name, parameters, 6 * parameters)


def _by_sizes(plan: PlanConfig, place: int, one: CandidateConfig, data: DataConfig) -> Candidate:
    assert plan.model is not None
    assert one.sizes is not None
    fields = {**plan.model, **one.sizes}
    try:
        if "vocab_size" not in fields:
            raise ConfigError("model.vocab_size is missing: the head's cost depends on it")
        count: ParameterCount = plan.law.count
        flops = training_flops_per_token(fields, data.sequence_length, data.mask_share)
        return Candidate(one.name, law_parameters(fields, count), flops, fields)
    except OutgrowError as error:
        raise type(error)(f"candidates.{place} ({one.name}): {error}") from None


def growths(
    plan: PlanConfig, sizes: Sequence[Candidate], measured: Mapping[str, MeasuredOperator]
) -> tuple[tuple[OperatorCost, ...], NDArray[np.int64]]:
    """The operators of the plan, and which one leads from each size to each larger one (-1: none)."""
    costs = [getattr(plan.operators, kind) for kind in KINDS]
    operators = tuple(
        measured[kind].operator(kind)
        if kind in measured
        else OperatorCost(kind, one.loss_gap, float(one.lost_tokens), one.flops)
        for kind, one in zip(KINDS, costs, strict=True)
    )
    table = np.full((len(sizes), len(sizes)), -1)
    for i, small in enumerate(sizes):
        for j in range(i + 1, len(sizes)):
            kind = what_grows(small, sizes[j])
            if kind is not None and not _too_far(costs[KINDS.index(kind)], small, sizes[j]):
                table[i, j] = KINDS.index(kind)
    return operators, table


def _too_far(cost: OperatorConfig, small: Candidate, large: Candidate) -> bool:
    factor = large.parameters / small.parameters
    return cost.largest_factor is not None and factor > cost.largest_factor * (1 + 1e-9)


def what_grows(small: Candidate, large: Candidate) -> str | None:
    """`depth`, `width` or `both`; None where a size would shrink or nothing grows."""
    if small.fields is None or large.fields is None:
        return "both" if large.parameters > small.parameters else None
    return kind_of_growth(small.fields, large.fields)


def kind_of_growth(small: Mapping[str, Any], large: Mapping[str, Any]) -> str | None:
    """The same for two configs."""
    before, after = resolve(small), resolve(large)
    names = before.sizes.keys() & after.sizes.keys()
    if after.layers < before.layers or any(after.sizes[name] < before.sizes[name] for name in names):
        return None
    wider = any(after.sizes[name] > before.sizes[name] for name in names)
    deeper = after.layers > before.layers
    return {(True, True): "both", (True, False): "width", (False, True): "depth"}.get((wider, deeper))
