"""What a folder is that is no training state: named, with what to do, before a reader stumbles over a detail of it.

An adapter, a GGUF file, a pointer of git-lfs, a name on the hub, a folder of the hub's cache, weights that were quantised,
saved from a wrapper, or of another format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from outgrow.errors import CheckpointError
from outgrow.files.reading import check_regular
from outgrow.store.safetensors_file import Entry

_POINTER = b"version https://git-lfs"
_WRAPPERS = {
    "_orig_mod.": (
        "a compiled model (torch.compile)",
        "save model._orig_mod, or accelerate's unwrap_model(model)",
    ),
    "module.": (
        "a wrapped model (DistributedDataParallel)",
        "save model.module, or accelerate's unwrap_model(model)",
    ),
    "base_model.model.": (
        "a model with an adapter (PEFT)",
        "merge the adapter: model.merge_and_unload().save_pretrained(...)",
    ),
}
_QUANTISED = re.compile(
    r"\.(qweight|qzeros|g_idx|scales|SCB|absmax|nested_\w+|quant_map|quant_state\..*|zero_point"
    r"|weight_(packed|scale|scale_inv|shape|zero_point))$|_(blocks|scales)$"
)


def refuse_foreign(folder: Path) -> None:
    """Raise CheckpointError where a path is something else than the folder of a model, and say what it is."""
    if not folder.is_dir():
        raise _no_folder(folder)
    for path in folder.iterdir():
        if path.is_symlink() and not path.exists():
            raise CheckpointError(
                f"{path} is a link to nothing", fix="fetch the folder again: a part of it is missing"
            )
        if not path.is_dir():
            check_regular(path, CheckpointError)
    names = sorted(path.name for path in folder.iterdir())
    if "snapshots" in names and (folder / "snapshots").is_dir() and "config.json" not in names:
        found = sorted(str(path) for path in (folder / "snapshots").iterdir())
        fix = f"give one of its snapshots: {', '.join(found[:3]) or 'there is none yet'}"
        raise CheckpointError(
            f"{folder} is a model's folder in the cache of the hub, not the model itself", fix=fix
        )
    if "config.json" not in names and any(name.startswith("models--") for name in names):
        found = [name for name in names if name.startswith("models--")]
        fix = "give the folder of one model in it: models--OWNER--NAME/snapshots/COMMIT"
        raise CheckpointError(f"{folder} is the cache of the hub", got=", ".join(found[:3]), fix=fix)
    weights = [
        name for name in names if name.startswith("model") and name.endswith((".safetensors", ".index.json"))
    ]
    if not weights and any(name.startswith("adapter_") for name in names):
        fix = "load base and adapter with peft, model.merge_and_unload().save_pretrained(FOLDER), and give that folder"
        raise CheckpointError(
            f"{folder} is an adapter (LoRA and the like), not a whole model: merge it first", fix=fix
        )
    files = [name for name in names if name.endswith(".gguf")]
    if not weights and files:
        raise _gguf(folder / files[0])
    for name in ("config.json", *weights):
        if (folder / name).is_file() and _begins(folder / name, _POINTER):
            fix = "run `git lfs pull` there, or fetch the folder with `hf download NAME --local-dir FOLDER`"
            raise CheckpointError(f"{folder / name} is a pointer of git-lfs, not the file itself", fix=fix)


def refuse_tensors(folder: Path, disk: Mapping[str, Entry]) -> None:
    """Raise CheckpointError where names and dtypes say that the weights are quantised, or were saved from a wrapper."""
    small = [
        name
        for name, entry in disk.items()
        if not entry.meta.dtype.is_floating_point or entry.meta.dtype.itemsize < 2
    ]
    marked = [name for name in disk if _QUANTISED.search(name)]
    if marked or [name for name in small if disk[name].meta.dtype != torch.bool and name.endswith("weight")]:
        name = (marked or small)[0]
        raise CheckpointError(
            f"{folder} holds quantised weights, which cannot be grown",
            got=f"{name}, {str(disk[name].meta.dtype).removeprefix('torch.')}",
            fix="give the checkpoint from before it was quantised, or dequantise it: model.dequantize().save_pretrained(...)",
        )
    for prefix, (what, fix) in _WRAPPERS.items():
        wrapped = [name for name in disk if name.startswith(prefix)]
        if wrapped and 2 * len(wrapped) > len(disk):
            raise CheckpointError(
                f"{folder} was saved from {what}: its names begin with {prefix}", got=wrapped[0], fix=fix
            )


def _no_folder(path: Path) -> CheckpointError:
    if path.is_file():
        if path.suffix == ".gguf" or _begins(path, b"GGUF"):
            return _gguf(path)
        return CheckpointError(f"{path} is a file, not a folder", fix="give the folder that it lies in")
    words = path.as_posix()
    if re.fullmatch(r"[\w.-]+/[\w.-]+", words):
        fix = f"if this is a model of the hub, fetch it: hf download {words} --local-dir FOLDER"
    else:
        fix = "outgrow opens local folders; fetch one of the hub with `hf download NAME --local-dir FOLDER`"
    return CheckpointError(f"{path} is not a folder", fix=fix)


def _gguf(path: Path) -> CheckpointError:
    fix = "give the folder in Hugging Face's format that it was made from: GGUF is for running a model, not for training it"
    return CheckpointError(f"{path} is a GGUF file", fix=fix)


def _begins(path: Path, words: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(words)) == words
