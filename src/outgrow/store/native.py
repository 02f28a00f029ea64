"""The native state: a folder of safetensors and JSON, without any pickle, that `from_pretrained` opens as it is.

    model-*.safetensors       weights under in-memory names
    optimizer-*.safetensors   state.<name>.exp_avg, state.<name>.exp_avg_sq ..., as the optimizer keeps them (see `rules`)
    optimizer.json            class, groups by name, steps by name
    <record>.json             schedule, data, rng, trainer, scheduler ...
    config.json               and the tokenizer's files
    outgrow.json              written last: version, libraries, lineage, every file with its size and CRC-32

A folder without `outgrow.json` is unfinished.
"""

from __future__ import annotations

import platform
import re
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from outgrow.algebra.slots import SLOTS
from outgrow.errors import CheckpointError
from outgrow.files.atomic import json_text
from outgrow.models.library import model_names
from outgrow.models.names import ModelNames, Shape
from outgrow.store.assets import TEMPLATES, is_asset
from outgrow.store.card import CARD
from outgrow.store.config_file import read_json
from outgrow.store.contents import Contents, OptimizerInfo
from outgrow.store.libraries import versions
from outgrow.store.lineage import Lineage
from outgrow.store.optimizer_rules import step_count
from outgrow.store.pickled import record_text, record_value
from outgrow.store.safetensors_file import Entry
from outgrow.store.safetensors_folder import (
    SafetensorsSource,
    match_names,
    plain_name,
    read_files,
    some,
    weight_files,
)
from outgrow.store.stacked import Place

MANIFEST = "outgrow.json"
FORMAT_VERSION = 1
_SHARD = ".distcp"
RESERVED = frozenset({"config", "optimizer", "outgrow"})
"""What no record may be called, nor any file that is carried along: `<record>.json` lies beside these files."""


def moment_key(name: str, slot: str) -> str:
    """What `optimizer-*.safetensors` calls a moment."""
    return f"state.{name}.{slot}"


def check_record_name(name: str) -> None:
    """An error where a record's name cannot be a file name of its own."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in RESERVED or is_asset(f"{name}.json"):
        raise CheckpointError(
            f"{name!r} cannot be the name of a record",
            expected="small letters, and no name of a model's files",
        )


def manifest(
    config: Mapping[str, Any],
    lineage: Lineage,
    records: Mapping[str, Any],
    step: int,
    files: Mapping[str, tuple[int, int]],
) -> dict[str, Any]:
    """The content of `outgrow.json`; `files` maps a name to size and CRC-32."""
    return {
        "format": "outgrow-state",
        "format_version": FORMAT_VERSION,
        "model_type": config.get("model_type"),
        "libraries": {"python": platform.python_version()} | versions(),
        "step": step,
        "lineage": list(lineage),
        "records": sorted(records),
        "files": {
            name: {"bytes": size, "crc32": f"{crc:08x}"} for name, (size, crc) in sorted(files.items())
        },
    }


def write_native_beside(
    folder: Path, state: Contents, step: int, files: Mapping[str, tuple[int, int]]
) -> None:
    """Everything of a state that is no tensor, `outgrow.json` last; tensors, config and assets lie in `folder` already.

    `files` gives size and CRC-32 of files that need not be read again.
    """
    if state.optimizer is not None:
        content = {**state.optimizer.to_json(), "steps": state.steps}
        (folder / "optimizer.json").write_text(json_text(content), encoding="utf-8")
    for name, record in state.records.items():
        (folder / f"{name}.json").write_text(record_text(name, record), encoding="utf-8")
    found = dict(files)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in found and name not in (MANIFEST, CARD):  # people write in the card
            crc = 0 if path.suffix == _SHARD else zlib.crc32(path.read_bytes())
            found[name] = (path.stat().st_size, crc)
    made = manifest(state.config, state.lineage, state.records, step, found)
    (folder / MANIFEST).write_text(json_text(made), encoding="utf-8")


def open_native(folder: Path, config: dict[str, Any]) -> tuple[Contents, dict[str, int]]:
    """Open a native state; every file's presence and size, every name and shape is checked first.

    With it come the CRC-32 of the files whose tensors its source reads, by file name, to be held against their bytes.
    """
    names = model_names(config)
    content = read_manifest(folder)
    lineage = native_lineage(folder, content)
    checksums = check_files(folder, content["files"])
    weights = SafetensorsSource.open(folder, replace(names, apart={}))
    optimizer, steps, moments = _read_optimizer(folder, content["files"], names)
    records = read_native_records(folder, content)
    source = SafetensorsSource({**weights.entries, **moments}, weights.metadata)
    return Contents(config, source, steps, optimizer, records, lineage), checksums


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of `outgrow.json`; an error where the folder is unfinished or it is no description of a state."""
    path = folder / MANIFEST
    if not path.is_file():
        fix = "save it again; a folder without outgrow.json was not finished"
        raise CheckpointError(f"{folder} is an unfinished state: it has no {MANIFEST}", fix=fix)
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != "outgrow-state":
        raise CheckpointError(f"{path} does not describe a native state")
    if content.get("format_version") != FORMAT_VERSION:
        fix = "install a newer outgrow"
        raise CheckpointError(
            f"{path} has another format version",
            got=content.get("format_version"),
            expected=FORMAT_VERSION,
            fix=fix,
        )
    files, records = content.get("files"), content.get("records")
    if not (
        isinstance(files, dict)
        and all(plain_name(_inside(name)) and isinstance(entry, dict) for name, entry in files.items())
        and isinstance(records, list)
        and all(plain_name(name) for name in records)
    ):
        raise CheckpointError(f"{path} is damaged", expected="files and records of plain names")
    return content


def native_lineage(folder: Path, content: Mapping[str, Any]) -> Lineage:
    """The growths that `outgrow.json` tells. Raises CheckpointError where it tells anything else."""
    return Lineage.read(content.get("lineage"), f"{folder / MANIFEST}: lineage")


def _inside(name: str) -> str:
    """A file's name without the one folder that a state may hold."""
    return name.removeprefix(f"{TEMPLATES}/")


def check_files(folder: Path, files: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of all files and checksums of the small ones; those of the tensors' files are returned for later.

    A sharded state's files of tensors have none: many processes write them while training goes on.
    """
    later: dict[str, int] = {}
    for name, entry in files.items():
        path = folder / name
        try:
            size, crc = int(entry["bytes"]), int(entry["crc32"], 16) if path.suffix != _SHARD else 0
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder / MANIFEST} is damaged at {name}", got=error) from error
        if not path.is_file():
            raise CheckpointError(
                f"{path} is missing", expected=f"named by {MANIFEST}", fix="copy the folder again"
            )
        found = path.stat().st_size
        if found != size:
            what = "is truncated" if found < size else "has changed since it was written"
            fix = "copy the folder again"
            raise CheckpointError(f"{path} {what}", got=f"{found} bytes", expected=f"{size} bytes", fix=fix)
        if path.suffix == ".safetensors":
            later[name] = crc
        elif path.suffix != _SHARD and zlib.crc32(path.read_bytes()) != crc:
            raise changed(path)
    return later


def read_native_records(folder: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The records that a manifest names."""
    try:
        return {name: record_value(read_json(folder / f"{name}.json")) for name in content["records"]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"a record in {folder} is damaged", got=error) from error


def changed(path: Path) -> CheckpointError:
    """The error of a checksum that does not match."""
    fix = "copy the folder again; a file of a native state must not be edited"
    return CheckpointError(f"{path} is damaged: its checksum is not the one in {MANIFEST}", fix=fix)


def read_groups(
    folder: Path, files: Mapping[str, Any], names: ModelNames
) -> tuple[OptimizerInfo | None, dict[str, float]]:
    """`optimizer.json`: the optimizer's groups, and the steps that each parameter has seen."""
    path = folder / "optimizer.json"
    if path.name not in files:
        return None, {}
    content = read_json(path)
    try:
        info = OptimizerInfo.from_json(content)
        steps = {str(name): step_count("", str(name), step) for name, step in content["steps"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, CheckpointError) as error:
        raise CheckpointError(f"{path} is damaged", got=error) from error
    grouped = [name for group in info.groups for name in group.names]
    if len(set(grouped)) < len(grouped) or not set(grouped) <= set(names.trained):
        fix = "every parameter belongs to one group at most"
        wrong = set(grouped) - set(names.trained) or grouped
        raise CheckpointError(
            f"the groups in {path} are not the model's parameters", got=some(wrong), fix=fix
        )
    return info, steps


def _read_optimizer(
    folder: Path, files: Mapping[str, Any], names: ModelNames
) -> tuple[OptimizerInfo | None, dict[str, float], dict[str, dict[str, Place]]]:
    info, steps = read_groups(folder, files, names)
    path = folder / "optimizer.json"
    if info is None:
        return None, {}, {}
    if not any(file.startswith("optimizer") and file.endswith(".safetensors") for file in files):
        if steps:
            raise CheckpointError(f"{path} counts steps, but {folder} holds no moments")
        return info, {}, {}
    disk: dict[str, Entry] = {}
    for entries, _ in read_files(weight_files(folder, "optimizer")):
        disk.update(entries)
    slots = info.slots(names.trained)
    expected: dict[str, dict[str, Shape]] = {}
    for name, shape in names.trained.items():
        for slot in slots.get(name, ()):
            expected.setdefault(slot, {})[name] = SLOTS[slot].shape(shape)
    moments = {slot: _slot_entries(folder, disk, shapes, slot) for slot, shapes in expected.items()}
    if set(steps) != info.counted():
        raise CheckpointError(f"{path} has steps of other parameters", got=some(set(steps) ^ info.counted()))
    unknown = set(disk) - {moment_key(name, slot) for slot, shapes in expected.items() for name in shapes}
    if unknown:
        raise CheckpointError(f"{folder} holds moments of unknown parameters", got=some(unknown))
    return info, {name: step for name, step in steps.items() if name in names.trained}, moments


def _slot_entries(
    folder: Path, disk: Mapping[str, Entry], shapes: Mapping[str, Shape], slot: str
) -> dict[str, Place]:
    names = {moment_key(name, slot): name for name in shapes}
    plain = {names[key]: entry for key, entry in disk.items() if key in names}
    try:
        return match_names(folder, plain, ModelNames(shapes, {}, ""))
    except CheckpointError as error:
        raise CheckpointError(f"the moments {slot} in {folder} do not fit the model", got=error) from error
