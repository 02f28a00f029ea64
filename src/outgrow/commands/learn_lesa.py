"""`outgrow learn --method lesa`: layers predicted from their neighbours, without data, then grown like any operator."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from outgrow.commands.keeping import check_result, grow_and_write, written
from outgrow.commands.options import LearnCall, asked_sizes
from outgrow.commands.outcome import Outcome
from outgrow.commands.writing import read_state
from outgrow.learning.lesa import Predicted, learn_lesa, lesa_form
from outgrow.run.learn_options import LesaOptions
from outgrow.store.config_file import load_config

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class LesaLearned(Outcome):
    """Layers that were predicted; in a dry run there is no fit."""

    call: LearnCall
    new_layers: int
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
        told = {"method": "lesa", "new_layers": self.new_layers, "output": str(self.call.out)}
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
    if call.dry_run:
        return LesaLearned(call, new, None)
    state = read_state(call.checkpoint, console)
    fitted, fit = learn_lesa(state, to, options)
    grow_and_write(call, fitted, state)
    return LesaLearned(call, new, fit)
