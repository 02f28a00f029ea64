"""Does an architecture file say the truth? A file's own example is built, its units are permuted, and it is grown.

    names        what the file says is what transformers builds, name by name and shape by shape
    units        putting all units of an axis in another order, as the signatures say, leaves the logits alone
    growth       where the plan promises the function and the gradient law, they hold to rounding
    files        a model saved by `save_pretrained` in its default layout is opened again, tensor by tensor

All of it in float64, with every cast to float32 inside the model raised to float64, so that nothing hides below 1e-7.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from outgrow.algebra.axes import Atom, Dim, Sum
from outgrow.errors import ArchitectureError, GrowthError
from outgrow.growth.plan import GrowthPlan, plan
from outgrow.methods.build import build
from outgrow.models.agreement import check_described
from outgrow.models.architecture import resolve
from outgrow.models.expressions import got
from outgrow.models.library import build_model, model_tensors
from outgrow.models.model import Model
from outgrow.models.spec import ArchitectureSpec
from outgrow.proof.measures import gradient_law
from outgrow.proof.probe import output_of, probe_large, probe_small, strays
from outgrow.proof.tiny_model import check_example_grows, doubled, example, inputs, tiny
from outgrow.state.grown_view import GrownView
from outgrow.state.training_state import TrainingState
from outgrow.store.source import MemorySource

FUNCTION = 1e-11
"""Of max |Δlogits| / max |logits|: sums of a few thousand terms in another order, each rounded to 1e-16."""
LAW = 1e-9
"""Of a tensor's gradient: as above, through the backward pass, where a bias whose gradient vanishes is rounding."""
_NARROW = (torch.float32, torch.float16, torch.bfloat16)


class _Exact(TorchFunctionMode):
    """Every request for a narrower float gets a float64."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.float:
            return args[0].to(torch.float64)
        wide = {name: torch.float64 if _narrow(one) else one for name, one in (kwargs or {}).items()}
        return func(*(torch.float64 if _narrow(one) else one for one in args), **wide)


def _narrow(value: Any) -> bool:
    return isinstance(value, torch.dtype) and value in _NARROW


@contextmanager
def float64_casts() -> Iterator[None]:
    """Inside it, casts to float32 and narrower become casts to float64.

    >>> with float64_casts():
    ...     torch.ones(2, dtype=torch.float64).float().dtype
    torch.float64
    """
    with _Exact():
        yield


def logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The model's logits on a batch, in exact arithmetic."""
    with float64_casts():
        found: Tensor = model(**batch).logits
    return found.double()


def gradients(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradient of a cross-entropy of them, with zeros where there is none."""
    model.zero_grad(set_to_none=True)
    found = logits(model, batch)
    flat = found.flatten(0, -2)
    labels = torch.arange(len(flat)) * 7 % flat.shape[-1]
    torch.autograd.backward(nn.functional.cross_entropy(flat, labels))
    made = {
        name: torch.zeros_like(one) if one.grad is None else one.grad.detach().clone()
        for name, one in model.named_parameters()
    }
    return found.detach(), made


# ---- units have no order --------------------------------------------------------------------------------------------


def orders(model: Model, generator: torch.Generator) -> dict[str, Tensor]:
    """A random order of the units of every axis that has none of its own; axes that belong together get the same."""
    found = {
        name: torch.randperm(size, generator=generator)
        if model.axes[name].can_grow and not model.axes[name].is_table and not model.axes[name].alibi
        else torch.arange(size)
        for name, size in model.sizes.items()
    }
    for name, spec in model.axes.items():
        if spec.like is not None:
            found[name] = found[spec.like]
    for _ in range(3):  # a norm of a twin of a stream ...
        for name, spec in model.axes.items():
            if spec.is_normed:
                found[name] = found[str(spec.of)]
    for name, spec in model.axes.items():
        if spec.inside_head:  # rotary dimensions turn in pairs at a frequency of their own
            partner = found.get(str(spec.with_))
            placed = spec.rotary or spec.is_raw or partner is None
            found[name] = torch.arange(model.sizes[name]) if placed or partner is None else partner
    for name, spec in model.axes.items():
        if spec.is_contracted and spec.with_ is not None and not spec.rotary:
            first = min((name, spec.with_), key=list(model.axes).index)
            found[name] = found[spec.with_] = found[first]
    routed = [name for name, spec in model.axes.items() if spec.is_router]
    grouped = any(int(got(model.config, one.groups or "") or 1) > 1 for one in model.spec.routers.values())
    for name in () if grouped else routed:  # the router's rows and the experts move together
        found[name] = (
            torch.randperm(model.sizes[name], generator=generator) if name == routed[0] else found[routed[0]]
        )
    return found


def order_of(dim: Dim, sizes: Mapping[str, int], found: Mapping[str, Tensor]) -> Tensor:
    """The order of a dimension: products row-major, sums one after the other."""

    def of_atom(atom: Atom) -> Tensor:
        if isinstance(atom, Sum):
            return order_of(Dim(dim.role, atom.blocks), sizes, found)
        return torch.arange(atom) if isinstance(atom, int) else found[atom]

    parts, offset = [], 0
    for block in dim.blocks:
        index = torch.zeros(1, dtype=torch.int64)
        for atom in block:
            own = of_atom(atom)
            index = (index[:, None] * len(own) + own[None, :]).flatten()
        parts.append(index + offset)
        offset += len(index)
    return torch.cat(parts)


def permuted(model: nn.Module, signatures: Model) -> float:
    """How far logits move when all units change places as the signatures say: max |Δ| / max |logits|. Changes the model.

    Of a model without a head the outputs themselves are compared, whose units have moved too.
    """
    batch = inputs(model)
    with torch.no_grad():
        found = orders(signatures, torch.Generator().manual_seed(0))
        moved = {name: found[axis] for name, axis in signatures.spec.outputs.items()}
        before = _answers(model, batch, moved)
        tensors = model_tensors(model)
        for name, parameter in signatures.parameters.items():
            value = tensors[name].clone()
            for place, dim in enumerate(parameter.signature.dims):
                value = value.index_select(place, order_of(dim, signatures.sizes, found))
            tensors[name].copy_(value)
        return _gap(before, _answers(model, batch, {name: slice(None) for name in moved}))


def _answers(model: nn.Module, batch: Mapping[str, Tensor], outputs: Mapping[str, Tensor | slice]) -> Tensor:
    """Logits where no outputs are named; else all these outputs, their units in these orders."""
    if not outputs:
        return logits(model, batch)
    with float64_casts():
        found = model(**batch)
    return torch.cat([output_of(found, name)[..., units].flatten() for name, units in outputs.items()])


def _gap(before: Tensor, after: Tensor) -> float:
    return float((after - before).abs().max() / before.abs().max())


# ---- growth ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GrowthCheck:
    """What one growth of an example promised and kept."""

    operator: str
    sizes: Mapping[str, Any]
    function: float
    law: float
    worst: str
    promises_function: bool
    promises_law: bool
    why: tuple[str, ...]
    """What is not promised, and why."""

    @property
    def holds(self) -> bool:
        """Whether every promise was kept."""
        function = self.function <= FUNCTION or not self.promises_function
        return function and (self.law <= LAW or not self.promises_law)


def grown(
    config: Mapping[str, Any], to: Mapping[str, Any], width: str, depth: str = "identity"
) -> GrowthCheck:
    """Grow a tiny random model and compare logits and gradients with what the plan promised."""
    made = plan(build(resolve(config), to, width=width, depth=depth))
    small = tiny(config)
    large = _grown_model(made, small)
    probe_small(small, made.small)
    probe_large(large, made)
    batch = inputs(small)
    before, old = gradients(small, batch)
    after, new = _gradients_of_grown(large, batch, made)
    with float64_casts():
        strayed = strays(large, made, batch)
    trained = {name for name, one in made.large.parameters.items() if one.is_trained}
    laws = gradient_law(
        made,
        {name: one for name, one in old.items() if made.small.parameters[name].is_trained},
        {name: one for name, one in new.items() if name in trained},
    )
    return GrowthCheck(
        width,
        dict(to),
        max(_gap(before, after[..., : before.shape[-1]]), strayed),
        laws[0].error,
        laws[0].name,
        made.keeps_function,
        made.keeps_gradient_law,
        tuple(f"{one.axis}: {one.why}" for one in made.compensation.findings if one.why),
    )


def _gradients_of_grown(
    large: nn.Module, batch: Mapping[str, Tensor], made: GrowthPlan
) -> tuple[Tensor, dict[str, Tensor]]:
    """As `gradients`; where the grown model fails in its own code, the message names config lists that stayed too short."""
    try:
        return gradients(large, batch)
    except Exception as error:  # any: the model's own code, on a config that the file has grown
        layers, named = made.small.spec.layers, made.small.spec.layers.lists
        short = [
            field
            for field, value in made.config.items()
            if isinstance(value, list) and len(value) == made.small.layers and field not in named
        ]
        raise ArchitectureError(
            f"the grown {made.small.spec.model_type} does not run",
            got=f"{type(error).__name__}: {error}",
            expected=f"config lists with an entry for each of {layers.count} stand in `layers.lists`",
            fix=f"look at {', '.join(short)}" if short else "compare the grown config with the model's code",
        ) from error


def _grown_model(made: GrowthPlan, small: nn.Module) -> nn.Module:
    check_described(made.large, made.config)
    large: nn.Module = build_model(made.config, dtype=torch.float64).double().eval()
    old = {name: one.detach() for name, one in model_tensors(small).items() if name in made.small.parameters}
    view, tensors = GrownView(made, MemorySource({"weight": old})), model_tensors(large)
    with torch.no_grad():
        for name in made.large.parameters:
            tensors[name].copy_(view.read(name, "weight"))
    return large


def saved_and_opened(config: Mapping[str, Any]) -> None:
    """Save an example as transformers does by default and open it again. Raises where a tensor is not found or differs."""
    from transformers.utils import logging

    model, shown = tiny(config), logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        model.float()
        cast(Any, model).save_pretrained(folder)
        state = TrainingState.from_pretrained(Path(folder))
        kept = model_tensors(model)
        for name in state.source.names("weight"):
            if not torch.equal(state.source.read(name, "weight"), kept[name]):
                raise ArchitectureError(f"{name} is another tensor once saved and opened again")
    if shown:
        logging.enable_progress_bar()


@dataclass(frozen=True)
class Check:
    """What the check of an architecture file found."""

    model_type: str
    parameters: int
    units: float
    """How far logits move when units change places."""
    growths: tuple[GrowthCheck, ...]
    refused: Mapping[str, str]
    """Operators that refuse to grow the example, with their words."""

    @property
    def holds(self) -> bool:
        """Whether units have no order and every promise was kept."""
        return self.units <= FUNCTION and all(one.holds for one in self.growths)


def check(spec: ArchitectureSpec, operators: tuple[str, ...] = ("isometric", "duplicate", "pad")) -> Check:
    """Check an architecture file by its own example.

    Raises ArchitectureError or CheckpointError where names, shapes or saved files disagree with transformers.
    """
    config = example(spec)
    model = resolve(config)
    assert spec.example is not None
    check_example_grows(model, spec.example.grow)
    check_described(model, config)
    saved_and_opened(config)
    found, refused = [], {}
    for operator in operators:
        to = dict(spec.example.grow)
        if operator == "duplicate":
            to = doubled(model, to)
        elif operator == "isometric":
            to |= spec.example.isometric
        try:
            found.append(grown(config, to, operator))
        except GrowthError as error:
            refused[operator] = str(error)
    units = permuted(tiny(config), model)
    return Check(spec.model_type, model.num_parameters, units, tuple(found), refused)
