"""LiGO (arXiv 2303.00980): every large weight is a mixture of the small layers, mapped in and out by learned matrices.

    W'_i = B_o (Σ_j w_ij W_j) A_iᵀ        w per parameter kind; B writes an axis, A reads it

As published A = B along the residual stream, B_v is W_O's A, B_fc1 is W_fc2's A, and B = [I; R] with R alone free. `free`
unties them: reading and writing maps, and those of norm gains, are learned apart. Only so can Net2Net, or any growth that
keeps the function, be said (Prop. 1 holds untied), and only so can the fit begin at one (`exact`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from outgrow.algebra.axes import Atom, Product, Sum
from outgrow.algebra.linear import Dense, Identity, LinearMap
from outgrow.algebra.maps import AxisMap, LayerMap, identity
from outgrow.errors import GrowthError, near
from outgrow.growth.growth import Growth, Part, no_layers
from outgrow.methods.learned.form import (
    BlockSide,
    MatrixBlock,
    OperatorForm,
    Values,
    along,
    both,
    check_grows,
    matrix_blocks,
    mixture,
    named,
    patterns,
    size,
    uniform_rows,
)
from outgrow.models.model import Model

Tie = Literal["published", "tied", "free"]
WIDTHS = ("random", "selection", "sel_noisy")
DEPTHS = ("stack", "stack_noisy", "interleave", "interleave_noisy", "random")
MIXED = "a learned operator approximates: its loss is measured, not promised"


@dataclass(frozen=True)
class Ligo(OperatorForm):
    """The published operator (`published`: tied, B = [I; R]), with all of B free (`tied`), or untied as well (`free`).

    `offsets` holds the patterns of vectors that get a free summand: the norms that an exact post-norm start rewrites.
    """

    small: Model
    large: Model
    tie: Tie = "published"
    offsets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_grows(self.small, self.large, "ligo")

    @property
    def fixed(self) -> bool:
        """Whether the upper block of every map is the identity."""
        return self.tie == "published"

    @cached_property
    def pieces(self) -> dict[str, MatrixBlock]:
        """Every parameter, fused ones in parts."""
        return matrix_blocks(self.small, self.large)

    def matrix_name(self, block: Product, side: BlockSide) -> str | None:
        """Which free matrix maps a product of axes on one side; None where it does not grow."""
        moved = [
            atom
            for atom in block
            if isinstance(atom, str) and self.small.sizes[atom] != self.large.sizes[atom]
        ]
        if not moved or (self.fixed and size(block, self.small) == size(block, self.large)):
            return None  # heads that are dealt out anew keep their number, and yet move
        if self.tie == "free":
            return f"map.{_key(block)}.{side}"
        return f"map.{_space(block, self.small, self.large)}"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for piece in self.pieces.values():
            for block, side in zip(piece.blocks, piece.roles, strict=True):
                name = self.matrix_name(block, side)
                if name is not None:
                    before, after = size(block, self.small), size(block, self.large)
                    found[name] = (after - before if self.fixed else after, before)
            if piece.layered and self.deepens:
                found[f"layers.{piece.key}"] = (self.large.layers, self.small.layers)
        for pattern in self.offsets:
            length = patterns(self.large)[pattern].signature.shape(self.large.sizes)[0]
            found[f"offset.{pattern}"] = (self.large.layers, length)
        return found

    @property
    def deepens(self) -> bool:
        """Whether layers are mixed; else every layer stays itself."""
        return self.small.layers != self.large.layers

    # ---- on tensors, for the fit --------------------------------------------------------------------------------

    def grown(self, values: Values, small: Mapping[str, Tensor], skip: frozenset[str]) -> dict[str, Tensor]:
        parts: dict[str, list[Tensor]] = {}
        for piece in self.pieces.values():
            if piece.pattern not in skip:
                parts.setdefault(piece.pattern, []).append(
                    self.grown_piece(values, small[piece.pattern], piece)
                )
        found = {}
        for pattern, tensors in parts.items():
            place = (
                self.pieces[pattern].place if pattern in self.pieces else self.pieces[f"{pattern}#0"].place
            )
            leading = "{L}" in pattern
            found[pattern] = tensors[0] if place is None else torch.cat(tensors, dim=place + leading)
            if pattern in self.offsets:
                found[pattern] = found[pattern] + values[f"offset.{pattern}"]
        return named(self.large, found)

    def grown_piece(self, values: Values, tensor: Tensor, piece: MatrixBlock) -> Tensor:
        """Layers are mixed first, while they are small: then every map is applied to L' layers and not to L·L'."""
        x = piece.of(tensor, self.small, leading=int(piece.layered))
        weights = values.get(f"layers.{piece.key}")
        if weights is not None:
            x = torch.tensordot(weights, x, dims=1)
        names = {dim: self.matrix_name(block, side) for dim, (block, side) in enumerate(_sides(piece))}
        maps = {dim + piece.layered: values[name] for dim, name in names.items() if name is not None}
        return both(x, maps, fixed=self.fixed)

    def mapped(self, values: Values, x: Tensor, pattern: str, dim: int) -> Tensor:
        name = self._table_map(pattern, dim)
        return x if name is None else along(x, x.dim() - 1, values[name], fixed=self.fixed)

    def mapped_back(self, values: Values, x: Tensor, pattern: str, dim: int) -> Tensor:
        name = self._table_map(pattern, dim)
        if name is None:
            return x
        if not self.fixed:
            return x @ values[name]
        old = values[name].shape[1]
        return x[..., :old] + x[..., old:] @ values[name]

    def _table_map(self, pattern: str, dim: int) -> str | None:
        piece = self.pieces[pattern]
        return self.matrix_name(piece.blocks[dim], piece.roles[dim])

    # ---- as maps and mixtures, for the recipe path --------------------------------------------------------------

    def growth(self, values: Values) -> Growth:
        maps = self._maps(values)
        axes: dict[str, AxisMap] = {name: identity(size) for name, size in self._kept().items()}
        gains: dict[str, AxisMap] = dict(axes)
        for piece in self.pieces.values():
            for block, side in _sides(piece):
                key = _key(block)
                if side == "gain":
                    gain = maps[key, "gain"]
                    gains[key] = AxisMap(gain, gain, "none")
                else:
                    write = maps.get((key, "write")) or maps[key, "read"]
                    axes[key] = AxisMap(write, maps.get((key, "read")) or write, "none")
        parts = {pattern: self._parts(values, pattern, maps) for pattern in patterns(self.large)}
        parts |= self._offset_parts(parts)
        offsets = {
            f"offset/{pattern.replace('{L}', str(layer))}": row.detach()
            for pattern in self.offsets
            for layer, row in enumerate(values[f"offset.{pattern}"])
        }
        return Growth(
            self.small,
            self.large,
            axes,
            self._layers(values),
            parts={name: one for name, one in parts.items() if one},
            gains=gains,
            inexact=MIXED,
            tensors=offsets,
        )

    def matrix(self, values: Values, name: str) -> Tensor:
        """A whole map (large, small): [I; R] where only R is kept."""
        free = values[name].detach()
        if not self.fixed:
            return free
        return torch.cat([torch.eye(free.shape[1], dtype=free.dtype, device=free.device), free])

    def _maps(self, values: Values) -> dict[tuple[str, BlockSide], LinearMap]:
        dense: dict[str, LinearMap] = {
            name: Dense(self.matrix(values, name)) for name in self.shapes() if name.startswith("map.")
        }
        found: dict[tuple[str, BlockSide], LinearMap] = {}
        for piece in self.pieces.values():
            for block, side in _sides(piece):
                name = self.matrix_name(block, side)
                found[_key(block), side] = Identity(size(block, self.small)) if name is None else dense[name]
        return found

    def _kept(self) -> dict[str, int]:
        """Single axes that do not grow: those are not part of a joint map."""
        return {name: size for name, size in self.small.sizes.items() if self.large.sizes[name] == size}

    def _parts(
        self, values: Values, pattern: str, maps: Mapping[tuple[str, BlockSide], LinearMap]
    ) -> tuple[Part, ...]:
        own = [piece for piece in self.pieces.values() if piece.pattern == pattern]
        return tuple(
            Part(layers=self._mixture(values, piece), maps=self._fused(piece, maps))
            for piece in own
            if piece.place is not None or (piece.layered and self.deepens)
        )

    def _mixture(self, values: Values, piece: MatrixBlock) -> LayerMap | None:
        weights = values.get(f"layers.{piece.key}")
        return None if weights is None else mixture(weights)

    def _fused(
        self, piece: MatrixBlock, maps: Mapping[tuple[str, BlockSide], LinearMap]
    ) -> tuple[LinearMap, ...] | None:
        """The maps of one matrix of a fused parameter: along the fused dimension it reads and writes its own rows only."""
        if piece.place is None:
            return None
        found = [maps[_key(block), side] for block, side in _sides(piece)]
        shapes = [
            patterns(model)[piece.pattern].signature.shape(model.sizes) for model in (self.small, self.large)
        ]
        before, after = (shape[piece.place] for shape in shapes)
        inner = found[piece.place].matrix()
        whole = torch.zeros(after, before, dtype=inner.dtype)
        rows, columns = slice(piece.start[1], piece.start[1] + len(inner)), piece.start[0]
        whole[rows, columns : columns + inner.shape[1]] = inner
        found[piece.place] = Dense(whole)
        return tuple(found)

    def _offset_parts(self, parts: Mapping[str, tuple[Part, ...]]) -> dict[str, tuple[Part, ...]]:
        found = {}
        for pattern in self.offsets:
            length = patterns(self.large)[pattern].signature.shape(self.large.sizes)[0]
            every = LayerMap.of([0] * self.large.layers, small=self.small.layers)
            for layer in range(self.large.layers):
                name = pattern.replace("{L}", str(layer))
                own = Part(source=f"offset/{name}", layers=every, maps=(Identity(length),))
                found[name] = (*(parts[pattern] or (Part(),)), own)
        return found

    def _layers(self, values: Values) -> LayerMap:
        """What per-layer lists, steps and moments follow: the mean of all mixtures."""
        weights = [values[name] for name in self.shapes() if name.startswith("layers.")]
        return mixture(torch.stack(weights).mean(0)) if weights else no_layers(self.small)


def _key(block: Product) -> str:
    return " ".join(map(str, block))


def _sides(piece: MatrixBlock) -> list[tuple[Product, BlockSide]]:
    return list(zip(piece.blocks, piece.roles, strict=True))


def _space(block: Product, small: Model, large: Model) -> str:
    """The published tying: one matrix along the stream and its norms; one per product of heads and dimensions."""
    atoms = [atom for atom in block if not _is_single(atom, small, large)]
    if len(atoms) > 1 or not isinstance(atoms[0], str):
        return _key(tuple(atoms))
    name = atoms[0]
    while True:
        spec = small.axes[name]
        if spec.is_normed and spec.of not in (None, name):
            name = str(spec.of)
        elif spec.like is not None and large.tied_axes():
            name = (
                spec.like
            )  # a head tied to the embedding must read what the embedding writes (notes 2.8, item 2)
        else:
            return name


def _is_single(atom: Atom, small: Model, large: Model) -> bool:
    """A group of one query head says nothing: values are then read as they are written."""
    if isinstance(atom, Sum):
        return False
    sizes = (atom, atom) if isinstance(atom, int) else (small.sizes[atom], large.sizes[atom])
    return sizes == (1, 1)


# ---- where the fit begins -------------------------------------------------------------------------------------------


def initial(
    form: Ligo,
    *,
    width: str = "random",
    depth: str = "stack_noisy",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """The published starts. Width: `random` (rows uniform, summing to 1), `selection` (one old unit), `sel_noisy`.
    Depth: `stack`, `interleave`, each with `_noisy` (+ U(0, .03) on the other layers, then summing to 1), `random`.
    """
    for word, known in ((width, WIDTHS), (depth, DEPTHS)):
        if word not in known:
            raise GrowthError(f"unknown start '{word}' of a learned operator ({near(word, known)})")
    values = {}
    for name, shape in form.shapes().items():
        if name.startswith("map."):
            old = shape[1]
            new = _width_start(width, seed, name, shape[0] if form.fixed else shape[0] - old, old)
            values[name] = new if form.fixed else torch.cat([torch.eye(old, dtype=torch.float64), new])
        elif name.startswith("layers."):
            values[name] = _depth_start(depth, seed, name, *shape)
        else:
            values[name] = torch.zeros(shape, dtype=torch.float64)
    return {name: value.to(dtype) for name, value in values.items()}


def _width_start(width: str, seed: int, name: str, rows: int, columns: int) -> Tensor:
    if width == "random":
        drawn = uniform_rows(seed, name, rows, columns)
        return drawn / drawn.sum(1, keepdim=True)
    index = (uniform_rows(seed, f"{name}/unit", rows, 1).flatten() * columns).long()
    chosen = torch.nn.functional.one_hot(index, columns).double()
    return chosen if width == "selection" else chosen + 0.03 * uniform_rows(seed, name, rows, columns)


def _depth_start(depth: str, seed: int, name: str, rows: int, columns: int) -> Tensor:
    drawn = uniform_rows(seed, name, rows, columns)
    if depth == "random":
        return drawn / drawn.sum(1, keepdim=True)
    layers = torch.arange(rows)
    index = layers % columns if depth.startswith("stack") else layers * columns // rows
    chosen = torch.nn.functional.one_hot(index, columns).double()
    if depth.endswith("_noisy"):
        chosen = chosen + 0.03 * drawn * (1 - chosen)
        chosen = chosen / chosen.sum(1, keepdim=True)
    return chosen
