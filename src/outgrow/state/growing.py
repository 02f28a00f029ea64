"""`grow`: a training state in, a larger one out.

The grown state is lazy: its tensors are computed when they are saved or loaded, a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outgrow.algebra.slots import Moments
from outgrow.errors import CheckpointError
from outgrow.growth.plan import GrowthPlan
from outgrow.methods.build import USUAL, unusual
from outgrow.methods.learned.fitted import FittedOperator
from outgrow.state.asked import plan_asked
from outgrow.state.converting import convert
from outgrow.state.grown_view import GrownView
from outgrow.state.lineage import lineage_entry
from outgrow.state.operator_file import FILE, check_sample, load_operator
from outgrow.state.training_state import TrainingState
from outgrow.store.contents import OptimizerInfo, ParamGroup


def grow(
    state: TrainingState,
    *,
    to: Mapping[str, Any] | None = None,
    width: str | None = None,
    depth: str = USUAL["depth"],
    experts: str | None = USUAL["experts"],
    moments: Moments | None = None,
    noise: float = USUAL["noise"],
    seed: int = USUAL["seed"],
    operator: str | Path | None = None,
    as_: str | None = None,
) -> TrainingState:
    """The state of a larger model that continues this one: weights, moments, steps, options and records.

    `to` names config fields and their new sizes, in the model's own or the common names; `width` and `depth` name
    operators (docs/reference/operators.md says what each keeps; by default `pad`, or `isometric` behind a post-norm); `noise` is the standard deviation, in units of the model's
    initializer range, of noise that no reader sees: it keeps the function and lets copies part.
    `moments` is `transport` unless given. Or `operator` is the folder of an operator that `outgrow learn` fitted to this
    source: it has its own sizes, width and depth, and resets the moments unless told otherwise.
    `as_` names another model type, as which the state is described first (`convert`): `to` then names its sizes.

    Raises GrowthError where sizes or operators do not fit, before anything is read.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
    ...     num_attention_heads=2, bos_token_id=1, eos_token_id=2)
    >>> small = TrainingState.from_model(LlamaForCausalLM(config))
    >>> grow(small, to={"hidden_size": 12, "num_hidden_layers": 2}).source.meta("model.norm.weight", "weight").shape
    (12,)
    """
    if as_ is not None:
        state = convert(state, as_, moments=moments or "transport", seed=seed)
    fitted = None if operator is None else load_operator(Path(operator))
    how: dict[str, Any] = {"width": width, "depth": depth, "experts": experts, "noise": noise, "seed": seed}
    if fitted is not None:
        how = {name: how[name] for name in unusual(**how)}
    return apply(plan_asked(state.config, fitted, to=to, moments=moments, **how), state, operator=fitted)


def apply(
    growth_plan: GrowthPlan, state: TrainingState, *, operator: FittedOperator | None = None
) -> TrainingState:
    """The grown state of a plan, lazily. It carries the file of the fitted operator that made it, if one did."""
    assets = state.assets
    if operator is not None:
        check_sample(operator, state.source)
    if operator is not None and operator.file is not None:
        assets = (*(path for path in assets if path.name != FILE), operator.file)
    steps, records = {}, state.records
    if state.steps and growth_plan.moments == "reset" and not {"run", "trainer"} & set(records):
        records = {**records, "run": {"step": int(max(state.steps.values()))}}  # no tensor counts it any more
    if state.steps and growth_plan.moments != "reset":
        sources = growth_plan.steps
        steps = {
            name: state.steps[source] if source is not None else 0.0
            for name, source in sources.items()
            if growth_plan.origin(name) in state.steps
        }
    return TrainingState(
        config=dict(growth_plan.config),
        source=GrownView(growth_plan, state.source),
        steps=steps,
        optimizer=None if state.optimizer is None else _grown_groups(growth_plan, state.optimizer),
        records=records,
        lineage=(*state.lineage, lineage_entry(growth_plan)),
        assets=assets,
    )


def _grown_groups(growth_plan: GrowthPlan, optimizer: OptimizerInfo) -> OptimizerInfo:
    """Every new tensor joins the group of the tensor it comes from, in the order of the model's parameters."""
    place = {name: index for index, group in enumerate(optimizer.groups) for name in group.names}
    names: list[list[str]] = [[] for _ in optimizer.groups]
    for name in growth_plan.large.parameters:
        source = growth_plan.origin(name)
        if source not in place:
            raise CheckpointError(f"the optimizer of the source does not hold '{source}'")
        names[place[source]].append(name)
    groups = zip(names, optimizer.groups, strict=True)
    return OptimizerInfo(
        optimizer.name, tuple(ParamGroup(tuple(one), group.options) for one, group in groups)
    )
