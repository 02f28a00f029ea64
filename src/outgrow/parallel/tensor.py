"""A model cut inside its layers: heads and MLP units among the ranks of a tensor group, by the plan that transformers gives it.

    colwise      y_r = W_r x             every rank its own rows of W: whole heads, units of the MLP
    rowwise      y = Σ_r W_r x_r         its own columns; the sum goes over the group
    embedding    y = Σ_r E_r[x]          its own tokens
    replicated   g = Σ_r g_r             a norm that sees this rank's heads alone: its gain's gradient is summed

PyTorch's `parallelize_module` does it. A tensor that no rule names is whole on every rank of the group, with the same bits:
so are an embedding and a head whose vocabulary the group cannot share evenly, or that are one tensor and would be cut in two ways.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from outgrow.algebra.axes import Dim
from outgrow.errors import ConfigError
from outgrow.models.architecture import resolve
from outgrow.models.library import config_of, meta_model, tensor_plan, tie, tied_names
from outgrow.models.model import Model

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Plan = Mapping[str, str]
"""Module -> rule."""


@dataclass(frozen=True)
class _Rule:
    """What a rule of a plan does to a module."""

    make: Callable[[], ParallelStyle]
    cuts: int | None
    """The dimension of the weight that is cut; None where the weight is whole."""
    inside: bool
    """Whether activations beside it are cut, too: what it writes or, cut along its columns, what it reads."""


def _whole_output() -> ParallelStyle:
    return ColwiseParallel(output_layouts=Replicate())


def _whole_input() -> ParallelStyle:
    return RowwiseParallel(input_layouts=Replicate())


def _norm_of_heads() -> ParallelStyle:
    return SequenceParallel(sequence_dim=0, use_local_output=True)  # any dimension but the normed one will do


_RULES = {
    "colwise": _Rule(ColwiseParallel, 0, inside=True),
    "colwise_gather_output": _Rule(_whole_output, 0, inside=False),
    "rowwise": _Rule(RowwiseParallel, 1, inside=True),
    "rowwise_split_input": _Rule(_whole_input, 1, inside=False),
    "embedding_rowwise": _Rule(_whole_input, 0, inside=False),
    "replicated_with_grad_allreduce": _Rule(_norm_of_heads, None, inside=True),
}
"""By the words of transformers' plans."""


def cut_inside(model: nn.Module, mesh: DeviceMesh) -> None:
    """Cut a model that `check_tensor` has accepted, in place and before FSDP2; tied weights stay tied."""
    tied = tied_names(model)
    plan = slice_plan(model, resolve(config_of(model)), mesh.size())
    styles = {name: _RULES[rule].make() for name, rule in plan.items()}
    parallelize_module(model, mesh, styles, src_data_rank=None)
    # The logits of a cut head are one, which nothing here changes in place.
    warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module \(.*\) returned a view tensor")
    tie(model, tied)


def slice_plan(model: nn.Module, described: Model, tensor: int) -> Plan:
    """What is followed of the plan that transformers has for a model: all but what is outside of its layers and cannot be cut."""
    plan = tensor_plan(model)
    whole = {
        name
        for name, dim in cut_dims(described.parameters, plan).items()
        if described.parameters[name].layer is None and described.shape(name)[dim] % tensor
    }
    for name, owner in tied_names(model).items():
        if owner in whole or len({cut_dims([one], plan).get(one) for one in (name, owner)}) > 1:
            whole |= {name, owner}
    places = {name.rpartition(".")[0] for name in whole}
    return {name: rule for name, rule in plan.items() if name not in places}


def cut_dims(names: Iterable[str], plan: Plan) -> dict[str, int]:
    """Of these tensors those that a plan cuts, and along which dimension."""
    found = {}
    for name in names:
        place, _, last = name.rpartition(".")
        dim = _RULES[plan[place]].cuts if place in plan else None
        if dim is not None and not (dim == 1 and last == "bias"):
            found[name] = dim
    return found


def slice_numbers(config: Mapping[str, Any], tensor: int) -> dict[str, int]:
    """How many numbers of every tensor a rank holds of a model that `check_tensor` has accepted, before FSDP2 cuts it.

    >>> tiny = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
    ...     "num_attention_heads": 2, "vocab_size": 10, "architectures": ["LlamaForCausalLM"]}
    >>> sum(slice_numbers(tiny, 1).values()), sum(slice_numbers(tiny, 2).values())
    (824, 424)
    """
    model = resolve(config)
    cut = cut_dims(model.parameters, slice_plan(meta_model(config), model, tensor) if tensor > 1 else {})
    return {name: prod(model.shape(name)) // (tensor if name in cut else 1) for name in model.parameters}


def check_tensor(config: Mapping[str, Any], tensor: int, where: str) -> None:
    """Raise ConfigError unless so many ranks can cut the model of a config inside its layers; `where` says whose it is."""
    if tensor == 1:
        return
    model, described = meta_model(config), resolve(config)
    whole = tensor_plan(model)
    _has_plan(described, whole, where)
    _knows_rules(model, whole, where)
    plan = slice_plan(model, described, tensor)
    _leaves_nothing_apart(described, plan, where)
    _can_share(described, plan, tensor, where)
    _draws_nothing_inside(config, where)


def _error(where: str, what: str, *, got: object, expected: str | None = None, fix: str = "") -> ConfigError:
    other = "leave out parallel.tensor: parallel.shard cuts every model type"
    return ConfigError(
        f"parallel.tensor: {what} ({where})",
        got=got,
        expected=expected,
        fix=f"{fix}, or {other}" if fix else other,
    )


def _has_plan(model: Model, plan: Plan, where: str) -> None:
    layers = tuple(f"{name}." for name in model.layer_modules.values())
    if not any(name.startswith(layers) for name in plan):
        raise _error(
            where,
            "transformers has no plan that cuts the layers of this model type",
            got=model.spec.model_type,
        )


def _knows_rules(model: nn.Module, plan: Plan, where: str) -> None:
    modules = dict(model.named_modules())
    for name, rule in plan.items():
        known = rule in _RULES and name in modules
        if not known or (
            _RULES[rule].cuts is not None and not isinstance(modules[name], nn.Linear | nn.Embedding)
        ):
            raise _error(
                where,
                "the plan that transformers has for this model type asks for more than is built here",
                got=f"{name}: {rule}",
                expected=f"matrices and embeddings, cut by {', '.join(_RULES)}",
            )


def _leaves_nothing_apart(model: Model, plan: Plan, where: str) -> None:
    """A tensor beside cut activations that no rule names would get a part of its gradient."""
    cut = cut_dims(model.parameters, plan)
    inside = frozenset[str]().union(
        *(
            model.parameters[name].signature.dims[dim].axes
            for name, dim in cut.items()
            if _RULES[plan[name.rpartition(".")[0]]].inside
        )
    )
    for name, parameter in model.parameters.items():
        axes = frozenset[str]().union(*(dim.axes for dim in parameter.signature.dims))
        axes |= {of for axis in axes if (of := model.axes[axis].of) is not None}
        if axes & inside and name.rpartition(".")[0] not in plan:
            raise _error(
                where,
                f"the plan of {model.spec.model_type} says nothing of a tensor between those that it cuts",
                got=f"{name}: {parameter.signature}",
            )


def _can_share(model: Model, plan: Plan, tensor: int, where: str) -> None:
    """Every rank has as many units as the others, and whole heads; DCP would write uneven parts at wrong places."""
    for name, dim in cut_dims(model.parameters, plan).items():
        found = model.parameters[name].signature.dims[dim]
        inside = _RULES[plan[name.rpartition(".")[0]]].inside
        what, size = _first(model, found) if inside else (str(found), found.size(model.sizes))
        if size % tensor:
            raise _error(
                where,
                f"{tensor} ranks cannot share {name} evenly",
                got=f"{size} {what}",
                expected=f"a multiple of {tensor}",
                fix="choose sizes that it divides",
            )


def _first(model: Model, dim: Dim) -> tuple[str, int]:
    """What the outermost units of a dimension are, and how many: heads, where it is heads and their insides."""
    if len(dim.blocks) > 1:
        return f"block of {dim}, whose parts lie side by side", 1
    atom = dim.blocks[0][0]
    return str(atom), Dim(dim.role, ((atom,),)).size(model.sizes)


_DRAWN_WHOLE = ("hidden_dropout", "resid_pdrop", "residual_dropout", "embd_pdrop", "embedding_dropout")
"""Of activations that every rank of the group has whole, from the same generator."""


def _draws_nothing_inside(config: Mapping[str, Any], where: str) -> None:
    """Dropout on a part of the heads would draw other numbers than on all of them."""
    for key, value in _numbers(config):
        if "drop" in key and "classifier" not in key and key not in _DRAWN_WHOLE and value > 0:
            raise _error(
                where,
                "dropout inside of a layer that is cut: its masks would depend on the number of ranks",
                got=f"{key} {value}",
                expected="0",
                fix=f"set model.{key} to 0",
            )


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every number of a config, inner configs included."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int | float):
            yield key, value
