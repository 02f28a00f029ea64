"""A growth worked out: what is kept, every tensor's recipe, the new config, and where step counts come from.

    plan = compensate(growth) + one recipe per tensor and slot (`cookbook`)

Nothing is read or computed here: a plan is made from two configs, can be printed, and says before any work what every
tensor will be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from outgrow.algebra.recipe import Recipe
from outgrow.algebra.slots import Moments
from outgrow.errors import GrowthError, near
from outgrow.growth.compensation import Compensation, compensate
from outgrow.growth.cookbook import BySlot, Cookbook
from outgrow.growth.growth import Growth
from outgrow.growth.target import grown_config
from outgrow.models.architecture import check_depth
from outgrow.models.model import Model


@dataclass(frozen=True)
class GrowthPlan:
    """Every grown tensor's recipe per slot, the new config, and where each step count comes from."""

    growth: Growth = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    compensation: Compensation = field(repr=False)
    moments: Moments
    recipes: Mapping[str, Mapping[str, Recipe]] = field(repr=False)
    steps: Mapping[str, str | None]
    """New tensor -> the old tensor whose optimizer step it continues, or None to begin at 0."""

    @property
    def small(self) -> Model:
        return self.growth.small

    @property
    def large(self) -> Model:
        return self.growth.large

    @property
    def keeps_function(self) -> bool:
        """Whether the large model computes the same function (up to rounding)."""
        return all(finding.function for finding in self.compensation.findings)

    @property
    def keeps_gradient_law(self) -> bool:
        """Whether every gradient of an old entry is its transport, so that transported moments are exact."""
        return not self.growth.noise and all(finding.gradient for finding in self.compensation.findings)

    @property
    def is_caged(self) -> bool:
        """Whether copies stay equal for ever (without dropout): exact law, nothing fresh, no noise (docs/maths.md)."""
        grown = [axis for axis in self.growth.axes.values() if axis.grows]
        even = bool(grown) and all(axis.even for axis in grown)
        return even and self.keeps_gradient_law and not self.growth.has_fresh_units

    def origin(self, name: str) -> str:
        """The old tensor in whose place a new one stands: it joins the same optimizer group and has the same slots."""
        parameter = self.large.parameters[name]
        if parameter.layer is None:
            return name
        sources = self.growth.layers.sources(parameter.layer)
        if sources or self.small.layers:
            return parameter.in_layer(sources[0] if sources else 0)
        dims = min(len(parameter.signature.dims), 2)  # nothing of its kind: as a vector, or as a matrix
        return next(one.name for one in self.small.parameters.values() if len(one.signature.dims) == dims)

    def same_contents(self, slot: str) -> tuple[tuple[str, ...], ...]:
        """Tensors of a slot grouped by contents: copies of a layer are computed once."""
        groups: dict[object, list[str]] = {}
        for name, recipe in self.recipes[slot].items():
            key: object = (
                recipe.shape,
                tuple((t.source, t.coefficient, tuple(map(id, t.maps))) for t in recipe.terms),
            )
            groups.setdefault(name if recipe.fills else key, []).append(name)
        return tuple(tuple(names) for names in groups.values())

    def describe(self) -> dict[str, Any]:
        """The plan as plain data: what `--dry-run`, lineage and `explain` show."""
        return {
            "model_type": self.small.spec.model_type,
            "from": _sizes(self.small),
            "to": _sizes(self.large),
            "operators": [dict(entry) for entry in self.growth.provenance],
            "moments": self.moments,
            "keeps_function": self.keeps_function,
            "keeps_gradient_law": self.keeps_gradient_law,
            "is_caged": self.is_caged,
            "axes": [vars(finding) for finding in self.compensation.findings],
        }


def _sizes(model: Model) -> dict[str, int]:
    return {**model.sizes, "layers": model.layers, "parameters": model.num_parameters}


def plan(growth: Growth, moments: Moments = "transport") -> GrowthPlan:
    """Work out every recipe of a growth.

    `moments`: `transport` (the exact law), `keep_zero` (old entries kept, new ones fresh), `copy` (copied as they are),
    `parts` (as the operator's own parts, where a paper publishes that), `reset` (none). Raises GrowthError for an unknown option and for a growth that the architecture does not allow.
    """
    if moments not in get_args(Moments):
        raise GrowthError(f"unknown way to grow moments: '{moments}' ({near(moments, get_args(Moments))})")
    if moments == "parts" and growth.tensors:
        raise GrowthError(
            "learned weights bring no moments", fix="use --moments transport, keep_zero or reset"
        )
    if growth.layers.grows:
        check_depth(growth.small)
    cookbook = Cookbook(growth, compensate(growth), moments)
    recipes = BySlot(cookbook)
    steps = {name: cookbook.step_source(recipe) for name, recipe in recipes["exp_avg"].items()}
    config = grown_config(growth, cookbook.compensation.eps)
    return GrowthPlan(growth, config, cookbook.compensation, moments, recipes, steps)
