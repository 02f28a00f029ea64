"""A source that is written to while it is grown gives an error, never weights of two states."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_llama, train, two_groups

from outgrow.errors import CheckpointError
from outgrow.parallel.ranks import ALONE
from outgrow.state.growing import grow
from outgrow.state.training_state import TrainingState
from outgrow.store.layouts import save_contents


def again(path: Path) -> None:
    """The same bytes, written anew."""
    content = path.read_bytes()
    path.write_bytes(content)
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))


def moved(path: Path) -> None:
    """Another file under the same name, as a trainer that saves atomically leaves it."""
    shutil.copyfile(path, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def shorter(path: Path) -> None:
    """By a byte: a thread that reads a page which is gone at this moment ends the process, as `test_a_map_that_faults_says_so` has it."""
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("change", [again, moved, shorter])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "optimizer.pt"])
def test_a_source_that_changes(tmp_path: Path, name: str, change: Callable[[Path], None]) -> None:
    model = tiny_llama()
    optimizer = torch.optim.AdamW(two_groups(model), lr=1e-2)
    train(model, optimizer, 1)
    format = "trainer" if name == "optimizer.pt" else "native"
    small = TrainingState.from_model(model, optimizer).save_pretrained(tmp_path / "small", format=format)  # type: ignore[arg-type]
    grown = grow(TrainingState.from_pretrained(small), to={"num_hidden_layers": 3})
    changed = []

    def progress(done: int, total: int) -> None:
        if not changed:
            changed.append(done)
            change(small / name)

    with pytest.raises(CheckpointError, match=f"{name} was changed while it was read"):
        save_contents(grown, tmp_path / "large", ranks=ALONE, progress=progress, block_bytes=64, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_a_map_that_faults_says_so(tmp_path: Path) -> None:
    program = f"""
import mmap, os
from outgrow.files.faulting import say_bus_errors
say_bus_errors()
path = {str(tmp_path / "file")!r}
open(path, "wb").write(bytes(1 << 16))
with open(path, "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
os.truncate(path, 0)
mapped[5000]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "became shorter" in done.stderr
