"""A run file: quantities, overrides, and one clear message for every mistake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from outgrow.errors import ConfigError
from outgrow.files.yaml_file import dump_yaml
from outgrow.run.config import RunConfig
from outgrow.run.run_file import load_run, parse_run

Tiny = Callable[..., dict[str, Any]]


def write(path: Path, data: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(data))
    return path


def test_overrides_are_yaml_and_reach_into_lists(tiny: Tiny, tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", tiny())
    run = load_run(
        path,
        [
            "optimizer.learning_rate=2e-3",
            "stages.1.tokens=2M",
            "stages.1.grow.to.hidden_size=32",
            "optimizer.betas=[0.8, 0.9]",
            "model.rms_norm_eps=1e-6",
            "evaluation.every_tokens=null",
            "data.limit_bytes=1k",
        ],
    )
    assert run.optimizer.learning_rate == 2e-3
    assert run.stages[1].tokens == 2_000_000
    assert run.stages[1].grow is not None
    assert run.stages[1].grow.to["hidden_size"] == 32
    assert run.optimizer.betas == (0.8, 0.9)
    assert run.model is not None
    assert run.model["rms_norm_eps"] == 1e-6
    assert run.evaluation.every_tokens is None
    assert run.data.limit_bytes == 1000


def test_the_resolved_run_is_the_same_run(tiny: Tiny, tmp_path: Path) -> None:
    run = parse_run(tiny())
    path = tmp_path / "again.yaml"
    path.write_text(dump_yaml(run.resolved()))
    assert load_run(path) == run


def test_the_quickstart_is_a_run() -> None:
    run = load_run(Path(__file__).parents[2] / "examples" / "quickstart.yaml")
    assert isinstance(run, RunConfig)
    assert [stage.grow is None for stage in run.stages] == [True, False]


def test_steps_are_whole(tiny: Tiny) -> None:
    run = parse_run(tiny(stages=[{"name": "a", "tokens": 65}, {"name": "b", "tokens": 64}]))
    assert (run.tokens_per_step, run.stage_steps(0), run.first_step(1), run.total_steps) == (64, 2, 2, 3)
    assert run.total_tokens == 192


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("data.sequnce_length=3", ["unknown key data.sequnce_length", "did you mean sequence_length"]),
        ("optimizer.learning_rate=-1", ["optimizer.learning_rate", "greater than 0", "-1"]),
        ("optimizer.betas=[0.9, 2]", ["optimizer.betas.1", "less than 1"]),
        ("schedule.decay_shar=1", ["unknown key schedule.decay_shar", "did you mean decay_share"]),
        ("schedule.kind=wsdd", ["schedule", "wsd"]),
        ("stages.0.tokens=2x", ["stages.0.tokens", "expected a number", "2x"]),
        ("stages.0.tokens=0", ["stages.0.tokens", "greater than or equal to 1"]),
        ("stages.1.grow.too=1", ["unknown key stages.1.grow.too", "did you mean to"]),
        ("stages.1.from=x", ["stages[1].from", "only the first stage"]),
        ("stages.1.name=small", ["different names"]),
        ("stages.1.name=../up", ["stages.1.name"]),
        ("batch.micro_batch=3", ["micro_batch 3 does not divide sequences 4"]),
        ("data.tokenizer={vocab_size: 300, path: x}", ["data.tokenizer", "both are given"]),
        ("model=null", ["give model", "stages[0].from", "neither is given"]),
        ("stages=[]", ["stages", "at least 1"]),
        ("seed=-1", ["seed", "greater than or equal to 0"]),
        ("optimizer.learning_rate=1e300", ["optimizer.learning_rate", "less than or equal to 1000000"]),
        ("optimizer.weight_decay=1e200", ["optimizer.weight_decay", "less than or equal to 1000000"]),
        ("stages.0.name=" + "x" * 101, ["stages.0.name", "at most 100 characters"]),
        ("optimizer.learning_rate=.inf", ["optimizer.learning_rate", "finite"]),
        ("stages.1.grow.noise=.nan", ["stages.1.grow.noise", "finite"]),
        ("stages.1.reentry={peak: .inf}", ["stages.1.reentry.peak", "finite"]),
        ("stages.0.until={loss: .inf}", ["stages.0.until.loss", "finite"]),
        ("device=tpu", ["device", "'cuda'", "'tpu'"]),
    ],
)
def test_wrong_keys_and_values(change: str, words: list[str], tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run(write(tmp_path / "run.yaml", tiny()), [change])
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer", "not of the form key=value"),
        ("stages.7.tokens=1", "a number from 0 to 1"),
        ("output.x=1", "has no parts"),
        ("seed=[1", "not valid YAML"),
    ],
)
def test_wrong_overrides(override: str, words: str, tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        load_run(write(tmp_path / "run.yaml", tiny()), [override])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: [1\nc: 2\n", "invalid YAML.*line 3"),
        ("a: 1\na: 2\n", "invalid YAML.*line 2(.|\n)*given twice"),
        ("- 1\n", "keys and values"),
        ("output: {{ out }}\n", "invalid YAML"),
        ("output: 2025-02-30\n", "invalid YAML"),
        ("a: !!python/object/apply:os.system [ls]\n", "invalid YAML"),
    ],
)
def test_invalid_yaml_names_the_line(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_run(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_run(tmp_path / "none.yaml")
