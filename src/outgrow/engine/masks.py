"""New units and layers that fade in: Masked Structural Growth (arXiv 2305.02869), without a change of the model's code.

With w = 1 for old units and w = a for new ones, a from 0 to 1:

    readers   y = W (w · x)                                         heads, MLP units: what reads them
    norms     y = w · (x - μ) / √(σ² + eps) · gain + w · bias       μ = Σ w x / Σ w,  σ² = Σ w (x - μ)² / Σ w
    layers    y = x + a (layer(x) - x)

(RMSNorm: without μ and bias.) At a = 0 new entries may hold anything and the function is the small model's; at a = 1 the
model is plain. Forward hooks do this while they are in place, so the weights are the plain model's at any moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from outgrow.errors import GrowthError
from outgrow.growth.new_entries import NewEntries
from outgrow.growth.plan import GrowthPlan
from outgrow.models.expressions import got
from outgrow.models.model import Model, Parameter


@dataclass(frozen=True, eq=False)
class MaskedNorm:
    """A norm that counts new units as much as they are there."""

    module: nn.Module
    kind: Literal["rms", "layer"]
    eps: float
    new: Tensor  # bool (units,)

    def hook(self, value: float) -> Callable[..., Tensor]:
        """Replaces the output, at this value of the mask."""
        weight = _weights(self.new, value)

        def masked(module: Any, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = arguments[0].to(torch.promote_types(arguments[0].dtype, torch.float32))
            w = weight.to(x.dtype)
            share = w / w.sum()
            if self.kind == "rms":
                plain, wanted = x.square().mean(-1, keepdim=True), (share * x.square()).sum(-1, keepdim=True)
                return (output * w * ((plain + self.eps) / (wanted + self.eps)).sqrt()).to(output.dtype)
            centred = x - (share * x).sum(-1, keepdim=True)
            scale = ((share * centred.square()).sum(-1, keepdim=True) + self.eps).rsqrt()
            y = centred * scale * module.weight
            masked_y: Tensor = w * (y if module.bias is None else y + module.bias)
            return masked_y.to(output.dtype)

        return masked


@dataclass(frozen=True, eq=False)
class Masks:
    """Where a live model's new units and layers are masked."""

    norms: tuple[MaskedNorm, ...]
    readers: tuple[tuple[nn.Module, Tensor], ...]
    """Modules with a weight that reads new units, and which of their inputs those are."""
    layers: tuple[nn.Module, ...]
    """New layers."""

    @contextmanager
    def at(self, value: float) -> Iterator[None]:
        """The model with the mask at this value; outside, and at 1, it is plain."""
        with ExitStack() as stack:
            if value < 1.0:
                for norm in self.norms:
                    stack.callback(norm.module.register_forward_hook(norm.hook(value)).remove)
                for module, new in self.readers:
                    stack.callback(module.register_forward_pre_hook(_scaled_input(new, value)).remove)
                for layer in self.layers:
                    stack.callback(layer.register_forward_hook(_blended(value), with_kwargs=True).remove)
            yield


def make_masks(model: nn.Module, plan: GrowthPlan, entries: Mapping[str, NewEntries]) -> Masks:
    """The masks of a grown model, which must be on its final device; raises as `check_masks` does."""
    check_masks(plan, entries)
    large, originals = plan.large, set(plan.growth.layers.originals().values())
    normed = _normed_axes(large)
    norms, readers = [], []
    for name, parameter in large.parameters.items():
        if parameter.layer is not None and parameter.layer not in originals:
            continue  # a new layer fades in as a whole
        place = _masked_dim(parameter, entries[name], normed)
        if place is None:
            continue
        module, new = model.get_submodule(name.rsplit(".", 1)[0]), entries[name].units[place]
        new = new.to(next(module.parameters()).device)
        if parameter.signature.dims[place].role == "reads":
            readers.append((module, new))
        else:
            norms.append(_norm(module, large, parameter, new))
    new_layers = tuple(
        model.get_submodule(name) for layer, name in large.layer_modules.items() if layer not in originals
    )
    return Masks(tuple(norms), tuple(readers), new_layers)


def check_masks(plan: GrowthPlan, entries: Mapping[str, NewEntries]) -> None:
    """Raise GrowthError where masks cannot keep the function, or cannot reach what is new."""
    for name, spec in plan.large.axes.items():
        if not spec.kind.maskable and plan.small.sizes[name] != plan.large.sizes[name]:
            raise GrowthError(
                f"masks cannot hide new units of axis '{name}' ({spec.size})",
                got=f"{plan.small.sizes[name]} to {plan.large.sizes[name]}",
                fix="grow the number of heads and not their size, and the vocabulary in a stage of its own",
            )
    normed = _normed_axes(plan.large)
    for name, found in entries.items():
        parameter = plan.large.parameters[name]
        experts = any(plan.large.axes[one].active is not None for one in parameter.signature.axes("writes"))
        if experts and not found.new_layer and _masked_dim(parameter, found, normed) is not None:
            raise GrowthError(
                f"masks cannot hide new units inside experts: '{name}' holds many matrices and is no module",
                fix="grow other sizes than the experts' own, or leave out masks",
            )
    if plan.growth.layers.silent and plan.small.spec.layers.norm == "post":
        raise GrowthError(
            "masks hide new layers, and identity layers of a post-norm model must be seen",
            fix="use depth: stack",
        )
    for name, found in entries.items():
        if not found.new_layer and not _stands_as_it_was(plan, name):
            raise GrowthError(
                f"masks need a growth that leaves old entries as they are, and this one scales '{name}'",
                fix="use an operator that adds units beside the old ones, or leave out masks",
            )
    eps = {spec.eps for spec in plan.large.axes.values() if spec.eps is not None}
    changed = [one for one in eps if got(plan.config, one) != got(plan.small.config, one)]
    if changed:
        raise GrowthError(
            f"masks need norms that stay as they are, and this growth changes {', '.join(changed)}",
            fix="use an operator that adds units beside the old ones, or leave out masks",
        )


def _stands_as_it_was(plan: GrowthPlan, name: str) -> bool:
    """Whether every old entry is copied with weight 1."""
    term = plan.recipes["weight"][name].terms[0]
    gathers = [map_.gather for map_ in term.maps if map_.gather is not None]
    weights = [gather.weight[gather.index >= 0] for gather in gathers]
    return term.coefficient == 1.0 and all(bool((weight == 1).all()) for weight in weights)


def _normed_axes(model: Model) -> frozenset[str]:
    """Axes that a norm writes: what reads them sees masked values already."""
    return frozenset[str]().union(*(one.signature.axes("scales") for one in model.parameters.values()))


def _masked_dim(parameter: Parameter, entries: NewEntries, normed: frozenset[str]) -> int | None:
    """The dimension to mask: of a norm's gain, or of a matrix that reads new units that no norm writes."""
    for place, dim in enumerate(parameter.signature.dims):
        new = bool(entries.units[place].any())
        if new and (dim.role == "scales" or (dim.role == "reads" and not dim.axes & normed)):
            return place
    return None


def _norm(module: nn.Module, model: Model, parameter: Parameter, new: Tensor) -> MaskedNorm:
    (axis,) = parameter.signature.axes("scales")
    spec = model.axes[axis]
    assert spec.norm is not None, "an axis with a gain says which norm it is"
    assert spec.eps is not None, "an axis with a gain says where its eps is"
    return MaskedNorm(module, spec.norm, float(got(model.config, spec.eps)), new)


def _weights(new: Tensor, value: float) -> Tensor:
    return torch.ones(len(new), dtype=torch.float64, device=new.device).masked_fill_(new, value)


def _scaled_input(new: Tensor, value: float) -> Callable[..., tuple[Any, ...]]:
    weight = _weights(new, value)

    def scaled(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (arguments[0] * weight.to(arguments[0].dtype), *arguments[1:])

    return scaled


def _blended(value: float) -> Callable[..., Any]:
    def blended(module: Any, arguments: tuple[Any, ...], options: dict[str, Any], output: Any) -> Any:
        x = arguments[0] if arguments else options["hidden_states"]
        if isinstance(output, tuple):
            return (torch.lerp(x, output[0], value), *output[1:])
        return torch.lerp(x, output, value)

    return blended
