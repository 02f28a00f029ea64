"""`learn`: an operator fitted to a source and its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from outgrow.data.learn_data import learn_source
from outgrow.engine.progress import make_progress
from outgrow.engine.step import Device
from outgrow.errors import ConfigError, near
from outgrow.learning.learn import begin, fit_operator
from outgrow.learning.lesa import learn_lesa
from outgrow.methods.learned.fitted import FittedOperator
from outgrow.models.architecture import resolve
from outgrow.run.learn_options import LENGTH, SEQUENCES, LearnOptions, LesaOptions
from outgrow.state.operator_file import kept_operator, save_operator
from outgrow.state.training_state import TrainingState, check_state


def learn(
    state: TrainingState,
    *,
    to: Mapping[str, int],
    data: str | None = None,
    method: str = LearnOptions.method,
    start: str = LearnOptions.start,
    steps: int | None = None,
    learning_rate: float | None = None,
    sequences: int = SEQUENCES,
    length: int = LENGTH,
    seed: int = LearnOptions.seed,
    device: str = "cpu",
    save: str | Path | None = None,
    progress: bool = True,
    **own: Any,
) -> FittedOperator:
    """Fit an operator that grows `state` to the sizes of `to`: LiGO and Mango on `data`, LESA on the layers alone.

    `data` names text, in the tokens of the state's tokenizer, or images (.npz). `start` and `own` (`width`, `depth`,
    `rank`; of LESA `hidden`) are those of `outgrow learn`. The operator is kept in the folder `save`, if one is given.
    Grow by it with `grow(state, operator=...)`. Raises GrowthError or ConfigError before any work.
    """
    check_state(state, "learn")
    _check_options(method, own)
    steps_said: dict[str, Any] = {} if steps is None else {"steps": steps}
    if method == "lesa":
        if data is not None:
            raise ConfigError(
                "LESA learns from the model's own layers and reads no data", fix="leave out data"
            )
        fitted, _ = learn_lesa(state, to, LesaOptions(seed=seed, **steps_said, **own))
    else:
        if data is None:
            raise ConfigError(f"{method} is fitted to data", fix="give data='text.txt', or images.npz")
        options = LearnOptions(method, start, learning_rate=learning_rate, seed=seed, **steps_said, **own)
        begin(resolve(state.config), to, options)  # what can be refused is, before the data is read
        found = learn_source(state.config, _home(state), data)
        read = found.read(sequences=sequences, length=length, seed=seed)
        with make_progress(progress) as view:
            fitted, _ = fit_operator(
                state,
                to,
                read.batch,
                read.evaluation(),
                options,
                data=read.record,
                device=Device(device, False),
                progress=view,
            )
    return kept_operator(fitted) if save is None else save_operator(fitted, Path(save))


_METHODS = {"ligo": LearnOptions, "mango": LearnOptions, "lesa": LesaOptions}


def _check_options(method: str, own: Mapping[str, Any]) -> None:
    """Raises ConfigError for a method or an option that there is not, with the near ones."""
    if method not in _METHODS:
        raise ConfigError(f"unknown method of learn: '{method}' ({near(str(method), _METHODS)})")
    known = [one.name for one in fields(_METHODS[method])]
    for name in own:
        if name not in known:
            raise ConfigError(f"unknown option of {method}: '{name}' ({near(name, known)})")


def _home(state: TrainingState) -> Path:
    """The folder of the state's tokenizer; where it has none, the error of who looks for it names this one."""
    return next(
        (one.path.parent for one in state.assets if one.path and one.name == "tokenizer.json"),
        Path("the state"),
    )
