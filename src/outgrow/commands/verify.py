"""`outgrow verify`: the proof of a growth, as tables and a picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outgrow.algebra.slots import SLOTS
from outgrow.commands.options import VerifyCall
from outgrow.commands.outcome import Outcome
from outgrow.commands.writing import read_state
from outgrow.cost.proof_memory import forward_memory, proof_memory
from outgrow.data.proof_batches import proof_batches
from outgrow.errors import ConfigError
from outgrow.files.section import LARGEST
from outgrow.proof.verdict import Report
from outgrow.proof.verify import verify
from outgrow.report.explain import slot_bytes
from outgrow.report.plot import check_picture
from outgrow.report.proof import draw_proof
from outgrow.state.training_state import TrainingState
from outgrow.text.numbers import amount

if TYPE_CHECKING:
    from rich.console import Console

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Verified(Outcome):
    """The measured proof."""

    report: Report

    @property
    def failed(self) -> bool:
        """Whether a promise failed."""
        return not self.report.passed

    def show(self, console: Console) -> None:
        """The verdict and the numbers."""
        console.print(self.report.verdict, markup=False)
        console.print(self.report.table().rich())

    def to_json(self) -> dict[str, Any]:
        """All numbers, and `passed`."""
        return self.report.to_json()


@dataclass(frozen=True)
class VerifyPlanned(Outcome):
    """What a proof would do, and the bytes that it would need."""

    data: str
    steps: int
    dtype: str
    memory_bytes: int
    """Above Python's own,"""
    mapped_bytes: int
    """and pages of mapped files, which the system takes back where it needs them."""

    def show(self, console: Console) -> None:
        """One line."""
        what = (
            f"train both models {self.steps} steps" if self.steps else "compare the losses, a layer at a time"
        )
        console.print(
            f"Would {what} in {self.dtype}; memory about {amount(self.memory_bytes)}B above Python's own "
            f"and {amount(self.mapped_bytes)}B of mapped files."
        )

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


def run(call: VerifyCall, console: Console) -> Verified | VerifyPlanned:
    """Measure what the growth of `small` into `large` kept. What can be refused is, before anything is read."""
    if call.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch sees no cuda device here", fix="leave out --device")
    if not 0 < call.learning_rate <= LARGEST:
        raise ConfigError(
            "the learning rate is not a number above 0", got=call.learning_rate, expected=f"up to {LARGEST:g}"
        )
    if call.plot is not None:
        check_picture(call.plot)
    dtype, steps = DTYPES[call.dtype], call.steps
    before, after = (
        read_state(folder, console, allow_nonfinite=True, headers_only=call.dry_run)
        for folder in (call.small, call.large)
    )
    batches, source = proof_batches(before, call.data, count=max(1, steps))
    what, first = next(iter(batches[0].items()))
    number = f"{len(batches)} batch{'es' * (len(batches) > 1)}"
    console.print(f"Data: {source}, {number} of {what} {tuple(first.shape)}.")
    if call.dry_run:
        needed = _memory(before, after, dtype, steps, first)
        mapped = sum(slot_bytes(state.source, slot) for state in (before, after) for slot in SLOTS)
        return VerifyPlanned(source, steps, call.dtype, needed, mapped)
    report = verify(
        before,
        after,
        batches,
        steps=steps,
        learning_rate=call.learning_rate,
        dtype=dtype,
        device=call.device,
        progress=lambda text: console.print(f"{text} ...", style="dim"),
    )
    if call.plot is not None:
        draw_proof(report, call.plot)
    return Verified(report)


def _memory(small: TrainingState, large: TrainingState, dtype: torch.dtype, steps: int, first: Tensor) -> int:
    """Bytes at the peak, above Python's own."""
    how = {"sequences": len(first), "sequence_length": first.shape[1], "itemsize": dtype.itemsize}
    if not steps:
        return max(forward_memory(state.config, **how) for state in (small, large))
    return proof_memory(small.config, large.config, adam=bool(large.steps), **how)
