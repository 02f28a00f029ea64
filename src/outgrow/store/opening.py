"""Opening a folder as a training state: which format it is, and everything that is checked before any work.

A native state is known by `outgrow.json`, a Trainer checkpoint by `optimizer.pt` or `trainer_state.json`; else the
folder is a model of Hugging Face.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from outgrow.errors import CheckpointError
from outgrow.files.leftovers import is_temporary
from outgrow.models.library import model_names
from outgrow.store import native
from outgrow.store.check import scan
from outgrow.store.checksum import combine_all
from outgrow.store.config_file import load_config
from outgrow.store.contents import Contents
from outgrow.store.dcp.kinds import is_sharded
from outgrow.store.dcp.opening import open_sharded
from outgrow.store.optimizer_file import INCOMPLETE, open_trainer
from outgrow.store.safetensors_file import Entry, read_header
from outgrow.store.safetensors_folder import SafetensorsSource, read_lineage
from outgrow.store.source import TensorSource
from outgrow.store.writer import Key


def open_state(folder: Path, *, allow_nonfinite: bool = False) -> Contents:
    """Open a native state, a Trainer checkpoint, a sharded one or a Hugging Face model folder; check it before any work."""
    if is_temporary(folder.resolve()):
        raise CheckpointError(f"{folder} was left by an interrupted save", fix="delete it and save again")
    config = load_config(folder)
    checksums: Mapping[str, int] = {}
    if is_sharded(folder) and not (folder / INCOMPLETE).exists():
        contents = open_sharded(folder, config)
    elif (folder / native.MANIFEST).exists() or (folder / "optimizer.json").exists():
        contents, checksums = native.open_native(folder, config)
    elif any((folder / name).exists() for name in ("optimizer.pt", "trainer_state.json", INCOMPLETE)):
        contents = open_trainer(folder, config)
    else:
        source = SafetensorsSource.open(folder, model_names(config))
        contents = Contents(config, source, lineage=read_lineage(source.metadata))
    _check_bytes(contents.source, checksums, allow_nonfinite)
    assets = tuple(folder / name for name in native.ASSETS if (folder / name).is_file())
    return replace(contents, assets=assets)


def _check_bytes(source: TensorSource, checksums: Mapping[str, int], allow_nonfinite: bool) -> None:
    """Every number finite, every file as written: one pass over all bytes."""
    if allow_nonfinite and not checksums:
        return
    if not checksums:
        scan(source)
        return
    try:
        found = scan(source, finite=not allow_nonfinite, checksums=True)
    except CheckpointError:
        _check_checksums(source, checksums, scan(source, finite=False, checksums=True))
        raise  # the file is as it was written: the numbers are at fault
    _check_checksums(source, checksums, found)


def _check_checksums(source: TensorSource, checksums: Mapping[str, int], found: Mapping[Key, int]) -> None:
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
        if total != checksums.get(path.name):
            raise native.changed(path)
