"""What is written of a growth beside the grown state, and the growth's plan again from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from outgrow.errors import CheckpointError
from outgrow.growth.plan import GrowthPlan
from outgrow.models.architecture import growable
from outgrow.models.expressions import got
from outgrow.state.asked import plan_fitted, plan_growth
from outgrow.state.operator_file import asset_of
from outgrow.store.assets import Asset


def replay(config: Mapping[str, Any], entry: Mapping[str, Any], assets: tuple[Asset, ...] = ()) -> GrowthPlan:
    """The plan of a growth again, from the source's config and its lineage entry.

    A fitted operator is looked for among `assets`, the files that the grown state carries. A conversion grows nothing.
    """
    if "conversion" in entry:
        return plan_growth(config, to={}, noise=0.0)
    try:
        growth = entry["growth"]
        if "operator" in growth:
            return plan_fitted(config, asset_of(assets, growth["operator"]), moments=growth["moments"])
        return plan_growth(config, **growth)
    except (KeyError, TypeError):
        raise CheckpointError(
            "the lineage entry does not say how the state was grown", got=sorted(entry)
        ) from None


def described_since(
    config: Mapping[str, Any], lineage: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """The conversion that a state with this config went through before its last growth: what `convert` was told, or None.

    >>> described_since({"model_type": "llama"}, [{"conversion": {"from": "llama", "to": "mixtral", "seed": 0}}])
    {'from': 'llama', 'to': 'mixtral', 'seed': 0}
    """
    for entry in reversed(lineage[-2:]):
        told = entry.get("conversion")
        if told is not None and config.get("model_type") == told["from"]:
            return dict(told)
    return None


def lineage_entry(growth_plan: GrowthPlan) -> dict[str, Any]:
    """What is written beside the grown state: enough to grow again, and to see what was done.

    `files` is filled when the state is written: what became of each file of the source depends on the format.
    """
    growth, small, large = growth_plan.growth, growth_plan.small, growth_plan.large
    asked = {
        name: got(large.config, name)
        for name in sorted(growable(small.spec))  # the others follow from them
        if name == small.spec.layers.count or got(large.config, name) != got(small.config, name)
    }
    to = {name: size for name, size in asked.items() if isinstance(size, int)}
    named = {key: value for entry in growth.provenance for key, value in entry.items()}
    if "operator" in named:
        again = {"operator": named["digest"], "moments": growth_plan.moments}
        return {"growth": again, "fields": to, **growth_plan.describe(), "files": {}}
    return {
        "growth": {
            "to": to,
            "width": named["width"],
            **{name: named[name] for name in ("depth", "experts") if name in named},
            "moments": growth_plan.moments,
            "noise": named["noise"],
            "seed": named["seed"],
        },
        **growth_plan.describe(),
        "files": {},
    }
