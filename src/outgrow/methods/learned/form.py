"""Learned operators: a growth whose numbers are fitted to the task, then applied like any other.

    argmin_values  E_x loss(x; grown(values, Θ))        Θ, the small model's weights, stay as they are

A *form* says which numbers are free and how they make the large weights, twice: `grown` on tensors, differentiable, for
the fit, and `growth` as maps and mixtures of layers, for the recipe path. It knows sizes, no files and no model names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from outgrow.algebra.axes import Dim, Product, Sum
from outgrow.algebra.maps import LayerMap
from outgrow.algebra.noise import normal_rows
from outgrow.errors import GrowthError
from outgrow.growth.growth import Growth
from outgrow.models.model import Model, Parameter

BlockSide = Literal["write", "read", "gain"]
Values = Mapping[str, Tensor]
"""The free numbers of an operator, by name."""
SIDES: dict[str, BlockSide] = {"writes": "write", "reads": "read", "scales": "gain"}


class Learned(ABC):
    """What a fitted operator is: two models, names and shapes of its numbers, and the growth that they make.

    Final: Lesa; and every OperatorForm, whose numbers are trained on the task's loss.
    """

    small: Model
    large: Model

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the free numbers."""

    @abstractmethod
    def growth(self, values: Values) -> Growth:
        """The operator as a growth: for the recipe path."""


class OperatorForm(Learned):
    """What is learned, and how it makes a large model of a small one. Final: Ligo, Mango."""

    @abstractmethod
    def grown(self, values: Values, small: Mapping[str, Tensor], skip: frozenset[str]) -> dict[str, Tensor]:
        """All large weights but those in `skip`, differentiable in `values`.

        `small` holds one tensor per pattern: a stack (layers, ...) of the layers, or the tensor itself.
        """

    @abstractmethod
    def mapped(self, values: Values, x: Tensor, pattern: str, dim: int) -> Tensor:
        """`x` through the map of a parameter's dimension: x[..., d] -> (.., D), for tables that are not grown whole."""

    @abstractmethod
    def mapped_back(self, values: Values, x: Tensor, pattern: str, dim: int) -> Tensor:
        """`x` through the map's transpose: x[..., D] -> (..., d)."""


@dataclass(frozen=True)
class MatrixBlock:
    """One block of a parameter: the whole of it, or one of the matrices that are fused in it."""

    key: str
    pattern: str
    layered: bool
    roles: tuple[BlockSide, ...]
    blocks: tuple[Product, ...]
    """The product of axes along each dimension."""
    place: int | None
    """The dimension along which the parameter is fused, if any."""
    start: tuple[int, int]
    """Where the piece begins along it, in the small and in the large parameter."""

    def size(self, model: Model, dim: int) -> int:
        """Length of a dimension."""
        return size(self.blocks[dim], model)

    def of(self, tensor: Tensor, model: Model, *, leading: int = 0) -> Tensor:
        """This piece of a small parameter, behind `leading` dimensions of its own."""
        if self.place is None:
            return tensor
        return tensor.narrow(self.place + leading, self.start[0], self.size(model, self.place))


def matrix_blocks(small: Model, large: Model) -> dict[str, MatrixBlock]:
    """Every parameter of a model as its pieces, by key: a pattern, or `pattern#2` where matrices are fused.

    >>> from outgrow.models.architecture import resolve
    >>> small = resolve({"model_type": "gpt2", "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 7, "vocab_size": 11})
    >>> [piece.blocks[1] for key, piece in matrix_blocks(small, small).items() if key.endswith("c_attn.weight#0")]
    [('heads', 'query_dim')]
    """
    found: dict[str, MatrixBlock] = {}
    for parameter in patterns(large).values():
        for piece in _pieces(parameter, small, large):
            found[piece.key] = piece
    return found


def patterns(model: Model) -> dict[str, Parameter]:
    """One parameter per pattern: of the first layer, or of no layer."""
    found: dict[str, Parameter] = {}
    for parameter in model.parameters.values():
        found.setdefault(parameter.pattern, parameter)
    return found


def _pieces(parameter: Parameter, small: Model, large: Model) -> Iterator[MatrixBlock]:
    dims = parameter.signature.dims
    if any(isinstance(atom, Sum) for dim in dims for block in dim.blocks for atom in block):
        raise GrowthError(
            f"no learned operator can say '{parameter.signature}' of {parameter.pattern}",
            fix="use a width operator such as isometric or pad",
        )
    fused = [place for place, dim in enumerate(dims) if len(dim.blocks) > 1]
    roles = tuple(SIDES[dim.role] for dim in dims)
    layered = parameter.layer is not None
    if not fused:
        blocks = tuple(dim.blocks[0] for dim in dims)
        yield MatrixBlock(parameter.pattern, parameter.pattern, layered, roles, blocks, None, (0, 0))
        return
    if len(fused) > 1:
        raise GrowthError(
            f"'{parameter.pattern}' is fused along two dimensions, which no learned operator can say"
        )
    place, starts = fused[0], (0, 0)
    for number, block in enumerate(dims[place].blocks):
        blocks = tuple(block if other == place else dim.blocks[0] for other, dim in enumerate(dims))
        key = f"{parameter.pattern}#{number}"
        yield MatrixBlock(key, parameter.pattern, layered, roles, blocks, place, starts)
        starts = starts[0] + size(block, small), starts[1] + size(block, large)


def size(block: Product, model: Model) -> int:
    """Units of a product of axes."""
    return Dim("writes", (block,)).size(model.sizes)


def stacked(small: Model, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `OperatorForm.grown` reads: per pattern, all layers of a small model as one tensor."""
    found = {}
    for pattern, parameter in patterns(small).items():
        if parameter.layer is None:
            found[pattern] = weights[pattern]
        else:
            found[pattern] = torch.stack(
                [weights[parameter.in_layer(layer)] for layer in range(small.layers)]
            )
    return found


def named(large: Model, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The other way: per pattern to per parameter."""
    found: dict[str, Tensor] = {}
    for pattern, tensor in tensors.items():
        if "{L}" in pattern:
            for layer, one in enumerate(tensor.unbind(0)):
                found[pattern.replace("{L}", str(layer))] = one
        else:
            found[pattern] = tensor
    return {name: found[name] for name in large.parameters if name in found}


def along(x: Tensor, dim: int, matrix: Tensor, *, fixed: bool = False) -> Tensor:
    """The matrix (or, with `fixed`, [I; matrix]) times one dimension of x: one product, however many layers x has."""
    moved = x.movedim(dim, -1)
    y = functional.linear(moved, matrix)
    return (torch.cat([moved, y], dim=-1) if fixed else y).movedim(-1, dim)


def both(x: Tensor, maps: Mapping[int, Tensor], *, fixed: bool = False) -> Tensor:
    """Several dimensions of x, in the order that multiplies least."""
    left = dict(maps)
    while left:
        dim = min(left, key=lambda place: _cost(x.shape, left, place, fixed))
        x = along(x, dim, left.pop(dim), fixed=fixed)
    return x


def _cost(shape: torch.Size, maps: Mapping[int, Tensor], first: int, fixed: bool) -> int:
    """Multiplications where this dimension goes first."""
    sizes, total = list(shape), 0
    for dim in (first, *(other for other in maps if other != first)):
        total += prod(sizes) * maps[dim].shape[0]
        sizes[dim] = maps[dim].shape[0] + (sizes[dim] if fixed else 0)
    return total


def mixture(weights: Tensor) -> LayerMap:
    """Depth weights (large layers, small layers) as a `LayerMap`, the heaviest source of a layer first."""
    rows = []
    for row in weights.detach().double().tolist():
        mixed = [(layer, weight) for layer, weight in enumerate(row) if weight != 0]
        # An empty row would mean a fresh layer.
        rows.append(tuple(sorted(mixed, key=lambda one: -abs(one[1]))) or ((0, 0.0),))
    return LayerMap(tuple(rows), weights.shape[1])


def uniform_rows(seed: int, name: str, rows: int, columns: int) -> Tensor:
    """float64 (rows, columns), uniform on (0, 1), addressed by seed and name."""
    drawn: Tensor = torch.special.ndtr(normal_rows(seed, name, 0, rows, columns).double())
    return drawn.clamp(1e-9, 1 - 1e-9)


def check_alike(small: Model, method: str) -> None:
    """Raises GrowthError unless every layer has every parameter of a layer, in one shape: a learned operator mixes layers."""
    for pattern, first in patterns(small).items():
        if first.layer is None:
            continue
        names = [first.in_layer(layer) for layer in range(small.layers)]
        shapes = [small.shape(one) if one in small.parameters else () for one in names]
        other = next((layer for layer, shape in enumerate(shapes) if shape != shapes[0]), None)
        if other is not None:
            raise GrowthError(
                f"{method} makes layers of other layers, and layers of this model differ: '{pattern}'",
                got="; ".join(f"layer {layer}: {shapes[layer] or 'none'}" for layer in (0, other)),
                fix="use stack, interleave or identity",
            )


def check_grows(small: Model, large: Model, method: str) -> None:
    """A learned operator maps features and mixes layers; it has nothing to say on new tokens."""
    check_alike(small, method)
    for name, spec in small.axes.items():
        if spec.is_table and small.sizes[name] != large.sizes[name]:
            new = "tokens" if spec.is_lookup else "positions"
            raise GrowthError(
                f"{method} cannot grow axis '{name}' ({spec.size}): nothing is known of new {new}",
                got=f"{small.sizes[name]} to {large.sizes[name]}",
                fix=f"learn the other sizes, then `outgrow grow` the {'vocabulary' if new == 'tokens' else new}",
            )
    if small.sizes == large.sizes and small.layers == large.layers:
        raise GrowthError(
            f"{method} has nothing to learn: no size changes", fix="name a size that grows with --to"
        )
