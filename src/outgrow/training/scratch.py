"""The baseline of a staged run: its last model from scratch, for the same FLOPs.

tokens = C / c        C: FLOPs of all stages together, c: FLOPs per token of the last one
"""

from __future__ import annotations

from outgrow.errors import ConfigError
from outgrow.files.reading import expanded
from outgrow.run.config import RunConfig
from outgrow.run.run_file import parse_run
from outgrow.state.operator_file import load_operator
from outgrow.training.result import RunResult


def check_twin(run: RunConfig) -> None:
    """Raise ConfigError, before any training, for a run that has no twin: it grows nothing, it begins from a checkpoint,
    whose cost nobody knows, or its model becomes another type."""
    grown = [stage.grow for stage in run.stages if stage.grow is not None]
    if run.model is None:
        what = "a run that begins from a checkpoint"
    elif any(growth.as_ is not None for growth in grown):
        what = "a run whose model becomes another type (grow.as)"
    elif not grown and all(stage.distil is None for stage in run.stages):
        what = "a run in which nothing grows"
    else:
        return
    raise ConfigError(f"{what} has no twin from scratch", fix="compare with `outgrow compare`")


def scratch_twin(run: RunConfig, staged: RunResult, output: str) -> RunConfig:
    """The run that trains the large model of a finished staged run from fresh weights, for what the whole of it cost.

    Data, seed and schedule are those of `run`; batch, length, precision and optimizer those of its last stage: nothing is
    tuned anew. Raises ConfigError as `check_twin`.
    """
    check_twin(run)
    assert run.model is not None
    model = dict(run.model)
    for stage in run.stages:
        if stage.distil is not None:
            model = dict(stage.distil.into)
        elif stage.grow is not None:
            fitted = stage.grow.operator  # whose sizes are its own
            model |= dict(stage.grow.to if fitted is None else load_operator(expanded(fitted)).to)
    last = staged.stages[-1]
    flops = sum(stage.flops for stage in staged.stages)
    own, size = run.stages[-1], run.at(len(run.stages) - 1).tokens_per_step
    steps = max(1, round(flops / (last.flops / last.tokens) / size))
    reading = own.model_dump(mode="json", include={"data", "batch", "precision", "optimizer"})
    stages = [{"name": "scratch", "tokens": steps * size, **reading}]
    return parse_run({**run.resolved(), "model": model, "stages": stages, "output": output})
