"""How long a token takes, for every model of a study and what its steps read, measured in turns on one machine.

    seconds per token = median over rounds of (seconds of a turn / tokens of a turn)

In every round every one has its turn, so that whatever else the machine does falls on all of them alike. The times that
runs log themselves are not used: they come from different hours, and perhaps from different machines.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from outgrow.comparing.study import TimingConfig
from outgrow.cost.flops import parameter_count
from outgrow.data.objectives import Batch, objective_of
from outgrow.engine.optimizers import build_optimizer
from outgrow.engine.step import Device, be_repeatable, build_for_training, choose_device, optimizer_step
from outgrow.errors import ConfigError
from outgrow.files.atomic import write_json_atomic
from outgrow.files.locks import RunBusyError, locked
from outgrow.run.config import RunConfig
from outgrow.training.result import machine


@dataclass(frozen=True)
class Timed:
    """A model, and the run whose batch, length, precision and optimizer its steps have."""

    config: dict[str, Any]
    run: RunConfig

    def key(self, common: RunConfig) -> str:
        """Names the model, and in what its steps differ from those of the study."""
        usual = _step(common)
        own = {name: value for name, value in _step(self.run).items() if value != usual[name]}
        return _digest([model_key(self.config), own]) if own else model_key(self.config)


Models = Mapping[str, Timed]
"""`Timed.key` -> what is timed."""


@dataclass(frozen=True)
class PieceSpeed:
    """What was measured of one model; an image counts as one token."""

    model: str
    parameters: int
    seconds_per_token: float
    rounds: tuple[float, ...]
    """Seconds per token of every round."""


def model_key(config: Mapping[str, Any]) -> str:
    """Names a model by its config, without the eps of its norms: a growth may change it, and no step takes longer for it."""
    config = {name: value for name, value in config.items() if not name.endswith("eps")}
    return _digest(config)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _step(run: RunConfig) -> dict[str, Any]:
    """What a step of a run is, but for its model and its learning rate."""
    own = run.model_dump(mode="json", include={"batch", "optimizer", "precision"})
    own["optimizer"].pop("learning_rate")
    return {**own, "sequence_length": run.data.sequence_length}


def by_key(some: Iterable[Timed], common: RunConfig) -> dict[str, Timed]:
    """The distinct ones."""
    return {one.key(common): one for one in some}


def study_speeds(models: Models, run: RunConfig, timing: TimingConfig, root: Path) -> dict[str, float]:
    """Seconds per token of every model, from `timing.json` or measured now and written there.

    One process measures, others wait for it. A model more means that all are measured again: in turns, or not comparable.
    """
    path = root / "timing.json"
    while (known := known_speeds(path, models, run, timing)) is None:
        try:
            with locked(root):
                if known_speeds(path, models, run, timing) is None:
                    speeds = time_models(models, run, timing)
                    content = {
                        "settings": _settings(run, timing),
                        "machine": {**machine(), "device": choose_device(run).describe()},
                        "models": [asdict(speed) for speed in speeds],
                    }
                    write_json_atomic(path, content)
        except RunBusyError:
            time.sleep(1.0)  # another process measures
    return known


def _settings(run: RunConfig, timing: TimingConfig) -> dict[str, Any]:
    """All that a time depends on but for the model and the machine."""
    own = run.model_dump(mode="json", include={"batch", "optimizer", "precision", "device", "compile"})
    return {
        **timing.model_dump(),
        **own,
        "sequence_length": run.data.sequence_length,
        "mask_share": run.data.mask_share,
    }


def known_speeds(path: Path, models: Models, run: RunConfig, timing: TimingConfig) -> dict[str, float] | None:
    """Seconds per token from a timing file; None where it is not there or not of these models and settings."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        speeds = {one["model"]: float(one["seconds_per_token"]) for one in found["models"]}
        if not all(0 < one < math.inf for one in speeds.values()):
            raise ValueError("seconds_per_token is no finite number above 0")
        same = found.get("settings") == _settings(run, timing)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged", got=error, fix="delete it: it is measured again") from None
    return speeds if same and models.keys() <= speeds.keys() else None


def time_models(models: Models, run: RunConfig, timing: TimingConfig) -> tuple[PieceSpeed, ...]:
    """Measure all in turns, each with the batch, length, optimizer and precision of its run, on the device of the study's."""
    be_repeatable()
    device = choose_device(run)
    turns = {key: Turn(one.config, one.run, device.at(one.run)) for key, one in models.items()}
    seconds: dict[str, list[float]] = {key: [] for key in models}
    for place in range(timing.rounds + 1):
        for key, turn in turns.items():
            taken = turn.take(timing.steps)
            if place > 0:  # the round before the first one warms up
                seconds[key].append(taken / (timing.steps * models[key].run.tokens_per_step))
    return tuple(
        PieceSpeed(
            key, parameter_count(models[key].config), statistics.median(seconds[key]), tuple(seconds[key])
        )
        for key in models
    )


class Turn:
    """One model, ready for steps on random data."""

    def __init__(self, config: dict[str, Any], run: RunConfig, device: Device) -> None:
        torch.manual_seed(0)
        self._run, self.device = run, device
        self.model = device.place(build_for_training(config))
        self._optimizer = build_optimizer(self.model, run.optimizer)
        self.batch: Batch = objective_of(config).example(
            config, run.batch.sequences, run.data.sequence_length, run.data.mask_share
        )

    def take(self, steps: int) -> float:
        """Seconds of so many steps; the learning rate is too small to change anything."""
        began = time.perf_counter()
        for step in range(steps):
            optimizer_step(
                self.model,
                self._optimizer,
                self.batch,
                learning_rate=1e-9,
                micro_batch=self._run.batch.at_once,
                clip=self._run.optimizer.gradient_clip,
                device=self.device,
                seed=(0, step),
            )
        if self.device.name == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began
