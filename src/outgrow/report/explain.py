"""Growth in words and tables: what a model is made of, what would grow, what is kept, and why not where not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from outgrow.algebra.slots import SLOTS
from outgrow.cost.flops import training_flops
from outgrow.growth.plan import GrowthPlan
from outgrow.growth.rank_costs import growing_memory
from outgrow.models.model import Model
from outgrow.state.training_state import TrainingState, times
from outgrow.store.source import TensorSource
from outgrow.text.numbers import amount, counted

if TYPE_CHECKING:
    from rich.table import Table


def size_table(state: TrainingState, model: Model) -> Table:
    """What a state holds."""
    from rich.table import Table

    table = Table(
        title=f"{model.spec.model_type}: {model.spec.class_}", title_justify="left", show_header=False
    )
    for name, value in state_facts(state, model).items():
        table.add_row(name, str(value))
    return table


def state_facts(state: TrainingState, model: Model) -> dict[str, Any]:
    """The facts of `outgrow inspect`."""
    slots = [slot for slot in SLOTS if state.source.names(slot)]
    steps = sorted(set(state.steps.values()))
    optimizer = (
        "none"
        if state.optimizer is None
        else f"{state.optimizer.name}, {counted(len(state.optimizer.groups), 'group')}"
    )
    unit, flops = training_flops(state.config, 1024)
    active = model.num_active
    experts = f", {active:,} active per token" if active != model.num_parameters else ""
    return {
        "parameters": f"{model.num_parameters:,}" + experts,
        "layers": model.layers,
        f"training FLOPs per {unit}" + " at 1024" * (unit == "token"): amount(flops),
        "slots": ", ".join(slots),
        "bytes": amount(sum(slot_bytes(state.source, slot) for slot in slots)) + "B",
        "optimizer": optimizer,
        "optimizer steps": "none"
        if not steps
        else f"{steps[0]:g} to {steps[-1]:g}"
        if len(steps) > 1
        else f"{steps[0]:g}",
        "records": ", ".join(sorted(state.records)) or "none",
        "grown before": times(len(state.lineage)),
    }


def slot_bytes(source: TensorSource, slot: str) -> int:
    """Size of a slot in bytes."""
    return sum(source.meta(name, slot).bytes for name in source.names(slot))


def axis_table(model: Model) -> Table:
    """Every axis: size, where the config says it, what it passes through, when the function is kept."""
    from rich.table import Table

    table = Table(title="axes", title_justify="left")
    for column in ("axis", "size", "config", "passes through", "function kept when"):
        table.add_column(column, justify="right" if column == "size" else "left", overflow="fold")
    for name, spec in model.axes.items():
        when = spec.kind.kept_when if spec.grows else "keeps its size in this family"
        table.add_row(name, str(model.sizes[name]), spec.size, spec.through, when)
    table.add_row(
        "layers",
        str(model.layers),
        model.spec.layers.count,
        f"{model.spec.layers.norm}-norm",
        "inserted layers output zero",
    )
    return table


@dataclass(frozen=True)
class GrowthCosts:
    """Sizes, memory, disk and time of a growth, before it is done."""

    parameters: tuple[int, int]
    """Before and after; so are the FLOPs."""
    flops: tuple[int, int]
    unit: str
    """Training FLOPs are per this: a token of 1024, or an image."""
    slots: tuple[str, ...]
    """What is written: weights, and moments unless they begin anew."""
    output_bytes: int
    free_bytes: int
    memory_bytes: int
    """Above Python's own,"""
    mapped_bytes: int
    """and pages of mapped files, which the system takes back where it needs them."""
    seconds: float | None
    """None where the disk's speed was not tried."""

    def describe(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "parameters": list(self.parameters),
            f"flops_per_{self.unit}": list(self.flops),
            "slots": list(self.slots),
            "output_bytes": self.output_bytes,
            "free_bytes": self.free_bytes,
            "memory_bytes": self.memory_bytes,
            "mapped_bytes": self.mapped_bytes,
            "seconds": self.seconds,
        }


def growth_costs(
    plan: GrowthPlan, state: TrainingState, *, bytes_per_second: float | None, free_bytes: int
) -> GrowthCosts:
    """What a growth of this state costs; nothing is read."""
    per_parameter = {
        slot: slot_bytes(state.source, slot) / plan.small.num_parameters for slot in plan.recipes
    }
    slots = tuple(
        slot
        for slot in plan.recipes
        if state.source.names(slot) and (slot == "weight" or plan.moments != "reset")
    )
    output = int(sum(per_parameter[slot] * plan.large.num_parameters for slot in slots))
    (unit, small), (_, large) = (training_flops(one, 1024) for one in (plan.small.config, plan.config))
    return GrowthCosts(
        parameters=(plan.small.num_parameters, plan.large.num_parameters),
        flops=(small, large),
        unit=unit,
        slots=slots,
        output_bytes=output,
        free_bytes=free_bytes,
        memory_bytes=growing_memory(plan, "files"),
        mapped_bytes=sum(slot_bytes(state.source, slot) for slot in SLOTS),
        seconds=None if bytes_per_second is None else output / bytes_per_second,
    )
