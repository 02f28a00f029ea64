"""A checkpoint that a run starts from is opened, and every byte of it read, once, in sight; and no stage is planned twice."""

from __future__ import annotations

import io
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from outgrow.run.run_file import parse_run
from outgrow.store import opening
from outgrow.store.safetensors_folder import SafetensorsSource
from outgrow.training import dry_run, stage_plans, train_run

Tiny = Callable[..., dict[str, Any]]


def continued(tiny: Tiny, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A checkpoint of a run of one stage, and a run that begins with it and grows."""
    run = tiny()
    first, second = run["stages"]
    train_run(parse_run({**run, "stages": [first], "output": str(tmp_path / "small")}), progress=False)
    start = tmp_path / "small" / "final"
    del run["model"]
    run["data"].pop("tokenizer", None)
    return start, {**run, "stages": [{**second, "from": str(start)}], "output": str(tmp_path / "large")}


def test_a_start_that_grows_is_opened_once(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, grown = continued(tiny, tmp_path)
    opened: Counter[Path] = Counter()
    real_open, real_plan, planned = opening.open_state, stage_plans._grown, []

    def counted(folder: Path, **how: Any) -> Any:
        opened[folder] += 1
        return real_open(folder, **how)

    monkeypatch.setattr(opening, "open_state", counted)
    monkeypatch.setattr(stage_plans, "_grown", lambda *what: planned.append(what[2]) or real_plan(*what))
    train_run(parse_run(grown), progress=False)

    assert opened[start] == 1
    assert planned == [0]
    assert set(opened) == {start, tmp_path / "large" / "stages" / f"1-{grown['stages'][0]['name']}" / "grown"}


def test_a_run_shows_that_it_reads_its_start_and_a_dry_run_reads_no_tensor(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, grown = continued(tiny, tmp_path)
    error = io.StringIO()
    monkeypatch.setattr(error, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", error)
    monkeypatch.setenv("TERM", "xterm")
    stage_plans.open_start(parse_run(grown))
    assert error.getvalue() == ""
    train_run(parse_run(grown))
    assert re.search(r"reading .*━", error.getvalue())  # a bar, beside the line `data: reading`

    def no_read(source: SafetensorsSource, name: str, slot: str, rows: Any = None) -> Any:
        raise AssertionError(f"{slot} of {name} was read")

    monkeypatch.setattr(SafetensorsSource, "read", no_read)
    assert dry_run(parse_run(grown)).stages[0].parameters
