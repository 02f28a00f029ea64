"""`outgrow inspect`: what a state holds, and what can grow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from outgrow.commands.options import InspectCall
from outgrow.commands.outcome import Outcome
from outgrow.commands.writing import read_state
from outgrow.models.agreement import check_config
from outgrow.models.architecture import growable, resolve
from outgrow.models.model import Model
from outgrow.report.explain import axis_table, size_table, state_facts
from outgrow.state.training_state import TrainingState

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Inspected(Outcome):
    """A state, and its model."""

    state: TrainingState
    model: Model

    def show(self, console: Console) -> None:
        """Two tables, and the sizes that can grow."""
        console.print(size_table(self.state, self.model))
        console.print(axis_table(self.model))
        console.print(f"Sizes that can grow: {', '.join(growable(self.model.spec))}.")

    def to_json(self) -> dict[str, Any]:
        """The facts, the axes and the sizes that can grow."""
        model = self.model
        axes = {
            name: {"size": model.sizes[name], "through": spec.through} for name, spec in model.axes.items()
        }
        return {
            **state_facts(self.state, model),
            "model_type": model.spec.model_type,
            "axes": axes,
            "growable": growable(model.spec),
        }


def run(call: InspectCall, console: Console) -> Inspected:
    """Open the state, reading every byte once."""
    state = read_state(call.checkpoint, console, allow_nonfinite=call.allow_nonfinite)
    model = resolve(state.config)
    check_config(model, state.config)
    return Inspected(state, model)
