"""`outgrow export`: a state written in another format, streamed from file to file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outgrow.commands.options import ExportCall
from outgrow.commands.outcome import Outcome
from outgrow.commands.writing import read_state
from outgrow.engine.progress import bytes_progress
from outgrow.files.atomic import check_destination
from outgrow.parallel.ranks import start_ranks
from outgrow.report.files import left_lines
from outgrow.store.contents import has_moments
from outgrow.store.inventory import fates
from outgrow.text.numbers import amount

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Exported(Outcome):
    """Where the state is, in which format, and its bytes."""

    output: Path
    format: str
    bytes: int
    left_behind: dict[str, str]
    """Files of the source that this format has no place for, and why."""

    def show(self, console: Console) -> None:
        """Where it is, and what is not in it."""
        console.print(f"Written: {self.output} ({amount(self.bytes)}B)", soft_wrap=True)
        for line in left_lines(self.left_behind):
            console.print(line, markup=False, soft_wrap=True)

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {**asdict(self), "output": str(self.output)}


def run(call: ExportCall, console: Console) -> Exported:
    """Write the state again, every process its share. The destination is checked before any work."""
    ranks = start_ranks()
    with ranks.watched():
        check_destination(call.out, overwrite=call.overwrite, sources=[call.checkpoint])
        ranks.agree("the export", [str(call.checkpoint), str(call.out), call.format])
        state = read_state(call.checkpoint, console, allow_nonfinite=call.allow_nonfinite, ranks=ranks)
        with bytes_progress("writing", show=not console.quiet) as progress:
            state.save_pretrained(
                call.out, format=call.format, overwrite=call.overwrite, progress=progress, ranks=ranks
            )
    size = sum(path.stat().st_size for path in call.out.rglob("*") if path.is_file())
    found = fates(state.files, call.format, moments=call.format != "hub" and has_moments(state.source))
    return Exported(call.out, call.format, size, found["left_behind"])
