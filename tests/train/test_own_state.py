"""A run goes on from its own checkpoint, and carries what the model that it began with brings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from outgrow.errors import ConfigError
from outgrow.run.config import RunConfig
from outgrow.training.loop import train_run

Tiny = Callable[..., dict[str, Any]]


def run_of(content: dict[str, Any]) -> RunConfig:
    return TypeAdapter(RunConfig).validate_python(content)


def test_a_checkpoint_of_another_run_is_not_continued(tiny: Tiny, tmp_path: Path) -> None:
    stages = [{"name": "small", "tokens": 64 * 4}]
    runs = {}
    for name, size in (("mine", 16), ("same", 16), ("other", 24)):
        content = tiny(output=str(tmp_path / name), stages=stages)
        content["model"]["hidden_size"] = size
        if name == "same":
            content["optimizer"] = {"learning_rate": 3e-3}
        runs[name] = run_of(content)
        train_run(runs[name], progress=False)
    latest = tmp_path / "mine" / "latest.json"
    pointer = json.loads(latest.read_text())
    latest.write_text(json.dumps({**pointer, "finished": False}))
    for name, message in (
        ("same", "another configuration: optimizer.learning_rate"),
        ("other", "hidden_size|embed"),
    ):
        shutil.rmtree(tmp_path / "mine" / pointer["checkpoint"])
        shutil.copytree(tmp_path / name / pointer["checkpoint"], tmp_path / "mine" / pointer["checkpoint"])
        with pytest.raises(ConfigError, match=message):
            train_run(runs["mine"], progress=False)
