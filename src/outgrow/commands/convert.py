"""`outgrow convert`: a state described as another model type, streamed from file to file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from outgrow.algebra.slots import SLOTS
from outgrow.commands.options import ConvertCall
from outgrow.commands.outcome import Outcome
from outgrow.commands.writing import read_state, written_line
from outgrow.engine.progress import bytes_progress
from outgrow.files.atomic import check_destination
from outgrow.models.conversion import Conversion, conversion
from outgrow.report.explain import slot_bytes
from outgrow.report.files import left_lines
from outgrow.state.converting import converted
from outgrow.store.config_file import load_config
from outgrow.store.contents import has_moments
from outgrow.store.inventory import fates
from outgrow.store.streaming_memory import streaming_memory
from outgrow.store.writer import BLOCK_BYTES, WORKERS
from outgrow.text.numbers import amount

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Converted(Outcome):
    """A conversion that was done, or in a dry run would be."""

    call: ConvertCall
    conversion: Conversion
    output_bytes: int
    memory_bytes: int
    """Above Python's own; of mapped files, as many pages as are written."""
    left_behind: dict[str, str]
    """Files of the source that the result has no place for, and why."""

    @property
    def new(self) -> list[str]:
        """Kinds of tensors that the source lacks."""
        large = self.conversion.large.parameters
        return sorted(
            {large[name].tail for name, made in self.conversion.tensors.items() if not made.sources}
        )

    def show(self, console: Console) -> None:
        """What became what."""
        moved = sum(bool(made.sources) for made in self.conversion.tensors.values())
        new = f", new: {', '.join(self.new)}" if self.new else ""
        before, call = self.conversion.spec.from_, self.call
        console.print(f"{before} → {call.as_type}: {moved} tensors moved{new}. The function is kept.")
        console.print(
            f"{amount(self.output_bytes)}B; memory about {amount(self.memory_bytes)}B above Python's own "
            f"and {amount(self.output_bytes)}B of mapped files."
        )
        for line in left_lines(self.left_behind):
            console.print(line, markup=False, soft_wrap=True)
        if not call.dry_run:
            console.print(written_line(call.checkpoint, call.out), soft_wrap=True)

    def to_json(self) -> dict[str, Any]:
        """The conversion as a lineage tells it, and what is new."""
        own: dict[str, Any] = {"moments": self.call.moments, "new": self.new, "output": str(self.call.out)}
        own |= {"output_bytes": self.output_bytes, "memory_bytes": self.memory_bytes}
        own |= {"mapped_bytes": self.output_bytes, "left_behind": self.left_behind}
        return {**self.conversion.describe(), **own}


def run(call: ConvertCall, console: Console) -> Converted:
    """Convert, and write unless it is a dry run. Fields, names and shapes are checked before any tensor is read: a dry run
    ends there."""
    found = conversion(load_config(call.checkpoint), call.as_type)
    check_destination(call.out, overwrite=call.overwrite, sources=[call.checkpoint])
    state = converted(
        read_state(call.checkpoint, console, allow_nonfinite=call.allow_nonfinite, headers_only=call.dry_run),
        found,
        moments=call.moments,
        seed=call.seed,
    )
    if not call.dry_run:
        with bytes_progress("writing", show=not console.quiet) as progress:
            state.save_pretrained(call.out, format=call.format, overwrite=call.overwrite, progress=progress)
    written = sum(slot_bytes(state.source, slot) for slot in SLOTS)
    moments = call.format != "hub" and has_moments(state.source)
    left = fates(state.files, call.format, moments=moments)["left_behind"]
    return Converted(call, found, written, streaming_memory(WORKERS, BLOCK_BYTES), left)
