"""`outgrow verify`: the proof of a growth, as tables and a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from outgrow.commands.writing import read_state
from outgrow.data.proof_batches import proof_batches
from outgrow.errors import ConfigError
from outgrow.proof.verify import verify
from outgrow.report.plot import check_picture
from outgrow.report.proof import draw_proof
from outgrow.state.training_state import TrainingState

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


def verify_command(
    small: Path,
    large: Path,
    data: str | None,
    *,
    steps: int,
    learning_rate: float,
    dtype: str,
    device: str,
    plot: Path | None,
    dry_run: bool,
    console: Console,
) -> dict[str, Any]:
    """Measure and show what the growth of `small` into `large` kept; returns plain data, with `passed` unless it is a dry run."""
    if dtype not in _DTYPES:
        raise ConfigError(f"unknown dtype '{dtype}'", expected="float64, float32 or bfloat16")
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"no device '{device}' here", expected="cpu, or cuda where torch sees one")
    if not 0 < learning_rate < math.inf:
        raise ConfigError("the learning rate is not a number above 0", got=learning_rate)
    if plot is not None:
        check_picture(plot)
    before, after = (
        read_state(folder, console, allow_nonfinite=True, headers_only=dry_run) for folder in (small, large)
    )
    batches, source = proof_batches(before, data, count=max(1, steps))
    what, first = next(iter(batches[0].items()))
    console.print(f"Data: {source}, {len(batches)} batches of {what} {tuple(first.shape)}.")
    if dry_run:
        needed = _memory(after, _DTYPES[dtype], steps, first.shape.numel())
        what_is_done = f"train both models {steps} steps" if steps else "compare the losses"
        console.print(f"Would {what_is_done} in {dtype}; memory about {needed / 1e9:.2f} GB.")
        return {"data": source, "steps": steps, "dtype": dtype, "memory_bytes": needed}
    report = verify(
        before,
        after,
        batches,
        steps=steps,
        learning_rate=learning_rate,
        dtype=_DTYPES[dtype],
        device=device,
        progress=lambda text: console.print(f"{text} ...", style="dim"),
    )
    if plot is not None:
        draw_proof(report, plot)
    console.print(report.verdict, markup=False)
    console.print(report.table().rich())
    return report.to_json()


def _memory(large: TrainingState, dtype: torch.dtype, steps: int, tokens: int) -> int:
    """Bytes at the peak: the larger model and its logits; with gradients and steps of both, about twenty numbers a weight."""
    weights = sum(
        torch.Size(large.source.meta(name, "weight").shape).numel() for name in large.source.names("weight")
    )
    logits = 3 * tokens * int(large.config.get("vocab_size") or large.config.get("num_labels") or 1)
    return dtype.itemsize * ((20 if steps else 1) * weights + logits)
