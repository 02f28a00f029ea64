"""Whether the checkpoint that a run is to go on from is one of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outgrow.errors import ConfigError
from outgrow.models.architecture import resolve
from outgrow.run.config import RunConfig
from outgrow.state.training_state import TrainingState
from outgrow.training.folder import differences


def check_own(run: RunConfig, path: Path, state: TrainingState, config: Mapping[str, Any], step: int) -> None:
    """Raise ConfigError unless a state is what this run left at this step, a model of the stage that `config` describes."""
    found, expected = _facts(state.config), _facts(config)
    if found != expected:
        raise _foreign(path, f"{found}", f"{expected}")
    record = state.records.get("run")
    if not path.name.startswith("step-") and path.name != "final":
        return  # the state that a stage began with has the records of the one it was grown from
    if not isinstance(record, dict) or not isinstance(record.get("configuration"), dict):
        raise _foreign(path, "a state of no run", f"step {step}")
    if record.get("step") != step:
        raise _foreign(path, f"step {record.get('step')}", f"step {step}")
    if changed := differences(record["configuration"], run.resolved()):
        raise _foreign(path, f"another configuration: {', '.join(changed[:5])}", "this run's")


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
