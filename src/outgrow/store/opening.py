"""Opening a folder as a training state: which format it is, and everything that is checked before any work.

A native state is known by `outgrow.json`, a Trainer checkpoint by `optimizer.pt` or `trainer_state.json`; else the
folder is a model of Hugging Face.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outgrow.errors import CheckpointError
from outgrow.files.atomic import is_temporary
from outgrow.models.library import model_names
from outgrow.store import native
from outgrow.store.check import scan
from outgrow.store.checksum import combine_all
from outgrow.store.config_file import load_config
from outgrow.store.contents import Contents
from outgrow.store.optimizer_file import open_trainer
from outgrow.store.safetensors_file import Entry, read_header
from outgrow.store.safetensors_folder import SafetensorsSource, read_lineage
from outgrow.store.source import TensorSource
from outgrow.store.writer import Key


@dataclass(frozen=True)
class Opened:
    """A state as read from a folder."""

    config: dict[str, Any]
    contents: Contents
    assets: tuple[Path, ...]


def load(folder: Path, *, allow_nonfinite: bool = False) -> Opened:
    """Open a native state, a Trainer checkpoint or a Hugging Face model folder; check all of it before any work."""
    if not folder.is_dir():
        fix = "outgrow opens local folders; fetch one of the hub with `hf download NAME --local-dir FOLDER`"
        raise CheckpointError(f"{folder} is not a folder", fix=fix)
    if is_temporary(folder.resolve()):
        raise CheckpointError(f"{folder} was left by an interrupted save", fix="delete it and save again")
    config = load_config(folder)
    if (folder / native.MANIFEST).exists() or (folder / "optimizer.json").exists():
        contents = native.open_native(folder, model_names(config))
    elif any(
        (folder / name).exists()
        for name in ("optimizer.pt", "trainer_state.json", "checkpoint-is-incomplete.txt")
    ):
        contents = open_trainer(folder, config)
    else:
        source = SafetensorsSource.open(folder, model_names(config))
        contents = Contents(source, lineage=read_lineage(source.metadata))
    _check_contents(contents, allow_nonfinite)
    return Opened(
        config, contents, tuple(folder / name for name in native.ASSETS if (folder / name).is_file())
    )


def _check_contents(contents: Contents, allow_nonfinite: bool) -> None:
    """Every number finite, every file as written: one pass over all bytes."""
    if allow_nonfinite and not contents.checksums:
        return
    if not contents.checksums:
        scan(contents.source)
        return
    try:
        found = scan(contents.source, finite=not allow_nonfinite, checksums=True)
    except CheckpointError:
        _check_checksums(contents, scan(contents.source, finite=False, checksums=True))
        raise  # the file is as it was written: the numbers are at fault
    _check_checksums(contents, found)


def _check_checksums(contents: Contents, found: Mapping[Key, int]) -> None:
    source: TensorSource = contents.source
    assert isinstance(source, SafetensorsSource)
    files: dict[Path, list[tuple[Entry, int]]] = {}
    for (slot, name), crc in found.items():
        entry = source.entries[slot][name]
        assert isinstance(entry, Entry), "a native state holds every tensor whole"
        files.setdefault(entry.file.path, []).append((entry, crc))
    for path, parts in files.items():
        start = read_header(path).data_start
        with open(path, "rb") as file:
            head = file.read(start)
        ordered = sorted(parts, key=lambda part: part[0].start)
        total = combine_all([(zlib.crc32(head), start), *((crc, entry.meta.bytes) for entry, crc in ordered)])
        if total != contents.checksums.get(path.name):
            raise native.changed(path)
