"""An arm that is a run file, such as `outgrow plan --run` writes: `planned: {run: planned.yaml}`.

run.yaml                                 the arm
model                                    model
stages, each with tokens                 stages, the last without tokens
tokens of the last stage                 budgets, if the arm has none of its own
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outgrow.errors import ConfigError, told_of
from outgrow.files.reading import expanded
from outgrow.run.config import StageConfig
from outgrow.run.run_file import load_run


def with_run_files(study: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The study with every arm's `run` replaced by the model, stages and budgets of that file.

    Data, optimizer, schedule and seed are those of the study, but for what a stage has of its own: an arm is one way to train
    what all arms train on.
    Raises `ConfigError` for a file that is no run or that begins with a checkpoint.
    """
    arms = study.get("arms")
    if not isinstance(arms, Mapping):
        return dict(study)
    read = {
        name: _read(arm, f"{where}: arms.{name}") if isinstance(arm, Mapping) and "run" in arm else arm
        for name, arm in arms.items()
    }
    return {**study, "arms": read}


def _read(arm: Mapping[str, Any], where: str) -> dict[str, Any]:
    others = [key for key in arm if key not in ("run", "budgets")]
    if not isinstance(arm["run"], str) or others:
        raise ConfigError(
            f"{where}: run names a file that has the arm's model and stages",
            got=f"run: {arm['run']!r}" + "".join(f" and {key}" for key in others),
            expected="run: FILE, and budgets at most",
        )
    with told_of(f"{where}.run"):
        run = load_run(expanded(arm["run"]))
    if run.model is None:
        raise ConfigError(
            f"{where}.run: {arm['run']} begins with a checkpoint, whose compute nobody counted",
            expected="a run with a model of its own",
        )
    stages = [_stage(stage) for stage in run.stages]
    last = stages[-1].pop("tokens")
    return {"model": run.model, "stages": stages, "budgets": arm.get("budgets", [last])}


def _stage(stage: StageConfig) -> dict[str, Any]:
    """What a stage says, without what is usual: most of it is no word of an arm."""
    said = stage.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"name"})
    if stage.grow is not None and stage.grow.learn is not None:
        said["grow"]["moments"] = stage.grow.moments  # a learned operator has another default
    return said
