"""Whether the checkpoint that a run is to go on from is one of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outgrow.errors import ConfigError
from outgrow.files.reading import parse_json, read_text
from outgrow.models.architecture import resolve
from outgrow.run.config import RunConfig
from outgrow.run.run_file import parse_run
from outgrow.state.training_state import TrainingState
from outgrow.training.folder import differences

_LONGEST = 1 << 20
"""Bytes of a record: run files have less."""


def check_own(run: RunConfig, path: Path, state: TrainingState, config: Mapping[str, Any], step: int) -> None:
    """Raise ConfigError unless a state is what this run left at this step, a model of the stage that `config` describes."""
    found, expected = _facts(state.config), _facts(config)
    if found != expected:
        raise _foreign(path, f"{found}", f"{expected}")
    record = state.records.get("run")
    if step == 0 and path.name == "grown":
        return  # a run's first state may be grown from another's, and has its records
    if not isinstance(record, dict) or not isinstance(record.get("configuration"), dict):
        raise _foreign(path, "a state of no run", f"step {step}")
    if record.get("step") != step:
        raise _foreign(path, f"step {record.get('step')}", f"step {step}")
    _check_configuration(run, path, record["configuration"])


def check_finished(run: RunConfig, path: Path) -> None:
    """The same for a run that is done, by its records alone: its reports would tell of another configuration."""
    record = path / "run.json"
    content = parse_json(read_text(record, _LONGEST), str(record)) if record.is_file() else None
    if isinstance(content, dict) and isinstance(content.get("configuration"), dict):
        _check_configuration(run, path, content["configuration"])


def _check_configuration(run: RunConfig, path: Path, before: Mapping[str, Any]) -> None:
    """`run.yaml` in the run's folder may have been edited; what its states say of it was not."""
    then = parse_run(before, where=str(path)).resolved()  # with the defaults of keys that it is too old for
    if changed := differences(then, run.resolved()):
        raise _foreign(path, f"another configuration: {', '.join(changed[:5])}", "this run's")


def check_data_of_run(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ConfigError where the data are not those that a run began with; where they lie may have changed."""
    changed = [key for key in sorted({*before, *now} - {"description"}) if before.get(key) != now.get(key)]
    if changed:
        raise ConfigError(
            "the data is not what this run began with",
            got=", ".join(f"{key} {now.get(key)}" for key in changed),
            expected=", ".join(f"{key} {before.get(key)}" for key in changed),
            fix="bring the data back, choose another output, or delete the run",
        )


def _facts(config: Mapping[str, Any]) -> dict[str, Any]:
    model = resolve(config)
    return {"model_type": model.spec.model_type, **model.sizes, "layers": model.layers}


def _foreign(path: Path, got: str, expected: str) -> ConfigError:
    return ConfigError(
        f"{path}, which latest.json names, is not a checkpoint of this run",
        got=got,
        expected=expected,
        fix="bring the run's own folder back, choose another output, or delete the run",
    )
