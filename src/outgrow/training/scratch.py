"""The baseline of a staged run: its last model from scratch, for the same FLOPs.

tokens = C / c        C: FLOPs of all stages together, c: FLOPs per token of the last one
"""

from __future__ import annotations

from outgrow.errors import ConfigError
from outgrow.run.config import RunConfig
from outgrow.run.run_file import parse_run
from outgrow.training.result import RunResult


def scratch_twin(run: RunConfig, staged: RunResult, output: str) -> RunConfig:
    """The run that trains the large model of a finished staged run from fresh weights, for what the whole of it cost.

    Data, seed and schedule are those of `run`; batch, length, precision and optimizer those of its last stage: nothing is
    tuned anew. Raises ConfigError where the run begins from a checkpoint, whose cost nobody knows.
    """
    if run.model is None:
        raise ConfigError(
            "a run that begins from a checkpoint has no twin from scratch",
            fix="compare with `outgrow compare`",
        )
    model = dict(run.model)
    for stage in run.stages:
        if stage.distil is not None:
            model = dict(stage.distil.into)
        elif stage.grow is not None:
            model |= dict(stage.grow.to)
    last = staged.stages[-1]
    flops = sum(stage.flops for stage in staged.stages)
    own, size = run.stages[-1], run.at(len(run.stages) - 1).tokens_per_step
    steps = max(1, round(flops / (last.flops / last.tokens) / size))
    reading = own.model_dump(mode="json", include={"data", "batch", "precision", "optimizer"})
    stages = [{"name": "scratch", "tokens": steps * size, **reading}]
    return parse_run({**run.resolved(), "model": model, "stages": stages, "output": output})
