"""`grow`: a training state in, a larger one out.

The grown state is lazy: its tensors are computed when they are saved or loaded, a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from outgrow.algebra.slots import Moments
from outgrow.errors import GrowthError
from outgrow.growth.plan import GrowthPlan
from outgrow.growth.summary import sizes_of
from outgrow.methods.learned.fitted import FittedOperator
from outgrow.methods.options import USUAL, GrowthOptions
from outgrow.models.architecture import resolve
from outgrow.models.conversion import conversion
from outgrow.state.asked import plan_asked
from outgrow.state.converting import converted
from outgrow.state.grown_view import GrownView
from outgrow.state.lineage import lineage_entry
from outgrow.state.operator_file import FILE, check_sample, kept_operator, load_operator
from outgrow.state.training_state import TrainingState, check_state
from outgrow.store.assets import Asset
from outgrow.store.contents import OptimizerInfo, ParamGroup


def grow(
    state: TrainingState,
    growth_plan: GrowthPlan | None = None,
    *,
    to: Mapping[str, Any] | None = None,
    width: str | None = None,
    depth: str = USUAL.depth,
    experts: str | None = None,
    moments: Moments | None = None,
    noise: float = USUAL.noise,
    seed: int = USUAL.seed,
    operator: str | Path | FittedOperator | None = None,
    as_: str | None = None,
) -> TrainingState:
    """The state of a larger model that continues this one: weights, moments, steps, options and records.

    By a plan of `plan_growth`, or by what a plan is made from:

    - `to` names config fields and their new sizes, in the model's own or the common names.
    - `width`, `depth` and `experts` name operators (`outgrow.operators()`); by default `pad`, or `isometric` behind a
      post-norm, and `stack`.
    - `moments` is `transport` unless given.
    - `noise` is the standard deviation, in units of the model's initializer range, of noise that no reader sees: it keeps
      the function and lets copies part.
    - `operator` was fitted to this source by `learn`, or is the folder it was saved in. It has its own sizes, width and
      depth, and resets the moments unless told otherwise.

    `as_` names another model type, as which the state is described first (`convert`): `to` then names its sizes.

    Raises GrowthError where sizes or operators do not fit, before anything is read.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
    ...     num_attention_heads=2, bos_token_id=1, eos_token_id=2)
    >>> small = TrainingState.from_model(LlamaForCausalLM(config))
    >>> grow(small, to={"hidden_size": 12, "num_hidden_layers": 2}).source.meta("model.norm.weight", "weight").shape
    (12,)
    """
    check_state(state, "grow")
    options = replace(
        GrowthOptions.unusual(width=width, depth=depth, experts=experts, noise=noise, seed=seed),
        moments=moments,
    )
    if growth_plan is not None:
        others = {"to": to, "operator": operator, "as_": as_}
        given = [*options.said, *(name for name, value in others.items() if value is not None)]
        if given:
            raise GrowthError(
                "the plan says how to grow", got=", ".join(given), fix="leave out all but the plan"
            )
        _check_planned(growth_plan, state)
        return apply(growth_plan, state)
    return grow_by(state, to, options, operator=operator, as_=as_)


def grow_by(
    state: TrainingState,
    to: Mapping[str, Any] | None,
    options: GrowthOptions,
    *,
    operator: str | Path | FittedOperator | None = None,
    as_: str | None = None,
) -> TrainingState:
    """The grown state by options in place of a plan: what `grow` does, with the same errors."""
    if not to and operator is None and as_ is None:
        sizes = ", ".join(f"{name} {size:,}" for name, size in sizes_of(resolve(state.config)).items())
        raise GrowthError(
            "nothing says what to grow",
            expected="to={...} with larger sizes, a plan, or an operator",
            got=sizes,
        )
    if as_ is not None:
        usual = options.filled
        state = converted(state, conversion(state.config, as_), moments=usual.moments, seed=usual.seed)
    fitted = None
    if operator is not None:
        fitted = (
            kept_operator(operator) if isinstance(operator, FittedOperator) else load_operator(Path(operator))
        )
    return apply(plan_asked(state.config, fitted, to=to, options=options), state, operator=fitted)


def _check_planned(growth_plan: object, state: TrainingState) -> None:
    """Raises GrowthError where the plan is not one, or was made for another source."""
    if not isinstance(growth_plan, GrowthPlan):
        fix = "grow(state, plan) with a plan of plan_growth, or grow(state, to={...})"
        raise GrowthError("this is no plan of a growth", got=type(growth_plan).__name__, fix=fix)
    small = resolve(state.config)
    planned = {name: growth_plan.small.shape(name) for name in growth_plan.small.parameters}
    here = {name: small.shape(name) for name in small.parameters}
    if planned != here:
        raise GrowthError(
            "the plan was made for another source",
            got=repr(state),
            expected=repr(growth_plan),
            fix="plan again: outgrow.plan_growth(state, to=...)",
        )


def apply(
    growth_plan: GrowthPlan, state: TrainingState, *, operator: FittedOperator | None = None
) -> TrainingState:
    """The grown state of a plan, lazily. It carries the file of the fitted operator that made it, if one did."""
    assets = state.assets
    if operator is not None:
        check_sample(operator, state.source)
    if operator is not None and operator.file is not None:
        assets = (*(asset for asset in assets if asset.name != FILE), Asset(FILE, operator.file))
    steps, records, entry = {}, _grown_records(state.records), lineage_entry(growth_plan)
    if not state.steps:
        entry = entry.saying(moments="none")  # the source had none to carry, whatever was asked for
    if state.steps and growth_plan.moments == "reset" and not {"run", "trainer"} & set(records):
        records = {**records, "run": {"step": int(max(state.steps.values()))}}  # no tensor counts it any more
    if state.steps and growth_plan.moments != "reset":
        sources = growth_plan.steps
        steps = {
            name: state.steps.get(source, 0.0) if source is not None else 0.0
            for name, source in sources.items()
            if growth_plan.origin(name) in state.steps
        }
    return TrainingState(
        config=dict(growth_plan.config),
        source=GrownView(growth_plan, state.source),
        steps=steps,
        optimizer=None if state.optimizer is None else _grown_groups(growth_plan, state.optimizer),
        records=records,
        lineage=state.lineage.then(entry),
        assets=assets,
        files=state.files,
        unread=tuple(one for one in state.unread if one.part != "moments" or growth_plan.moments != "reset"),
    )


def _grown_records(records: Mapping[str, Any]) -> dict[str, Any]:
    """The records, without what Trainer knows of its best model: a path to the small one, which it would load at its end."""
    trainer = records.get("trainer")
    if not isinstance(trainer, dict):
        return dict(records)
    best = ("best_model_checkpoint", "best_metric", "best_global_step")
    return {**records, "trainer": {**trainer, **{name: None for name in best if name in trainer}}}


def _grown_groups(growth_plan: GrowthPlan, optimizer: OptimizerInfo) -> OptimizerInfo:
    """Every new tensor joins the group of the tensor it comes from, in the order of the model's parameters."""
    place = {name: index for index, group in enumerate(optimizer.groups) for name in group.names}
    names: list[list[str]] = [[] for _ in optimizer.groups]
    for name, parameter in growth_plan.large.parameters.items():
        if not parameter.is_trained:
            continue
        source = growth_plan.origin(name)
        if source in place:  # else it was frozen, and so is the new tensor
            names[place[source]].append(name)
    groups = zip(names, optimizer.groups, strict=True)
    return OptimizerInfo(
        optimizer.name, tuple(ParamGroup(tuple(one), group.options) for one, group in groups)
    )
