"""The settings of `learn` are one value: run files and the command line have its keys, defaults and checks."""

from __future__ import annotations

import re
from dataclasses import asdict, fields
from typing import Any

import pytest
import typer
from pydantic import ValidationError

from outgrow.cli import app
from outgrow.errors import ConfigError
from outgrow.run.learn_config import LearnConfig, LesaConfig
from outgrow.run.learn_options import LENGTH, SEQUENCES, LearnOptions, LesaOptions


def test_a_run_file_has_the_keys_and_defaults_of_the_value() -> None:
    """The seed is the growth's, and so is the noise of LESA."""
    assert LearnConfig().options(seed=3) == LearnOptions(seed=3)
    assert LesaConfig(method="lesa").options(noise=0.2, seed=3) == LesaOptions(noise=0.2, seed=3)
    assert set(LearnConfig.model_fields) == {one.name for one in fields(LearnOptions)} - {"seed"}
    own = {one.name for one in fields(LesaOptions)} - {"noise", "seed"}
    assert set(LesaConfig.model_fields) - {"method"} == own


def test_what_a_run_file_says_reaches_the_fit() -> None:
    said: dict[str, Any] = {
        "method": "mango",
        "start": "published",
        "rank": 3,
        "steps": 7,
        "learning_rate": 0.02,
        "warmup_steps": 2,
        "dropout": True,
    }
    assert asdict(LearnConfig(**said).options(seed=5)) == {
        **said,
        "width": "isometric",
        "depth": "identity",
        "seed": 5,
    }


@pytest.mark.parametrize("options", [{"steps": 10, "warmup_steps": 10}, {"steps": 1, "warmup_steps": 2}])
def test_a_warm_up_that_outlasts_the_fit_is_refused_alike(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as from_python:
        LearnOptions(**options)
    with pytest.raises(ValidationError) as from_a_file:
        LearnConfig(**options)
    assert str(from_python.value) in str(from_a_file.value)


def test_what_is_kept_of_a_fit_has_the_keys_it_always_had() -> None:
    """A killed `outgrow learn` is started again by comparing them with what the operator's folder holds."""
    assert LearnOptions(start="published", steps=4).record == {
        "steps": 4,
        "learning_rate": 1e-3,
        "warmup": None,
        "gradient_clip": 1.0,
        "dropout": False,
        "seed": 0,
    }


def test_the_command_line_tells_these_defaults() -> None:
    command = typer.main.get_command(app).commands["learn"]  # type: ignore[attr-defined]
    told = {parameter.name: parameter for parameter in command.params}
    assert told["method"].default == LearnOptions.method
    assert told["seed"].default == LearnOptions.seed == LesaOptions.seed
    assert told["dropout"].default is LearnOptions.dropout
    assert LearnOptions.width == LesaOptions.width, "one word of the help stands for both"
    rates = [float(word.strip(".,")) for word in told["learning_rate"].help.split() if "e-" in word]
    assert rates == [LearnOptions().peak, LearnOptions(start="published").peak]
    for name, sizes in {
        "steps": (LearnOptions.steps, LesaOptions.steps),
        "rank": (LearnOptions.rank, LesaOptions.rank),
        "hidden": (LesaOptions.hidden,),
        "sequences": (SEQUENCES,),
        "length": (LENGTH,),
    }.items():
        numbers = [int(word) for word in re.findall(r"\d+", told[name].help)]
        assert numbers == list(sizes), name
