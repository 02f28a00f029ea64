"""Opening a folder as a training state: which format it is, and everything that is checked before any work.

A native state is known by `outgrow.json`; any other folder is a model of Hugging Face, with what a training left beside it.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from outgrow.errors import CheckpointError
from outgrow.files.identity import FileIdentity
from outgrow.files.leftovers import is_temporary
from outgrow.store import native
from outgrow.store.assets import GENERATION, find_assets, generation_asset
from outgrow.store.check import scan
from outgrow.store.checkpoint import INCOMPLETE, open_checkpoint
from outgrow.store.checksum import combine_all
from outgrow.store.config_file import DROPPED, load_config, raw_config
from outgrow.store.contents import Contents, Unread
from outgrow.store.dcp.kinds import is_sharded_folder
from outgrow.store.dcp.opening import open_sharded
from outgrow.store.inventory import take_inventory
from outgrow.store.safetensors_file import Entry, read_header
from outgrow.store.safetensors_folder import SafetensorsSource, weight_files
from outgrow.store.source import Rows, TensorMeta, TensorSource
from outgrow.store.trainer_files import RANDOM
from outgrow.store.writer import BytesProgress, Key

if TYPE_CHECKING:
    from outgrow.parallel.ranks import Ranks


def open_state(
    folder: Path,
    *,
    allow_nonfinite: bool = False,
    headers_only: bool = False,
    progress: BytesProgress | None = None,
    ranks: Ranks | None = None,
) -> Contents:
    """Open a native state, a Trainer checkpoint or a Hugging Face model folder; check all of it before any work.

    With `headers_only` no tensor is read: names, shapes and dtypes are checked, numbers and checksums are not.
    """

    def checked(contents: Contents, checksums: Mapping[str, int]) -> Contents:
        if headers_only:
            return contents
        return _checked_bytes(contents, checksums, allow_nonfinite, ranks, progress)

    if is_temporary(folder.resolve()):
        raise CheckpointError(f"{folder} was left by an interrupted save", fix="delete it and save again")
    config = load_config(folder)
    refused: Mapping[str, str] = {}
    ignored: tuple[str, ...] = ()
    if is_sharded_folder(folder) and not (folder / INCOMPLETE).exists():
        contents = checked(open_sharded(folder, config), {})
        weights, optimizer, records = _sharded_names(folder)
        records += [f"{name}.json" for name in contents.records]
    elif (folder / native.MANIFEST).exists() or (folder / "optimizer.json").exists():
        opened, checksums = native.open_native(folder, config)
        contents = checked(opened, checksums)
        weights = [path.name for path in weight_files(folder)]
        optimizer = [name for name in checksums if name.startswith("optimizer")] + ["optimizer.json"]
        records = [f"{name}.json" for name in contents.records]
    else:
        _check_whole(folder)
        found = open_checkpoint(folder, config)
        contents = checked(found.contents, {})
        weights = [path.name for path in weight_files(folder)]
        optimizer, records, refused = list(found.optimizer), list(found.records), found.refused
        ignored = found.ignored
    if contents.unread and not refused:
        refused = dict.fromkeys(optimizer, "its numbers are not finite")
    raw, assets = raw_config(folder), find_assets(folder, grown=bool(contents.lineage))
    files = take_inventory(
        folder,
        weights=weights,
        optimizer=optimizer,
        records=records,
        unread=refused,
        dropped={name: why for name, why in DROPPED.items() if name in raw},
        ignored=ignored,
        grown=bool(contents.lineage),
    )
    if not (folder / GENERATION).is_file() and (made := generation_asset(raw)) is not None:
        assets = (*assets, made)
    return replace(contents, assets=assets, files=files)


def _sharded_names(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Files and folders of a sharded checkpoint: those of weights, of the optimizer alone, of Trainer's records."""
    names = [path.name + "/" * path.is_dir() for path in folder.iterdir()]
    optimizer = [name for name in names if name in ("optimizer_0/", "optimizer.bin", "optimizer.json")]
    records = [
        name
        for name in names
        if name in ("scheduler.pt", "trainer_state.json", "scaler.pt") or RANDOM.fullmatch(name)
    ]
    first = ("pytorch_model_fsdp", "model_and_optim/", ".metadata")
    return [n for n in names if n.startswith(first) or n.endswith(".distcp")], optimizer, records


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


@dataclass(frozen=True)
class WeightsOnly(TensorSource):
    """A source without its moments."""

    source: TensorSource

    def names(self, slot: str) -> tuple[str, ...]:
        return self.source.names(slot) if slot == "weight" else ()

    def files(self) -> frozenset[FileIdentity]:
        return self.source.files()

    def meta(self, name: str, slot: str) -> TensorMeta:
        return self.source.meta(name, slot)

    def read(self, name: str, slot: str, rows: Rows = None) -> Tensor:
        return self.source.read(name, slot, rows)


def _checked_bytes(
    contents: Contents,
    checksums: Mapping[str, int],
    allow_nonfinite: bool,
    ranks: Ranks | None,
    progress: BytesProgress | None,
) -> Contents:
    """Every number finite, every file as written: one pass over all bytes. Moments that are not finite are not read."""
    source = contents.source
    if allow_nonfinite and not checksums:
        return contents
    try:
        found = scan(
            source, finite=not allow_nonfinite, checksums=bool(checksums), ranks=ranks, progress=progress
        )
    except CheckpointError as error:
        if checksums:
            _check_checksums(
                source, checksums, scan(source, finite=False, checksums=True, ranks=ranks, progress=progress)
            )
        weights = WeightsOnly(source)
        scan(weights, ranks=ranks, progress=progress)  # raises where the weights are at fault
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
