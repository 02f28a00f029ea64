"""The `run.yaml` of a plan: its sizes, growths and tokens as stages of a run, in micro-batches that fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, gcd, log2
from typing import Any

from outgrow.errors import ConfigError
from outgrow.planning.config import PlanConfig
from outgrow.planning.growable import targets
from outgrow.planning.sizes import planned_data
from outgrow.planning.worked import WorkedPlan
from outgrow.run.config import RunConfig
from outgrow.run.run_file import parse_run
from outgrow.text.numbers import amount

_NEAR = 0.1
"""As a share of the law's batch: nearer than anybody can measure it."""


def planned_run(worked: WorkedPlan) -> tuple[RunConfig, tuple[str, ...]]:
    """The schedule as a run that `outgrow train` does as it is, and what there is to say of how it fits this machine.

    Raises `ConfigError` for what the plan file lacks.
    """
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
        if worked.law.batch is not None:
            stage |= _whole_steps(tokens, worked.batches(worked.path)[place], worked.plan)
        if place:
            before = chosen[place - 1].fields
            assert before is not None
            assert one.fields is not None
            stage["grow"] = worked.plan.grow.reaching(targets(before, one.fields))
            if worked.plan.reentry is not None:
                stage["reentry"] = worked.plan.reentry.model_dump(mode="json", exclude_unset=True)
        stages.append(stage)
    data = {**worked.plan.run, "model": dict(chosen[0].fields), "stages": stages}
    data.setdefault("output", "runs/plan")
    if worked.law.batch is not None:
        data["batch"] = {**(data.get("batch") or {}), **stages[0]["batch"]}
    run = parse_run(data, where="the plan's run.yaml")
    fields = [one.fields for one in chosen if one.fields is not None]
    micro_batch, notes = _fitted(run, fields)
    notes = (*notes, *_departures(run, worked))
    if micro_batch is None:
        return run, notes
    return parse_run({**data, "batch": {**data.get("batch", {}), "micro_batch": micro_batch}}), notes


def _whole_steps(tokens: float, batch_tokens: float, plan: PlanConfig) -> dict[str, Any]:
    """A stage's `tokens` and `batch`: whole sequences, and micro-batches where the run has some, nearest to the law's batch;
    without micro-batches a multiple of a power of two, within a thirty-second of it, so that stages have micro-batches in common."""
    length, given = planned_data(plan).sequence_length, (plan.run or {}).get("batch") or {}
    least = given.get("micro_batch") or 2 ** max(0, floor(log2(max(1.0, batch_tokens / length))) - 4)
    sequences = least * max(1, round(batch_tokens / (length * least)))
    step = sequences * length
    return {"tokens": step * max(1, round(tokens / step)), "batch": {"sequences": sequences}}


def _departures(run: RunConfig, worked: WorkedPlan) -> tuple[str, ...]:
    """Stages whose step is further than a tenth from the law's batch."""
    if worked.law.batch is None:
        return ()
    steps = [run.at(place).tokens_per_step for place in range(len(run.stages))]
    return tuple(
        f"size {stage.name}: a step has {amount(step)} tokens, where the law has {amount(batch)}: give run.batch a smaller "
        "micro_batch, or shorter sequences"
        for stage, step, batch in zip(run.stages, steps, worked.batches(worked.path), strict=True)
        if abs(step / batch - 1) > _NEAR
    )


def _fitted(run: RunConfig, models: Sequence[Mapping[str, Any]]) -> tuple[int | None, tuple[str, ...]]:
    """The micro-batch to write, where the whole batch of a stage does not fit into this machine and none is given.

    All stages have it: the micro-batch of the run is that of its validation, too.
    """
    import torch

    from outgrow.engine.memory import device_memory, fitting_sequences
    from outgrow.engine.step import choose_device

    if run.device == "cuda" and not torch.cuda.is_available():
        return None, ("the run wants cuda, which this machine has not: whether its batch fits is not known",)
    device = choose_device(run)
    has = f"of the {device_memory(device) / 1e9:.0f} GB of this machine's {device.name}"
    fitting = [fitting_sequences(run.at(place), config, device) for place, config in enumerate(models)]
    least = min(range(len(models)), key=fitting.__getitem__)
    size, given = run.stages[least].name, run.at(least).batch.at_once
    if fitting[least] >= given:
        return None, ()
    if not fitting[least]:
        note = f"size {size}: not one sequence fits 80 % {has}; train it on more ranks or a larger machine"
        return (1 if run.batch.micro_batch is None else None), (note,)
    if run.batch.micro_batch is not None:
        return None, (f"size {size}: micro_batch {given} is too large for 80 % {has}; {fitting[least]} fits",)
    common = gcd(*(run.at(place).batch.sequences for place in range(len(models))))
    found = max(part for part in range(1, min(fitting[least], common) + 1) if common % part == 0)
    return found, (
        f"micro_batch {found}: of size {size}, so many sequences at once fit 80 % {has}, not all {given}",
    )
