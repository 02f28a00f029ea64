"""The report of a run: files that stand alone, and numbers as people write them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from outgrow.cli import app
from outgrow.errors import ConfigError, OutgrowError
from outgrow.report.rates import rate_table
from outgrow.report.run import run_report
from outgrow.text.numbers import amount, duration
from outgrow.training.rates import StageRates


def test_the_command_trains_and_writes_a_page_that_stands_alone(
    tiny: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tiny()))

    def train(*words: str) -> str:
        done = CliRunner().invoke(app, ["train", str(path), *words])
        assert done.exit_code == 0, done.output
        return done.stdout

    dry = json.loads(train("--dry-run", "--json"))
    assert [stage["name"] for stage in dry["stages"]] == ["small", "large"]
    result = json.loads(train("--set", "stages.1.tokens=256", "--json"))
    assert result["report"] == str(tmp_path / "run" / "report.html")
    out = train("--set", "stages.1.tokens=256")
    assert "loss before growth" in out
    assert "whole" in out

    root = tmp_path / "run"
    assert (root / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (root / "loss.svg").read_text()
    page = (root / "report.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)
    for words in (
        "data:image/svg+xml;base64,",
        "small",
        "large",
        "hidden_size: 24",
        "torch",
        "<h2>Command</h2>",
    ):
        assert words in page


def test_a_mistake_of_a_run_stands_alone(tiny: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """The resolved run is a screen and more: a line says where it stands where the run begins, and before no message."""
    path, taken, garbage = tmp_path / "run.yaml", tmp_path / "taken", tmp_path / "garbage.parquet"
    path.write_text(yaml.safe_dump(tiny()))
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    garbage.write_bytes(b"PAR1 and then nothing")

    def shown(*words: str) -> tuple[bool, BaseException | None]:
        done = CliRunner().invoke(app, ["train", str(path), *words])
        assert "log_every_steps:" not in done.stderr
        return f"with their defaults: {tmp_path / 'run' / 'run.yaml'}" in done.stderr, done.exception

    begun, dry = shown(), shown("--dry-run")
    assert (begun, dry) == ((True, None), (False, None))
    assert "log_every_steps:" in (tmp_path / "run" / "run.yaml").read_text()
    pointer = tmp_path / "run" / "latest.json"
    pointer.write_text(
        pointer.read_text().replace('"finished": true', '"finished": false').replace('"step": ', '"step": 9')
    )
    for words in (
        ["--dry-run", "--set", "data.source=nowhere/*.txt"],
        ["--set", "data.source=nowhere/*.txt", "--set", f"output={tmp_path / 'new'}"],
        ["--set", f"data.source={garbage}", "--set", f"output={tmp_path / 'new'}"],
        ["--set", f"output={taken}"],
        ["--set", "seed=1"],
        [],  # latest.json names a step that its checkpoint is not of
    ):
        told, mistake = shown(*words)
        assert isinstance(mistake, OutgrowError), (words, mistake)
        assert not told, words


def test_rates_have_a_column_for_notes_where_there_is_one() -> None:
    plain = StageRates("a", (0, 9), (0, 9), 9, 1e-3, 0.0, 1e-3, 0.0, "")
    assert len(rate_table([plain]).columns) == 6
    assert len(rate_table([plain, replace(plain, note="rewarmed")]).columns) == 7


def test_no_run_to_report_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run to report on"):
        run_report(tmp_path)


def test_amounts_have_three_digits() -> None:
    assert [amount(value) for value in (0, 999, 1000, 9996, 123456, 999_950, 1.234e15)] == [
        "0",
        "999",
        "1.00 K",
        "10.0 K",
        "123 K",
        "1.00 M",
        "1.23 P",
    ]
    assert duration(59.99) == "1 min 0 s"
