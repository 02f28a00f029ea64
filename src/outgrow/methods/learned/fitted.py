"""A fitted operator: its numbers, what they were fitted to, and the growth that they make of a source.

    config of the source  ->  checked by names and shapes  ->  Growth

It fits one source: numbers that map 256 channels in their own way say nothing about another model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from outgrow.errors import GrowthError, near
from outgrow.growth.growth import Growth
from outgrow.growth.target import target
from outgrow.methods.learned.form import Learned, patterns
from outgrow.methods.learned.lesa import Lesa
from outgrow.methods.learned.ligo import Ligo, Tie
from outgrow.methods.learned.mango import Mango
from outgrow.models.architecture import resolve
from outgrow.models.expressions import got, with_field
from outgrow.models.model import Model
from outgrow.text.numbers import amount

MakeForm = Callable[..., Learned]
"""(small, large, **options) -> the form."""


def _ligo(small: Model, large: Model, *, tie: Tie, offsets: list[str]) -> Ligo:
    return Ligo(small, large, tie, tuple(offsets))


OPERATOR_FORMS: Mapping[str, MakeForm] = {"ligo": _ligo, "mango": Mango, "lesa": Lesa}
"""Forms by the name of their method."""


@dataclass(frozen=True, repr=False)
class FittedOperator:
    """A learned operator as it is saved, and applied again with `outgrow grow --operator`."""

    method: str
    options: Mapping[str, Any]
    """What the form needs beside sizes."""
    to: Mapping[str, int]
    """The sizes it grows to, by config field."""
    eps: Mapping[str, float]
    """Norm eps of the large model, by config field, where the start changed them."""
    source: Mapping[str, Any]
    """Model type, number of layers, parameter shapes and norm eps of the source."""
    values: Mapping[str, Tensor]
    record: Mapping[str, Any] = field(default_factory=dict)
    """How it was fitted: steps, learning rate, losses, seeds, data, FLOPs."""
    digest: str = ""
    """SHA-256 of the saved numbers."""
    file: Path | None = None
    """Where the numbers are saved."""

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {size:,}" for name, size in self.to.items())
        count = sum(value.numel() for value in self.values.values())
        where = "" if self.file is None else f", in {self.file}"
        return f"FittedOperator({self.method}: {self.source['model_type']} to {sizes}; {amount(count)} numbers{where})"

    def form(self, config: Mapping[str, Any]) -> Learned:
        """The form at the sizes of this source. Raises GrowthError where it was fitted to another."""
        small = resolve(config)
        check_source(self.source, small)
        return make_form(self.method, small, self.to, self.eps, self.options)

    def growth(self, config: Mapping[str, Any]) -> Growth:
        """What the operator makes of a source with this config."""
        form = self.form(config)
        shapes = {name: tuple(value.shape) for name, value in self.values.items()}
        if shapes != form.shapes():
            name = next(iter(set(shapes.items()) ^ set(form.shapes().items())))[0]
            raise GrowthError(
                f"the fitted {self.method} operator does not hold what its sizes ask for: '{name}'",
                got=shapes.get(name),
                expected=form.shapes().get(name),
                fix="fit it again with `outgrow learn`",
            )
        told = {key: value for key, value in self.record.items() if key != "losses"}
        entry = {"operator": self.method, "digest": self.digest, **told}
        return replace(form.growth(self.values), provenance=(entry,))


def make_form(
    method: str, small: Model, to: Mapping[str, int], eps: Mapping[str, float], options: Mapping[str, Any]
) -> Learned:
    """The form of a method between a source and the sizes of `to`."""
    if method not in OPERATOR_FORMS:
        raise GrowthError(f"unknown learned operator '{method}' ({near(method, OPERATOR_FORMS)})")
    config: Mapping[str, Any] = target(small, to).config
    for name, value in eps.items():
        config = with_field(config, name, value)
    try:
        return OPERATOR_FORMS[method](small, resolve(config), **options)
    except TypeError as error:
        raise GrowthError(f"the options of this {method} operator are damaged", got=error) from None


def describe_source(small: Model) -> dict[str, Any]:
    """What a source must agree in."""
    shapes = {name: list(small.shape(parameter.name)) for name, parameter in patterns(small).items()}
    fields = {spec.eps for spec in small.axes.values() if spec.eps is not None}
    eps = {field: float(got(small.config, field)) for field in sorted(fields)}
    return {"model_type": small.spec.model_type, "layers": small.layers, "shapes": shapes, "eps": eps}


def check_source(wanted: Mapping[str, Any], small: Model) -> None:
    """Refuse another source, by name and shape."""
    got = describe_source(small)
    for key, word in (("model_type", "model type"), ("layers", "number of layers")):
        if got[key] != wanted[key]:
            raise GrowthError(
                f"this operator was fitted to another source: the {word} differs",
                got=got[key],
                expected=wanted[key],
                fix="fit one for this source with `outgrow learn`",
            )
    for name, value in wanted.get("eps", {}).items():  # older operators do not say it
        if got["eps"].get(name) != value:
            raise GrowthError(
                f"this operator was fitted to another source: {name} differs, and the operator sets it",
                got=got["eps"].get(name),
                expected=value,
                fix="fit one for this source with `outgrow learn`",
            )
    for name in {**wanted["shapes"], **got["shapes"]}:
        if got["shapes"].get(name) != wanted["shapes"].get(name):
            raise GrowthError(
                f"this operator was fitted to another source: '{name}' differs",
                got=got["shapes"].get(name, "no such parameter"),
                expected=wanted["shapes"].get(name, "no such parameter"),
                fix="fit one for this source with `outgrow learn`",
            )
