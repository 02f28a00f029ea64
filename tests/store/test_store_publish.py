"""A destination is the old folder or the new one: after errors, full disks, kills and races."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import time
from collections import namedtuple
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import assert_same_tensors, files_of, tiny_llama, trained_state

from outgrow.errors import CheckpointError
from outgrow.files import atomic
from outgrow.files.atomic import publishing, write_json_atomic
from outgrow.files.leftovers import clear_leftovers, held_folder
from outgrow.parallel.ranks import ALONE
from outgrow.state.training_state import TrainingState
from outgrow.store import layouts
from outgrow.store.source import MemorySource

save = partial(layouts.save_contents, ranks=ALONE)

FORMATS = ["native", "trainer", "hub"]


class Failing(MemorySource):
    """Reads some tensors, then fails."""

    def read(self, name: str, slot: str, rows: Any = None) -> torch.Tensor:
        if "norm" in name:
            raise OSError(28, "No space left on device") if "disk" in self.tensors else RuntimeError("boom")
        return super().read(name, slot, rows)


def failing(state: TrainingState, disk: bool = False) -> TrainingState:
    slots = ("weight", "exp_avg", "exp_avg_sq")
    tensors = {slot: {n: state.source.read(n, slot) for n in state.source.names(slot)} for slot in slots}
    return replace(state, source=Failing(tensors | ({"disk": {}} if disk else {})))


def test_a_destination_inside_the_source(state: TrainingState, tmp_path: Path) -> None:
    """By whatever name: what is read would no longer be what was opened. Its own place, and one beside it, are none."""
    source = state.save_pretrained(tmp_path / "source")
    (tmp_path / "link").symlink_to(source)
    opened, before = TrainingState.from_pretrained(source), files_of(tmp_path)
    for place in (source / "out", source / "a" / "b", tmp_path / "link" / "out", source / "optimizer_0"):
        with pytest.raises(CheckpointError, match="lies inside"):
            opened.save_pretrained(place)
    assert files_of(tmp_path) == before
    opened.save_pretrained(tmp_path / "source-2")
    opened.save_pretrained(source, overwrite=True)


@pytest.mark.parametrize("format", FORMATS)
def test_existing_destination(state: TrainingState, tmp_path: Path, format: Any) -> None:
    out = state.save_pretrained(tmp_path / "out", format=format)
    before = files_of(tmp_path)
    with pytest.raises(CheckpointError, match="already exists"):
        state.save_pretrained(out, format=format)
    with pytest.raises(RuntimeError, match="boom"):
        failing(state).save_pretrained(out, format=format, overwrite=True)
    assert files_of(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    other = trained_state(tiny_llama(seed=3))
    other.save_pretrained(out, format=format, overwrite=True)
    assert_same_tensors(other, TrainingState.from_pretrained(out), ("weight",))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_source_may_be_replaced_by_what_is_made_of_it(state: TrainingState, tmp_path: Path) -> None:
    out = state.save_pretrained(tmp_path / "out", format="trainer")
    opened = TrainingState.from_pretrained(out)
    opened.save_pretrained(out, overwrite=True)
    assert_same_tensors(state, TrainingState.from_pretrained(out))
    with pytest.raises(CheckpointError, match="was changed while it was read"):
        assert_same_tensors(state, opened)


def test_only_model_folders_are_overwritten(state: TrainingState, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    (tmp_path / "file").write_bytes(b"text")
    for name, message in (("photos", "not a model folder"), ("file", "not a folder")):
        with pytest.raises(CheckpointError, match=message):
            state.save_pretrained(tmp_path / name, overwrite=True)
    (tmp_path / "run" / "checkpoint-500").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_bytes(
        b"{}"
    )  # as Trainer leaves them: the last model, and all before it
    with pytest.raises(CheckpointError, match=r"holds files or folders(.|\n)*checkpoint-500"):
        state.save_pretrained(tmp_path / "run", overwrite=True)
    assert files_of(tmp_path) == {"photos/cat.jpg": b"cat", "file": b"text", "run/config.json": b"{}"}
    (tmp_path / "empty").mkdir()
    state.save_pretrained(tmp_path / "empty")
    assert_same_tensors(state, TrainingState.from_pretrained(tmp_path / "empty"))


@pytest.mark.parametrize("name", ["notes.txt", "main.py", "cat.jpg", ".env"])
def test_files_of_ones_own_are_not_overwritten(state: TrainingState, tmp_path: Path, name: str) -> None:
    """Replacing a model folder replaces all of it: what no model folder has would be lost with it."""
    out = state.save_pretrained(tmp_path / "out")
    (out / name).write_text("mine")
    before = files_of(out)
    with pytest.raises(CheckpointError, match=rf"would be lost\n.*{name}"):
        state.save_pretrained(out, overwrite=True)
    assert files_of(out) == before
    (out / name).unlink()
    (out / "LICENSE.txt").write_text("MIT")
    (out / "tokenizer.model").write_bytes(b"x")
    state.save_pretrained(out, overwrite=True)


def test_folders_above_are_gone_again_where_nothing_came(state: TrainingState, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="became full"):
        failing(state, disk=True).save_pretrained(tmp_path / "a" / "b" / "out")
    assert list(tmp_path.iterdir()) == []
    for length in (234, 255):
        with pytest.raises(CheckpointError, match="its name is too long"):
            state.save_pretrained(tmp_path / "a" / ("x" * length))
    assert list(tmp_path.iterdir()) == []
    assert state.save_pretrained(tmp_path / "a" / ("x" * 233)).is_dir()


@pytest.mark.parametrize("where", ["file/out", "/proc/outgrow/out", "/proc/self/out", "x" * 300])
def test_unwritable_destination(state: TrainingState, tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_bytes(b"text")
    with pytest.raises(CheckpointError, match=r"cannot be written|exists"):
        state.save_pretrained(tmp_path / where)
    assert files_of(tmp_path) == {"file": b"text"}


def test_disk_without_space(state: TrainingState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 1000))
    with pytest.raises(CheckpointError, match=r"too full\n.*1\.00 KB free\n.* MB\n"):
        state.save_pretrained(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", FORMATS)
def test_a_limit_on_files_is_no_full_disk(tmp_path: Path, format: Any) -> None:
    """Written by us or by torch, which hides the system's error."""
    state = trained_state(tiny_llama(hidden_size=60))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"a file is larger than .*\n.*\n.*ulimit -f"):
            state.save_pretrained(tmp_path / "out", format=format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", FORMATS)
def test_disk_that_becomes_full(state: TrainingState, tmp_path: Path, format: Any) -> None:
    with pytest.raises(CheckpointError, match="became full"):
        failing(state, disk=True).save_pretrained(tmp_path / "out", format=format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", FORMATS)
def test_a_disk_that_is_really_full(
    state: TrainingState, tmp_path: Path, format: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file systems may be mounted here")
    try:
        with pytest.raises(CheckpointError, match="too full"):
            state.save_pretrained(disk / "out", format=format)
        monkeypatch.setattr(
            atomic, "check_space", lambda *_: None
        )  # as if someone else filled it after the check
        wide = trained_state(tiny_llama(hidden_size=60))
        with pytest.raises(CheckpointError, match="became full"):
            wide.save_pretrained(disk / "out", format=format)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


class Slow(MemorySource):
    def read(self, name: str, slot: str, rows: Any = None) -> torch.Tensor:
        time.sleep(0.04)
        return super().read(name, slot, rows)


class SlowSave:
    """A save in a process of its own, which is a fork: importing torch again would take seconds."""

    def __init__(
        self, state: TrainingState, out: Path, format: Any = "native", overwrite: bool = True
    ) -> None:
        slots = ("weight", "exp_avg", "exp_avg_sq")
        tensors = {slot: {n: state.source.read(n, slot) for n in state.source.names(slot)} for slot in slots}
        self.reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(writer)
            return
        said = "nothing"
        try:
            save(replace(state, source=Slow(tensors)), out, format=format, overwrite=overwrite)
            said = "saved"
        except BaseException as error:
            said = f"refused: {type(error).__name__}: {error}"
        finally:
            os.write(writer, said.encode())
            os._exit(0)

    def wait(self) -> str:
        os.waitpid(self.pid, 0)
        said = os.read(self.reader, 10_000).decode()
        os.close(self.reader)
        return said


@pytest.mark.parametrize("format", FORMATS)
def test_kill_in_the_middle_of_a_save(state: TrainingState, tmp_path: Path, format: Any) -> None:
    out = state.save_pretrained(tmp_path / "out", format=format)
    before, other = files_of(out), trained_state(tiny_llama(seed=3))
    for seconds in (0.05, 0.3):
        process = SlowSave(other, out, format)
        deadline = time.monotonic() + 20
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == ""
        (left,) = [path for path in tmp_path.iterdir() if path != out]
        assert files_of(out) == before
        with pytest.raises(CheckpointError, match=r"interrupted save|no config|unfinished"):
            TrainingState.from_pretrained(left)
        if seconds == 0.05:
            os.rename(left, tmp_path / "renamed")  # even under another name it is not taken for whole
            with pytest.raises(CheckpointError):
                TrainingState.from_pretrained(tmp_path / "renamed")
            shutil.rmtree(tmp_path / "renamed")
    state.save_pretrained(out, format=format, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_two_processes_at_once(state: TrainingState, tmp_path: Path, overwrite: bool) -> None:
    out = tmp_path / "out"
    if overwrite:
        state.save_pretrained(out)
    states = [trained_state(tiny_llama(seed=seed)) for seed in (3, 4)]
    processes = [SlowSave(state, out, overwrite=overwrite) for state in states]
    said = [process.wait() for process in processes]
    assert sorted(line.split(":")[0] for line in said) == ["refused", "saved"], said
    refused = next(line for line in said if line.startswith("refused"))
    assert "CheckpointError" in refused
    assert "process" in refused
    assert_same_tensors(states[said.index("saved")], TrainingState.from_pretrained(out))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("exchange", [True, False])
def test_overtaken_at_the_last_moment(
    tmp_path: Path, overwrite: bool, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check at the start cannot see a rival that comes and goes in between; the rename at the end does."""
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    out = tmp_path / "out"
    if overwrite:
        out.mkdir()
        (out / "config.json").write_text("old")
    with pytest.raises(CheckpointError, match="another process wrote"):  # noqa: PT012, SIM117
        with publishing(out, overwrite=overwrite) as folder:
            (folder / "config.json").write_text("mine")
            rival = tmp_path / "rival"
            rival.mkdir()
            (rival / "config.json").write_text("rival")
            if overwrite:
                shutil.rmtree(out)
            rival.rename(out)
    assert files_of(tmp_path) == {"out/config.json": b"rival"}


def test_replacing_without_exchange(
    state: TrainingState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    out = TrainingState.from_model(tiny_llama(seed=9)).save_pretrained(tmp_path / "out")
    state.save_pretrained(out, overwrite=True)
    assert_same_tensors(state, TrainingState.from_pretrained(out))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_leftovers(tmp_path: Path) -> None:
    """What a process holds stays, whatever its number or host is; what nobody holds goes."""
    with held_folder(tmp_path / "out") as living:
        dead, other = tmp_path / f"out.tmp-{'0' * 16}", tmp_path / f"out2.tmp-{'0' * 16}"
        similar = tmp_path / "out.tmp-00"
        for path in (dead, other, similar):
            path.mkdir()
            (path / "part").write_text("x")
        with pytest.raises(CheckpointError, match="another process is writing"):
            publishing(tmp_path / "out").__enter__()
        assert {path.name for path in tmp_path.iterdir()} >= {living.name, other.name, similar.name}
    with publishing(tmp_path / "out") as folder:
        (folder / "config.json").write_text("{}")
    assert {path.name for path in tmp_path.iterdir()} == {"out", other.name, similar.name}
    # a process that died between the two renames of the portable fallback
    (tmp_path / "out").rename(tmp_path / f"out.old-{'1' * 16}")
    with pytest.raises(RuntimeError), publishing(tmp_path / "out", overwrite=True):
        raise RuntimeError
    assert (tmp_path / "out" / "config.json").read_text() == "{}"
    clear_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"out", similar.name}


def test_leftovers_where_folders_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS locks files that are open for writing, and no folders."""
    lock = fcntl.flock

    def as_nfs(handle: int, operation: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EBADF, "Bad file descriptor")
        lock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", as_nfs)
    with held_folder(tmp_path / "out"):
        with pytest.raises(CheckpointError, match="another process is writing"):
            publishing(tmp_path / "out").__enter__()
        kept = {path.name: path for path in tmp_path.iterdir()}
        assert len(kept) == 2
        shutil.copytree(tmp_path, tmp_path.with_name("killed"))
    assert list(tmp_path.iterdir()) == []
    killed = tmp_path.with_name("killed")
    with publishing(killed / "out") as folder:
        (folder / "config.json").write_text("{}")
    assert [path.name for path in killed.iterdir()] == ["out"]


def test_write_json_atomic(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json_atomic(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json_atomic(path, {"a": object()})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_json_atomic(tmp_path / "none" / "a.json", {})


def test_a_symbolic_link_leads_to_its_folder(state: TrainingState, tmp_path: Path) -> None:
    real = state.save_pretrained(tmp_path / "real")
    (tmp_path / "link").symlink_to(real)
    other = trained_state(tiny_llama(seed=3))
    other.save_pretrained(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert_same_tensors(other, TrainingState.from_pretrained(real))


def test_two_processes_may_clear_the_same_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one is faster: its removal, seen from here, is a folder that vanishes."""
    leftover = tmp_path / f"state.tmp-{'0' * 16}"
    leftover.mkdir()
    remove = shutil.rmtree

    def removed_twice(path: Path) -> None:
        remove(path)
        remove(path)

    monkeypatch.setattr(shutil, "rmtree", removed_twice)
    clear_leftovers(tmp_path, "state")
    assert list(tmp_path.iterdir()) == []
