"""A large model without weights of its own: each forward pass computes them from the small ones, differentiably.

    weights(values) = form.grown(values, Θ_small);   model(x) = functional_call(empty large model, weights, x)

What a batch does not need is not built: an embedding maps only the rows that it looks up, and a head maps the hidden
state back to the small width, h·B·Eᵀ instead of h·(E·Bᵀ)ᵀ, so the large table never exists. A tied table is one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from outgrow.methods.learned.form import OperatorForm, Values, patterns, stacked
from outgrow.models.library import build_model


class GrownModel:
    """A transformers model of the large config that runs on `form.grown(values)`.

    `values` are the leaves that are trained; the small model's weights (by parameter name) are constants.
    """

    def __init__(
        self,
        form: OperatorForm,
        values: Values,
        small: Mapping[str, Tensor],
        config: Mapping[str, Any],
        *,
        device: str = "cpu",
    ) -> None:
        self.form, self.values = form, values
        dtype = next(iter(small.values())).dtype
        self.small = {name: tensor.to(device) for name, tensor in stacked(form.small, small).items()}
        self.model: nn.Module = build_model(config, dtype=dtype)
        replaced = self._replace_tables()
        _empty(self.model, device)
        self.skip = frozenset(replaced)

    def __call__(self, *inputs: Tensor, **batch: Tensor) -> Any:
        """The model's output for a batch."""
        weights = self.form.grown(self.values, self.small, self.skip)
        return torch.func.functional_call(self.model, weights, args=inputs, kwargs=batch)

    def _replace_tables(self) -> list[str]:
        """Put mapped tables in the place of plain embeddings and heads over a vocabulary; the patterns they stand for."""
        owner = {id(parameter): name for name, parameter in self.model.named_parameters()}
        users: dict[str, list[str]] = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            users.setdefault(owner[id(parameter)], []).append(name)
        found = []
        for pattern, dim in tables(self.form).items():
            modules = {name: self.model.get_submodule(name.rpartition(".")[0]) for name in users[pattern]}
            if any(type(module) not in (nn.Embedding, nn.Linear) for module in modules.values()):
                continue  # a table with a behaviour of its own is grown whole
            for name, module in modules.items():
                self.model.set_submodule(name.rpartition(".")[0], self._mapped(pattern, dim, module))
            found.append(pattern)
        return found

    def _mapped(self, pattern: str, dim: int, module: nn.Module) -> nn.Module:
        if isinstance(module, nn.Embedding):
            return _MappedEmbedding(self, pattern, dim)
        assert isinstance(module, nn.Linear)
        return _MappedHead(self, pattern, dim, module.bias)


def making_flops(form: OperatorForm, values: Values) -> int:
    """FLOPs of making all large weights once, tables over a vocabulary left out, counted without computing them."""
    from torch.utils.flop_counter import FlopCounterMode

    numbers = {name: value.to("meta") for name, value in values.items()}
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        form.grown(numbers, hollow_values(form), frozenset(tables(form)))
    return int(counter.get_total_flops())


def hollow_values(form: OperatorForm) -> dict[str, Tensor]:
    """What `OperatorForm.grown` reads, without numbers: on the meta device."""
    small = {name: torch.empty(form.small.shape(name), device="meta") for name in form.small.parameters}
    return stacked(form.small, small)


class _MappedEmbedding(nn.Module):
    """ids -> B·E[ids]."""

    def __init__(self, grown: GrownModel, pattern: str, dim: int) -> None:
        super().__init__()
        self._of, self._dim = (grown, pattern), dim

    def forward(self, ids: Tensor) -> Tensor:
        grown, pattern = self._of
        rows = functional.embedding(ids, grown.small[pattern])
        return grown.form.mapped(grown.values, rows, pattern, self._dim)


class _MappedHead(nn.Module):
    """h -> (h·B)·Eᵀ + bias."""

    def __init__(self, grown: GrownModel, pattern: str, dim: int, bias: nn.Parameter | None) -> None:
        super().__init__()
        self._of, self._dim = (grown, pattern), dim
        self.bias = bias

    def forward(self, hidden: Tensor) -> Tensor:
        grown, pattern = self._of
        narrow = grown.form.mapped_back(grown.values, hidden, pattern, self._dim)
        return functional.linear(narrow, grown.small[pattern], self.bias)


def tables(form: OperatorForm) -> dict[str, int]:
    """Matrices over a vocabulary, by pattern, and the dimension that is not it."""
    axes = form.small.axes
    found = {}
    for pattern, parameter in patterns(form.large).items():
        dims = parameter.signature.dims
        lookups = [any(axes[name].is_lookup for name in dim.axes) for dim in dims]
        if len(dims) == 2 and sum(lookups) == 1 and all(len(dim.blocks) == 1 for dim in dims):
            found[pattern] = lookups.index(False)
    return found


def _empty(model: nn.Module, device: str) -> None:
    """Drop every weight: parameters go to the meta device, buffers (rotary tables, position ids) stay numbers."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = made.setdefault(
                    id(parameter), nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
                )
                module._parameters[name] = empty
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)
