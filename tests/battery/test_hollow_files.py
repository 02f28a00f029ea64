"""A 70 B model on the disk, all of it holes: it is planned and dry-run without a tensor read and without a matrix in memory.

The short form of `benchmarks/sizes.py`, which also counts seconds.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from outgrow.store.safetensors_folder import SafetensorsSource

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "sizes.py"
SHAPE = "70B"
BYTES = 2  # of a number in bfloat16, in which the folder is written


@pytest.fixture(scope="module")
def sizes() -> Any:
    spec = importlib.util.spec_from_file_location("sizes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_70b_growth_is_planned_and_dry_run_below_the_memory_of_one_matrix(
    sizes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hidden x hidden numbers are a query projection, and the least that a dense map of the width would take."""

    def no_read(source: SafetensorsSource, name: str, slot: str, rows: Any = None) -> Any:
        raise AssertionError(f"{slot} of {name} was read")

    folder = tmp_path / SHAPE
    parameters = sizes.make_hollow(folder, SHAPE)
    weights = (folder / "model.safetensors").stat()
    if weights.st_blocks * 512 > 1 << 24:
        pytest.skip("this file system keeps no holes")
    assert weights.st_size > BYTES * parameters
    monkeypatch.setattr(SafetensorsSource, "read", no_read)
    found = sizes.child(folder, SHAPE, "pad")
    hidden = sizes.config(SHAPE)["hidden_size"]
    for what in ("plan", "dry"):
        assert found[what]["bytes"] < BYTES * hidden * hidden, what
