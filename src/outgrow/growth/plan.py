"""A growth worked out: what is kept, every tensor's recipe, the new config, and where step counts come from.

    plan = compensate(growth) + one recipe per tensor and slot (`cookbook`)

Nothing is read or computed here: a plan is made from two configs, can be printed, and says before any work what every
tensor will be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, get_args

from outgrow.algebra.recipe import Recipe
from outgrow.algebra.slots import Moments
from outgrow.errors import GrowthError, near
from outgrow.growth.compensation import Compensation, compensate
from outgrow.growth.cookbook import BySlot, Cookbook
from outgrow.growth.growth import Growth
from outgrow.growth.summary import findings_table, layer_order, sizes_of
from outgrow.growth.target import grown_config
from outgrow.models.architecture import check_depth
from outgrow.models.model import Model
from outgrow.text.numbers import amount
from outgrow.text.table import TextTable


@dataclass(frozen=True, repr=False)
class GrowthPlan:
    """Every grown tensor's recipe per slot, the new config, and where each step count comes from.

    `print(plan)` shows what grows, what is kept and why not where not, and which layer copies which.
    """

    growth: Growth
    config: Mapping[str, Any]
    compensation: Compensation
    moments: Moments
    recipes: Mapping[str, Mapping[str, Recipe]]
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
        """Whether copies stay equal for ever (without dropout): exact law, nothing fresh, no noise (docs/explanation/maths.md)."""
        if any(one.parts_copies for one in self.growth.experts):
            return False
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
            name = parameter.in_layer(sources[0] if sources else 0)
            kin = (one for one, other in self.small.parameters.items() if other.pattern == parameter.pattern)
            return name if name in self.small.parameters else next(kin)
        dims = min(len(parameter.signature.dims), 2)  # nothing of its kind: as a vector, or as a matrix
        return next(one.name for one in self.small.parameters.values() if len(one.signature.dims) == dims)

    def same_contents(self, slot: str) -> tuple[tuple[str, ...], ...]:
        """Tensors of a slot grouped by contents: copies of a layer are computed once."""
        groups: dict[object, list[str]] = {}
        for name, recipe in self.recipes[slot].items():
            key: object = (
                recipe.shape,
                tuple((t.source, t.coefficient, t.maps) for t in recipe.terms),
            )
            groups.setdefault(name if recipe.fills else key, []).append(name)
        return tuple(tuple(names) for names in groups.values())

    @property
    def verdict(self) -> str:
        """What the growth keeps, in a sentence or two."""
        if not self.grows and self.small.num_parameters == self.large.num_parameters:
            return "Nothing grows: the sizes that are asked for are there already."
        if not self.keeps_function:
            return "The function changes at the growth, as these operators do: expect a jump in loss that training repairs."
        if self.is_caged:
            return (
                "Function and gradients are kept exactly. Without dropout the copies would stay equal for ever (a cage): "
                "add noise (0.1 by default), which no reader sees."
            )
        if self.keeps_gradient_law:
            return "Function and gradients of old entries are kept exactly."
        return "The function is kept exactly; gradients of old entries approximately, as the table says."

    @property
    def grows(self) -> dict[str, tuple[int, int]]:
        """Config fields whose size changes, before and after."""
        small, large = sizes_of(self.small), sizes_of(self.large)
        return {name: (small[name], size) for name, size in large.items() if size != small.get(name, size)}

    @property
    def stays(self) -> dict[str, int]:
        """Config fields that could grow and keep their size."""
        return {name: size for name, size in sizes_of(self.large).items() if name not in self.grows}

    @property
    def new_parameters(self) -> tuple[str, ...]:
        """Parameters of layers that stand for no old layer: what a stage may train alone."""
        old = set(self.growth.layers.originals().values())
        return tuple(
            name
            for name, parameter in self.large.parameters.items()
            if parameter.layer is not None and parameter.layer not in old
        )

    def notes(self) -> tuple[str, ...]:
        """What the findings do not say: the order of the layers, the sizes that stay, the verdict."""
        layers = self.growth.layers
        order = (
            f"Layers, first to last, as copies of old ones{' (* silent: adds nothing at first)' * bool(layers.silent)}: "
            f"{layer_order(layers)}."
        )
        stays = ", ".join(f"{name} {size:,}" for name, size in self.stays.items())
        return (*[order] * layers.grows, *[f"Stays: {stays}."] * bool(stays), self.verdict)

    def findings(self) -> TextTable:
        """What the growth does to every axis that it touches."""
        return findings_table(self.compensation.findings, noisy=self.growth.noise > 0)

    def __str__(self) -> str:
        return "\n".join([str(self.findings()), *self.notes()])

    def __repr__(self) -> str:
        kept = (
            f"function {'kept' if self.keeps_function else 'changes'}, "
            f"gradients {'kept' if self.keeps_gradient_law else 'approximate' if self.keeps_function else 'change'}"
        )
        sizes = ", ".join(f"{name} {before} → {after}" for name, (before, after) in self.grows.items())
        return (
            f"GrowthPlan({self.small.spec.model_type}, {amount(self.small.num_parameters)} → "
            f"{amount(self.large.num_parameters)} parameters: {sizes or 'nothing grows'}; {kept}; moments {self.moments})"
        )

    def _repr_html_(self) -> str:
        return self.findings()._repr_html_() + "".join(f"<p>{escape(note)}</p>" for note in self.notes())

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


def check_moments(moments: object) -> None:
    """Raises GrowthError for what is no way to grow moments, and names the near ones."""
    if moments not in get_args(Moments):
        raise GrowthError(
            f"unknown way to grow moments: '{moments}' ({near(str(moments), get_args(Moments))})"
        )


def plan(growth: Growth, moments: Moments = "transport") -> GrowthPlan:
    """Work out every recipe of a growth.

    `moments`: `transport` (the exact law), `keep_zero` (old entries kept, new ones fresh), `copy` (copied as they are),
    `parts` (as the operator's own parts, where a paper publishes that), `reset` (none), `cautious` (as `transport`; an expert's
    second moments as the noise of its own tokens has them: v/(kE) in place of v/E²). Raises GrowthError for an unknown option and for a growth that the architecture does not allow.
    """
    check_moments(moments)
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
