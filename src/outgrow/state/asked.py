"""The plan that was asked for: by operators, or by a fitted operator; checked against transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outgrow.algebra.slots import Moments
from outgrow.errors import CheckpointError, GrowthError
from outgrow.growth.plan import GrowthPlan, plan
from outgrow.growth.target import check_sizes
from outgrow.methods.build import build
from outgrow.methods.learned.fitted import FittedOperator
from outgrow.methods.options import USUAL, GrowthOptions
from outgrow.models.agreement import check_config
from outgrow.models.architecture import resolve
from outgrow.store.contents import Contents


def plan_asked(
    config: Mapping[str, Any],
    fitted: FittedOperator | None,
    *,
    to: Mapping[str, Any] | None,
    options: GrowthOptions,
) -> GrowthPlan:
    """The plan of a growth by a fitted operator, or by the operators that `options` name.

    Raises GrowthError where a fitted operator is told a width, depth, noise or seed: it has its own.
    """
    if fitted is None:
        return plan_options(config, to or {}, options)
    own = [name for name in options.said if name != "moments"]
    if own:
        raise GrowthError(
            "a fitted operator has its own width, depth, noise and seed", fix=f"leave out {', '.join(own)}"
        )
    return plan_fitted(config, fitted, to=to, moments=options.moments or "reset")


def plan_options(config: Mapping[str, Any], to: Mapping[str, Any], options: GrowthOptions) -> GrowthPlan:
    """The plan of a growth of a model with this config by operators; what was not said is as usual."""
    check_sizes(to)
    how = options.filled
    growth = build(
        resolve(config),
        to,
        width=options.width,
        depth=how.depth,
        experts=options.experts,
        noise=how.noise,
        seed=how.seed,
    )
    return _checked(plan(growth, how.moments))


def plan_growth(
    state: Contents | Mapping[str, Any],
    *,
    to: Mapping[str, Any],
    width: str | None = None,
    depth: str = USUAL.depth,
    experts: str | None = None,
    moments: Moments = USUAL.moments,
    noise: float = USUAL.noise,
    seed: int = USUAL.seed,
) -> GrowthPlan:
    """What `grow` would do to a state, or to a model with this config; `print` shows it. No tensor is read.

    It says what is kept, why not where not, and every tensor's recipe. `grow(state, plan)` does it.
    Raises GrowthError where sizes or operators do not fit.

    >>> config = {"model_type": "gpt2", "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 7, "vocab_size": 11,
    ...     "architectures": ["GPT2LMHeadModel"], "tie_word_embeddings": True}
    >>> plan_growth(config, to={"n_layer": 2}, depth="identity")
    GrowthPlan(gpt2, 630 → 1.14 K parameters: n_layer 1 → 2; function kept, gradients kept; moments transport)
    """
    options = GrowthOptions(
        width=width, depth=depth, experts=experts, moments=moments, noise=noise, seed=seed
    )
    return plan_options(state.config if isinstance(state, Contents) else state, to, options)


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
    """The plan, where transformers takes its config."""
    try:
        check_config(growth_plan.large, growth_plan.config)
    except CheckpointError as error:
        raise GrowthError(f"no model can be built of the target's config: {error}") from None
    return growth_plan
