"""States that many processes hold or write together: live FSDP2 models, Accelerate's checkpoints, and files.

`shards_worker.py` does the work in forks, once for all tests of this file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shards")


@pytest.fixture(scope="module")
def facts(folder: Path) -> dict[str, Any]:
    """What the worker says, by fact."""
    command = [sys.executable, Path(__file__).with_name("shards_worker.py"), folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "suboptimal" not in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["fact"]: line["value"] for line in lines}


@pytest.mark.parametrize("cut", ["two shards", "three shards", "two slices", "two slices of two shards"])
def test_a_live_model_grows_into_its_parts_with_the_bits_of_one_process(
    facts: dict[str, Any], cut: str
) -> None:
    assert facts[f"grown live {cut}"] == []
    assert facts[f"steps {cut}"] == [2.0]
    layers, loss = facts[f"trains on {cut}"]
    assert layers == 3
    assert 0 < loss < 10


def test_a_trainer_with_fsdp2_hears_what_to_do(facts: dict[str, Any]) -> None:
    assert facts["a trainer"].startswith("GrowAt grows in one process alone")
    assert "a model that FSDP has cut" in facts["a trainer"]
    assert "`outgrow grow checkpoint-N grown-N --format accelerate`" in facts["a trainer"]


def test_accelerates_checkpoints_are_read_and_written(facts: dict[str, Any]) -> None:
    assert facts["accelerate SHARDED"] == []
    assert facts["accelerate FULL"] == []
    assert facts["accelerate loads what was grown"] == []
    assert facts["its options"] == [[0.01, 0.1], [0.01, 0.0]]


@pytest.mark.parametrize("ranks", [2, 3])
def test_files_are_those_of_one_process(facts: dict[str, Any], folder: Path, ranks: int) -> None:
    assert facts
    alone, together = folder / "by-1", folder / f"by-{ranks}"
    names = sorted(path.name for path in alone.iterdir())
    assert names == sorted(path.name for path in together.iterdir())
    assert "outgrow.json" in names
    assert [name for name in names if (alone / name).read_bytes() != (together / name).read_bytes()] == []


def test_a_killed_process_leaves_nothing_half_written(facts: dict[str, Any]) -> None:
    killed, published, source_is_whole = facts["killed"]
    assert killed
    assert not published
    assert source_is_whole


def test_the_worked_example(facts: dict[str, Any]) -> None:
    assert len(facts["example"]) == 6
    assert all(0 < loss < 5 for loss in facts["example"])
