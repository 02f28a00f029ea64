"""What is written of a growth beside the grown state, and the growth's plan again from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from outgrow.algebra.slots import Moments
from outgrow.errors import CheckpointError, GrowthError
from outgrow.growth.plan import GrowthPlan
from outgrow.methods.options import GrowthOptions
from outgrow.models.architecture import growable
from outgrow.models.expressions import got
from outgrow.state.asked import plan_fitted, plan_options
from outgrow.state.operator_file import asset_of
from outgrow.store.assets import Asset
from outgrow.store.lineage import Described, Lineage, LineageEntry


def replay(
    config: Mapping[str, Any],
    entry: LineageEntry,
    assets: tuple[Asset, ...] = (),
    *,
    moments: Moments | None = None,
) -> GrowthPlan:
    """The plan of a growth again, from the source's config and its lineage entry; with other `moments` if given.

    A fitted operator is looked for among `assets`, the files that the grown state carries. A conversion grows nothing.
    Raises CheckpointError where the entry does not say how the state was grown.
    """
    if entry.conversion is not None:
        return plan_options(config, {}, GrowthOptions(noise=0.0))
    options = _options(entry)
    options = options if moments is None else replace(options, moments=moments)
    if entry.fitted is not None:
        assert options.moments is not None
        return plan_fitted(config, asset_of(assets, entry.fitted), moments=options.moments)
    assert entry.sizes_asked is not None
    return plan_options(config, entry.sizes_asked, options)


def _options(entry: LineageEntry) -> GrowthOptions:
    """The options of a growth that was done; a fitted operator's moments are among them."""
    try:
        options = GrowthOptions.of(entry.operators)
    except GrowthError as error:
        raise CheckpointError(f"the lineage entry does not say how the state was grown: {error}") from None
    if entry.sizes_asked is None and (entry.fitted is None or options.moments is None):
        raise CheckpointError(
            "the lineage entry does not say how the state was grown",
            got=sorted(entry.content),
            expected="growth.to, or growth.operator and growth.moments",
        )
    return options


def described_since(config: Mapping[str, Any], lineage: Lineage) -> Described | None:
    """The conversion that a state with this config went through before its last growth: what `convert` was told, or None.

    >>> told = {"from": "llama", "to": "mixtral", "moments": "transport", "seed": 0}
    >>> described_since({"model_type": "llama"}, Lineage([{"conversion": told}]))
    Described(before='llama', after='mixtral', moments='transport', seed=0)
    """
    for entry in reversed(lineage.entries[-2:]):
        told = entry.conversion
        if told is not None and config.get("model_type") == told.before:
            return told
    return None


def lineage_entry(growth_plan: GrowthPlan) -> LineageEntry:
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
        return LineageEntry({"growth": again, "fields": to, **growth_plan.describe(), "files": {}})
    again = {
        "to": to,
        "width": named["width"],
        **{name: named[name] for name in ("depth", "experts") if name in named},
        "moments": growth_plan.moments,
        "noise": named["noise"],
        "seed": named["seed"],
    }
    return LineageEntry({"growth": again, **growth_plan.describe(), "files": {}})
