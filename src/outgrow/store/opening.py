"""Opening a folder as a training state: which format it is, and everything that is checked before any work.

A native state is known by `outgrow.json`; any other folder is a model of Hugging Face, with what a training left beside it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from outgrow.errors import CheckpointError
from outgrow.files.leftovers import is_temporary
from outgrow.store import native
from outgrow.store.assets import GENERATION, find_assets, generation_asset
from outgrow.store.check import scan
from outgrow.store.checkpoint import open_checkpoint
from outgrow.store.checksum import combine_all
from outgrow.store.config_file import DROPPED, load_config, raw_config
from outgrow.store.contents import Contents, Unread
from outgrow.store.inventory import take_inventory
from outgrow.store.safetensors_file import Entry, read_header
from outgrow.store.safetensors_folder import SafetensorsSource, weight_files
from outgrow.store.source import TensorSource
from outgrow.store.writer import Key


def open_state(folder: Path, *, allow_nonfinite: bool = False) -> Contents:
    """Open a native state, a Trainer checkpoint or a Hugging Face model folder; check all of it before any work."""
    if is_temporary(folder.resolve()):
        raise CheckpointError(f"{folder} was left by an interrupted save", fix="delete it and save again")
    config = load_config(folder)
    if (folder / native.MANIFEST).exists() or (folder / "optimizer.json").exists():
        contents, checksums = native.open_native(folder, config)
        contents = _checked_bytes(contents, checksums, allow_nonfinite)
        optimizer = [name for name in checksums if name.startswith("optimizer")] + ["optimizer.json"]
        records, refused = [f"{name}.json" for name in contents.records], dict[str, str]()
    else:
        _check_whole(folder)
        opened = open_checkpoint(folder, config)
        contents, optimizer, records, refused = (
            opened.contents,
            list(opened.optimizer),
            list(opened.records),
            dict(opened.refused),
        )
        contents = _checked_bytes(contents, {}, allow_nonfinite)
    refused |= {name: "its numbers are not finite" for name in optimizer if contents.unread and not refused}
    raw, assets = raw_config(folder), find_assets(folder, grown=bool(contents.lineage))
    files = take_inventory(
        folder,
        weights=weight_files(folder),
        optimizer=optimizer,
        records=records,
        unread=refused,
        dropped={name: why for name, why in DROPPED.items() if name in raw},
        grown=bool(contents.lineage),
    )
    if not (folder / GENERATION).is_file() and (made := generation_asset(raw)) is not None:
        assets = (*assets, made)
    return replace(contents, assets=assets, files=files)


def _check_whole(folder: Path) -> None:
    """An error where files of a native state lie here without its manifest: what is left of one that was deleted or copied."""
    left = sorted(path.name for path in folder.glob("optimizer*.safetensors"))
    left += [
        name for name in ("schedule.json", "data.json", "rng.json", "run.json") if (folder / name).is_file()
    ]
    if left:
        raise CheckpointError(
            f"{folder} is an unfinished state: it has no {native.MANIFEST}",
            got=", ".join(left[:4]),
            fix="copy the whole folder again, or use another checkpoint",
        )


def _checked_bytes(contents: Contents, checksums: Mapping[str, int], allow_nonfinite: bool) -> Contents:
    """Every number finite, every file as written: one pass over all bytes. Moments that are not finite are not read."""
    source = contents.source
    if allow_nonfinite and not checksums:
        return contents
    try:
        found = scan(source, finite=not allow_nonfinite, checksums=bool(checksums))
    except CheckpointError as error:
        if checksums:
            _check_checksums(source, checksums, scan(source, finite=False, checksums=True))
        assert isinstance(source, SafetensorsSource)
        weights = SafetensorsSource({"weight": source.entries["weight"]}, source.metadata)
        scan(weights)  # raises where the weights are at fault
        why = "; ".join(line.strip() for line in str(error).splitlines())
        unread = (*contents.unread, Unread("the optimizer's file", "moments", why))
        return replace(contents, source=weights, steps={}, optimizer=None, unread=unread)
    if checksums:
        _check_checksums(source, checksums, found)
    return contents


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
