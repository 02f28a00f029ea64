"""Sharded checkpoints told by what lies in the folder, before anything is read."""

from __future__ import annotations

from pathlib import Path

from outgrow.errors import CheckpointError

SHARDED = (".metadata", "pytorch_model_fsdp_0", "pytorch_model_fsdp.bin", "model_and_optim")
"""Of these, one lies in every folder that is opened here."""


def is_sharded_folder(folder: Path) -> bool:
    """Whether a folder is a sharded checkpoint, or FSDP's whole one."""
    return any((folder / name).exists() for name in SHARDED)


def refuse_unreadable(folder: Path) -> None:
    """An error that says why, for checkpoints of other trainers that hold no tensors by name."""
    steps = sorted(path.name for path in folder.glob("*step*") if is_sharded_folder(path))
    steps += sorted(path.name for path in folder.glob("iter_*") if is_sharded_folder(path))
    if steps:
        raise CheckpointError(
            f"{folder} holds several checkpoints",
            got=", ".join(steps[:5]),
            fix=f"give one of them: {folder / steps[-1]}",
        )
    if (folder / "checkpoint_metadata.json").exists() and (folder / "model").is_dir():
        fix = "convert it with nanotron's examples/llama/convert_nanotron_to_hf.py; its moments are flat pieces of pickles"
        raise CheckpointError(f"{folder} is a checkpoint of nanotron, which outgrow does not read", fix=fix)
    if any(folder.glob("mp_rank_*")):
        fix = "save it with --ckpt-format torch_dist"
        raise CheckpointError(f"{folder} is a checkpoint of Megatron by ranks, whole pickles", fix=fix)
