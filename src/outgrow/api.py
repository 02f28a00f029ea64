"""`grow`: a training state in, a larger one out.

The grown state is lazy: its tensors are computed when they are saved or loaded, a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outgrow.architectures import Model, resolve
from outgrow.errors import ArchitectureError, CheckpointError, GrowthError
from outgrow.operators import USUAL, build, unusual
from outgrow.operators.fitted import FittedOperator
from outgrow.plan import GrowthPlan, plan
from outgrow.slots import Moments
from outgrow.state import OptimizerInfo, ParamGroup, TrainingState
from outgrow.store.grown import GrownView
from outgrow.store.models import named_shapes
from outgrow.store.operator_file import FILE, asset_of, check_sample, load_operator


def grow(
    state: TrainingState,
    *,
    to: Mapping[str, Any] | None = None,
    width: str | None = None,
    depth: str = USUAL["depth"],
    moments: Moments | None = None,
    noise: float = USUAL["noise"],
    seed: int = USUAL["seed"],
    operator: str | Path | None = None,
) -> TrainingState:
    """The state of a larger model that continues this one: weights, moments, steps, options and records.

    `to` names config fields and their new sizes, in the model's own or the common names; `width` and `depth` name
    operators (docs/operators.md says what each keeps; by default `pad`, or `isometric` behind a post-norm); `noise` is the standard deviation, in units of the model's
    initializer range, of noise that no reader sees: it keeps the function and lets copies part.
    `moments` is `transport` unless given. Or `operator` is the folder of an operator that `outgrow learn` fitted to this
    source: it has its own sizes, width and depth, and resets the moments unless told otherwise.

    Raises GrowthError where sizes or operators do not fit, before anything is read.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
    ...     num_attention_heads=2, bos_token_id=1, eos_token_id=2)
    >>> small = TrainingState.from_model(LlamaForCausalLM(config))
    >>> grow(small, to={"hidden_size": 12, "num_hidden_layers": 2}).source.meta("model.norm.weight", "weight").shape
    (12,)
    """
    fitted = None if operator is None else load_operator(Path(operator))
    how: dict[str, Any] = {"width": width, "depth": depth, "noise": noise, "seed": seed}
    if fitted is not None:
        how = {name: how[name] for name in unusual(**how)}
    return apply(plan_asked(state.config, fitted, to=to, moments=moments, **how), state, operator=fitted)


def plan_asked(
    config: Mapping[str, Any],
    fitted: FittedOperator | None,
    *,
    to: Mapping[str, Any] | None,
    moments: Moments | None,
    **how: Any,
) -> GrowthPlan:
    """The plan of a growth by a fitted operator, or by the operators that `how` names.

    Raises GrowthError where a fitted operator is told a width, depth, noise or seed: it has its own.
    """
    if fitted is None:
        return plan_growth(config, to=to or {}, moments=moments or "transport", **how)
    if how:
        raise GrowthError(
            "a fitted operator has its own width, depth, noise and seed", fix=f"leave out {', '.join(how)}"
        )
    return plan_fitted(config, fitted, to=to, moments=moments or "reset")


def plan_growth(
    config: Mapping[str, Any],
    *,
    to: Mapping[str, Any],
    width: str | None = None,
    depth: str = USUAL["depth"],
    moments: Moments = "transport",
    noise: float = USUAL["noise"],
    seed: int = USUAL["seed"],
) -> GrowthPlan:
    """What `grow` would do, from the config alone: every recipe, what is kept, and why not where not."""
    small = resolve(config)
    growth_plan = plan(build(small, to, width=width, depth=depth, noise=noise, seed=seed), moments)
    return _checked(growth_plan)


def plan_fitted(
    config: Mapping[str, Any],
    operator: FittedOperator,
    *,
    to: Mapping[str, Any] | None = None,
    moments: Moments = "reset",
) -> GrowthPlan:
    """What a fitted operator makes of a source with this config.

    Raises GrowthError where it was fitted to another source, or to other sizes than `to` asks for.
    """
    small = resolve(config)
    for asked, value in (to or {}).items():
        if operator.to.get(small.spec.aliases.get(asked, asked)) != value:
            raise GrowthError(
                f"this {operator.method} operator was fitted to other sizes than {asked}={value}",
                got=", ".join(f"{name}={size}" for name, size in operator.to.items()),
                fix="leave out --to, or fit an operator for these sizes with `outgrow learn`",
            )
    return _checked(plan(operator.growth(config), moments))


def _checked(growth_plan: GrowthPlan) -> GrowthPlan:
    """The plan, where transformers builds the same tensors from its config."""
    try:
        check_described(growth_plan.large, growth_plan.config)
    except CheckpointError as error:
        raise GrowthError(f"transformers refuses the target's config: {error}") from None
    return growth_plan


def check_described(model: Model, config: Mapping[str, Any]) -> None:
    """Raises ArchitectureError where transformers builds other tensors from a config than its architecture file says."""
    expected = named_shapes(config)
    ours = {name: model.shape(name) for name in model.parameters}
    if ours == expected:
        return
    (kind,) = config.get("architectures") or (model.spec.class_,)
    if kind != model.spec.class_:
        raise ArchitectureError(
            f"the architecture file of {model.spec.model_type} describes another class of model",
            got=kind,
            expected=model.spec.class_,
        )
    raise ArchitectureError(
        f"the architecture file of {model.spec.model_type} does not describe this model",
        got=sorted(set(ours.items()) ^ set(expected.items()))[:3],
        fix="report this config: the file in src/outgrow/architectures is incomplete",
    )


def replay(config: Mapping[str, Any], entry: Mapping[str, Any], assets: tuple[Path, ...] = ()) -> GrowthPlan:
    """The plan of a growth again, from the source's config and its lineage entry.

    A fitted operator is looked for among `assets`, the files that the grown state carries.
    """
    try:
        growth = entry["growth"]
        if "operator" in growth:
            return plan_fitted(config, asset_of(assets, growth["operator"]), moments=growth["moments"])
        return plan_growth(config, **growth)
    except (KeyError, TypeError):
        raise CheckpointError(
            "the lineage entry does not say how the state was grown", got=sorted(entry)
        ) from None


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
        lineage=(*state.lineage, _lineage(growth_plan)),
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


def _lineage(growth_plan: GrowthPlan) -> dict[str, Any]:
    """What is written beside the grown state: enough to grow again, and to see what was done."""
    growth, small, large = growth_plan.growth, growth_plan.small, growth_plan.large
    counted = {
        small.spec.layers.count,
        *(name for name in large.config if large.config[name] != small.config.get(name)),
    }
    to = {name: large.config[name] for name in sorted(counted) if isinstance(large.config[name], int)}
    named = {key: value for entry in growth.provenance for key, value in entry.items()}
    if "operator" in named:
        again = {"operator": named["digest"], "moments": growth_plan.moments}
        return {"growth": again, "fields": to, **growth_plan.describe()}
    return {
        "growth": {
            "to": to,
            "width": named["width"],
            **({"depth": named["depth"]} if "depth" in named else {}),
            "moments": growth_plan.moments,
            "noise": named["noise"],
            "seed": named["seed"],
        },
        **growth_plan.describe(),
    }
