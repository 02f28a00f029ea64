"""A fitted operator on the disk: a folder with `operator.safetensors` and `operator.json`, whole or absent, no pickle.

    operator.safetensors   the fitted numbers, and operator.json again as its metadata: this one file is enough
    operator.json          method, options, sizes, what the source was, how it was fitted

A state that was grown by an operator carries a copy of the one file, so that `outgrow verify` can do the growth again.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from outgrow.errors import CheckpointError, GrowthError
from outgrow.files.atomic import json_text, publishing
from outgrow.methods.learned.fitted import FittedOperator
from outgrow.store.assets import Asset
from outgrow.store.safetensors_file import read_header
from outgrow.store.source import TensorSource

FILE, DESCRIPTION = "operator.safetensors", "operator.json"
OPERATOR_FORMAT_VERSION = 1
_SAMPLED_ROWS = 16


class _Source(BaseModel):
    """What `check_source` and `check_sample` compare."""

    model_config = ConfigDict(strict=True)

    model_type: str
    layers: int
    shapes: dict[str, list[int]]
    sample: dict[str, str] = {}
    eps: dict[str, float] = {}


class _Description(BaseModel):
    """The types that a `FittedOperator` is made of."""

    model_config = ConfigDict(strict=True)

    method: str
    options: dict[str, Any]
    to: dict[str, int]
    eps: dict[str, float]
    source: _Source
    record: dict[str, Any]
    digest: str


_FIELDS = tuple(name for name in _Description.model_fields if name != "digest")


def save_operator(operator: FittedOperator, folder: Path, *, overwrite: bool = False) -> FittedOperator:
    """Write an operator; returns it with the digest of its numbers. Raises CheckpointError where the folder exists."""
    from safetensors.torch import save as safetensors

    content = {
        "format": "outgrow-operator",
        "format_version": OPERATOR_FORMAT_VERSION,
        **{name: getattr(operator, name) for name in _FIELDS},
        "digest": digest(operator.values),
    }
    check_place(folder)
    with publishing(folder, overwrite=overwrite) as temporary:
        values = {name: value.contiguous() for name, value in operator.values.items()}
        # One key: safetensors writes several in any order, and the same operator is the same bits.
        # Written by Python: the library's own writer hides what the system said.
        (temporary / FILE).write_bytes(safetensors(values, metadata={"outgrow": json.dumps(content)}))
        (temporary / DESCRIPTION).write_text(json_text(content), encoding="utf-8")
    return replace(operator, digest=content["digest"], file=folder / FILE)


def check_place(folder: Path) -> None:
    """An operator replaces an operator alone. Raises CheckpointError for a model's folder, which would be lost."""
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if set(found) - {FILE, DESCRIPTION}:
        raise CheckpointError(
            f"{folder} is no operator's folder, so no operator takes its place",
            got=", ".join(found[:5]),
            fix="choose another folder",
        )


def kept_operator(operator: FittedOperator) -> FittedOperator:
    """The operator with a file: its own, or one that lasts as long as this process."""
    if operator.file is not None:
        return operator
    folder = Path(tempfile.mkdtemp(prefix="outgrow-operator-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return save_operator(operator, folder / "operator")


def load_operator(path: Path) -> FittedOperator:
    """Read an operator's folder, or its one file; header, fields, finiteness and digest are checked."""
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise CheckpointError(
            f"{path} is not a fitted operator: there is no {FILE}",
            fix="give the folder that `outgrow learn --save-operator` wrote",
        )
    header = read_header(file)
    values = {name: entry.read().clone() for name, entry in header.entries.items()}
    content = _content(file, header.metadata.get("outgrow", ""))
    for name, value in values.items():
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{file} is damaged: '{name}' holds numbers that are not finite")
    if digest(values) != content["digest"]:
        raise CheckpointError(f"{file} is damaged: its numbers have changed since it was written")
    return FittedOperator(
        **{name: content[name] for name in _FIELDS}, values=values, digest=str(content["digest"]), file=file
    )


def digest(values: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and numbers, 32 hex digits."""
    found = hashlib.sha256()
    for name in sorted(values):
        value = values[name].contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return found.hexdigest()[:32]


def _content(file: Path, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("format") != "outgrow-operator":
        raise CheckpointError(
            f"{file} is not a fitted operator: it does not say what it is",
            fix="give the folder that `outgrow learn --save-operator` wrote",
        )
    if content.get("format_version") != OPERATOR_FORMAT_VERSION:
        raise CheckpointError(
            f"{file} has another format version",
            got=content.get("format_version"),
            expected=OPERATOR_FORMAT_VERSION,
            fix="install a newer outgrow",
        )
    try:
        _Description.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{file} is damaged: its description at {where}", got=first["msg"]) from None
    return content


def learned_values(source: TensorSource) -> dict[str, Tensor]:
    """All weights of a source in memory: what a fit starts from."""
    return {name: source.read(name, "weight").detach().clone() for name in source.names("weight")}


def sampled(source: TensorSource, names: Iterable[str]) -> dict[str, str]:
    """What a source is told by where its very weights matter: digests of these, by name, each of its first rows.

    A training that changes a weight changes its first rows too; which weights it leaves alone (frozen ones, or all but
    those of adapters) cannot be known.
    """
    found = {}
    for name in names:
        rows = slice(0, _SAMPLED_ROWS) if source.meta(name, "weight").shape else None
        found[name] = digest({name: source.read(name, "weight", rows)})
    return found


def check_sample(operator: FittedOperator, source: TensorSource) -> None:
    """Raise GrowthError where an operator that holds predicted layers meets other weights than those it was fitted to."""
    wanted = operator.source.get("sample", {})
    found = sampled(source, wanted)
    if wrong := next((name for name in wanted if found[name] != wanted[name]), None):
        raise GrowthError(
            f"this {operator.method} operator holds layers that were predicted from other weights: '{wrong}' differs",
            fix="fit one to this source with `outgrow learn`",
        )


def asset_of(assets: tuple[Asset, ...], wanted: str) -> FittedOperator:
    """The operator that a grown state carries. Raises GrowthError where it is gone or another."""
    file = next((asset.path for asset in assets if asset.name == FILE), None)
    if file is None:
        raise GrowthError(
            f"the state was grown by a fitted operator ({wanted[:12]}), which is not beside it any more",
            expected=f"{FILE} in the state's folder",
            fix="copy it there from the operator's folder",
        )
    operator = load_operator(file)
    if operator.digest != wanted:
        raise GrowthError(
            "the fitted operator beside the state is not the one that it was grown by",
            got=operator.digest[:12],
            expected=wanted[:12],
            fix=f"copy the right {FILE} into the state's folder",
        )
    return operator
