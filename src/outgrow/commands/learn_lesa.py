"""`outgrow learn --method lesa`: layers predicted from their neighbours, without data, then grown like any operator."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from outgrow.commands.keeping import check_result, grow_and_write, needed, written
from outgrow.commands.options import LearnCall, asked_sizes
from outgrow.commands.outcome import Outcome
from outgrow.commands.writing import read_state
from outgrow.learning.lesa import Predicted, learn_lesa, lesa_form, lesa_memory
from outgrow.run.learn_options import LesaOptions
from outgrow.store.config_file import load_config

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class LesaLearned(Outcome):
    """Layers that were predicted; in a dry run there is no fit."""

    call: LearnCall
    new_layers: int
    memory_bytes: int
    """Of the fits, above Python's own,"""
    mapped_bytes: int
    """and pages of mapped files, which the system takes back where it needs them."""
    fit: Predicted | None

    def show(self, console: Console) -> None:
        """How well old layers are predicted, and where the result is."""
        if self.fit is None:
            return
        console.print(
            f"Squared error of old layers, predicted from their neighbours: {self.fit.error:.4f} of their size; "
            f"of the neighbours' mean: {self.fit.error_of_mean:.4f}."
        )
        console.print(written(self.call), soft_wrap=True)

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        told = {
            "method": "lesa",
            "new_layers": self.new_layers,
            "memory_bytes": self.memory_bytes,
            "mapped_bytes": self.mapped_bytes,
            "output": str(self.call.out),
        }
        if self.fit is None:
            return told
        return {**told, "error": self.fit.error, "error_of_mean": self.fit.error_of_mean}


def learn_by_lesa(call: LearnCall, options: LesaOptions, console: Console) -> LesaLearned:
    """Predict, save the operator, grow. Everything that can be refused is, before anything is read."""
    to = asked_sizes(call.to)
    form = lesa_form(load_config(call.checkpoint), to, options)
    check_result(call, asdict(options))
    new = form.large.layers - form.small.layers
    console.print(
        f"lesa: {new} new layers between {form.small.layers}, each matrix predicted from its two neighbours; "
        f"{options.steps} steps for each of {len(form.patterns)} kinds of parameters, no data."
    )
    state = read_state(call.checkpoint, console, headers_only=call.dry_run)
    memory, mapped = lesa_memory(form, options, state.source)
    console.print(needed(memory, mapped))
    if call.dry_run:
        return LesaLearned(call, new, memory, mapped, None)
    fitted, fit = learn_lesa(state, to, options)
    grow_and_write(call, fitted, state)
    return LesaLearned(call, new, memory, mapped, fit)
