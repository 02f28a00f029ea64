"""A checkpoint that a run starts from is opened, and every byte of it read, once; and no stage is planned twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from outgrow.run.run_file import parse_run
from outgrow.store import opening
from outgrow.training import stage_plans, train_run

Tiny = Callable[..., dict[str, Any]]


def test_a_start_that_grows_is_opened_once(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny()
    first, second = run["stages"]
    train_run(parse_run({**run, "stages": [first], "output": str(tmp_path / "small")}), progress=False)
    start = tmp_path / "small" / "final"

    opened: Counter[Path] = Counter()
    real_open, real_plan, planned = opening.open_state, stage_plans._grown, []

    def counted(folder: Path, **how: Any) -> Any:
        opened[folder] += 1
        return real_open(folder, **how)

    monkeypatch.setattr(opening, "open_state", counted)
    monkeypatch.setattr(stage_plans, "_grown", lambda *what: planned.append(what[2]) or real_plan(*what))
    del run["model"]
    run["data"].pop("tokenizer", None)
    grown = {**run, "stages": [{**second, "from": str(start)}], "output": str(tmp_path / "large")}
    train_run(parse_run(grown), progress=False)

    assert opened[start] == 1
    assert planned == [0]
    assert set(opened) == {start, tmp_path / "large" / "stages" / f"1-{second['name']}" / "grown"}
