"""Mango (arXiv 2310.10699): one multi-linear operator over all weights at once, a tensor ring of rank R.

    M₂[b', o', l', i'] = Σ_{b, o, l, i, r}  S_B[r₁, b', b, r₂] · S_O[r₂, o', o, r₃] · S_L[r₃, l', l, r₄] · S_I[r₄, i', i, r₁]
                                            · M₁[b, o, l, i]

M₁ stacks the matrices of all layers as blocks of one size: W_Q, W_K, W_V, W_O, and each MLP matrix cut along its MLP axis
into k blocks, B = 2k + 4; o is what a block writes, i what it reads. So a query matrix can learn from a value matrix of
another layer. A gated MLP has 3k + 4 blocks: its gate and its up matrix are cut alike.

What the paper does not say is decided here: a block that does not fill the common size (grouped keys and values, an MLP
axis that is no multiple) is filled with zeros and cut again; k is the MLP axis over the widest attention axis, rounded up;
and all that is no such matrix (embeddings, head, norms, biases) follows LiGO's rule with maps of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from outgrow.algebra.linear import Dense, LinearMap
from outgrow.errors import GrowthError
from outgrow.growth.growth import Growth, Part
from outgrow.methods.learned.form import (
    MatrixBlock,
    OperatorForm,
    Values,
    check_grows,
    mixture,
    named,
    patterns,
    uniform_rows,
)
from outgrow.methods.learned.ligo import Ligo, initial
from outgrow.models.model import Model

_MOST_TERMS = 64


@dataclass(frozen=True)
class RingBlocks:
    """One matrix of a layer as blocks of the ring: `count` of them, cut along dimension `cut` (None: it is one block)."""

    piece: MatrixBlock
    first: int
    count: int
    cut: int | None


@dataclass(frozen=True)
class Mango(OperatorForm):
    """The ring over the matrices of all layers, and LiGO for the rest."""

    small: Model
    large: Model
    rank: int = 1

    def __post_init__(self) -> None:
        check_grows(self.small, self.large, "mango")
        if not 1 <= self.rank <= _MOST_TERMS:
            raise GrowthError(
                "the rank of a Mango operator is a number of terms, and its numbers grow with the square",
                got=self.rank,
                expected=f"1 to {_MOST_TERMS}; the paper has 1",
            )

    @cached_property
    def rest(self) -> Ligo:
        """The operator of everything that is no matrix of a layer."""
        return Ligo(self.small, self.large, "tied")

    @cached_property
    def layout(self) -> tuple[tuple[RingBlocks, ...], tuple[RingBlocks, ...]]:
        """The blocks of the small and of the large model."""
        matrices = [
            one for one in self.rest.pieces.values() if one.layered and sorted(one.roles) == ["read", "write"]
        ]
        # What is stored the other way round, as umT5's relative positions, is no product of the others by maps.
        usual = Counter(one.roles for one in matrices).most_common(1)
        matrices = [one for one in matrices if one.roles == usual[0][0]]
        return _layout(matrices, self.small), _layout(matrices, self.large)

    @cached_property
    def ring(self) -> tuple[tuple[int, int], ...]:
        """(large, small) sizes of blocks, outputs, layers and inputs."""
        counts = [sum(one.count for one in layout) for layout in self.layout]
        sizes = [
            _block_size(layout, model)
            for layout, model in zip(self.layout, (self.small, self.large), strict=True)
        ]
        return (
            (counts[1], counts[0]),
            (sizes[1][0], sizes[0][0]),
            (self.large.layers, self.small.layers),
            (sizes[1][1], sizes[0][1]),
        )

    @cached_property
    def own(self) -> frozenset[str]:
        """Patterns whose every piece is in the ring."""
        return frozenset(one.piece.pattern for one in self.layout[1])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        ring = {
            f"ring.{name}": (self.rank, *sizes, self.rank)
            for name, sizes in zip("BOLI", self.ring, strict=True)
        }
        others = (piece for piece in self.rest.pieces.values() if piece.pattern not in self.own)
        needed: set[str] = set()
        for piece in others:
            names = [self.rest.matrix_name(*one) for one in zip(piece.blocks, piece.roles, strict=True)]
            needed |= {name for name in names if name} | {f"layers.{piece.key}"}
        return ring | {name: shape for name, shape in self.rest.shapes().items() if name in needed}

    # ---- on tensors, for the fit --------------------------------------------------------------------------------

    def grown(self, values: Values, small: Mapping[str, Tensor], skip: frozenset[str]) -> dict[str, Tensor]:
        before, after = self.layout
        ring = [values[f"ring.{name}"] for name in "BOLI"]
        weights = contract(self._stack(small, before), *ring)
        found: dict[str, list[tuple[int, Tensor]]] = {}
        for one in after:
            found.setdefault(one.piece.pattern, []).append((one.piece.start[1], self._cut(weights, one)))
        joined = {
            pattern: torch.cat(
                [part for _, part in sorted(parts, key=lambda part: part[0])], dim=self._place(pattern)
            )
            for pattern, parts in found.items()
        }
        return self.rest.grown(values, small, skip | self.own) | named(self.large, joined)

    def _place(self, pattern: str) -> int:
        piece = next(one.piece for one in self.layout[1] if one.piece.pattern == pattern)
        return 1 + (piece.place or 0)

    def _stack(self, small: Mapping[str, Tensor], layout: tuple[RingBlocks, ...]) -> Tensor:
        """M₁: (blocks, outputs, layers, inputs), zeros where a block is smaller."""
        outputs, inputs = _block_size(layout, self.small)
        found = []
        for one in layout:
            matrix = one.piece.of(small[one.piece.pattern], self.small, leading=1)
            for block in _blocks(_written_first(matrix, one.piece), one):
                padded = torch.nn.functional.pad(
                    block, (0, inputs - block.shape[2], 0, outputs - block.shape[1])
                )
                found.append(padded.transpose(0, 1))
        return torch.stack(found)

    def _cut(self, weights: Tensor, one: RingBlocks) -> Tensor:
        """A large matrix of all layers from its blocks (blocks, outputs, layers, inputs)."""
        piece = one.piece
        rows, columns = _sizes(piece, self.large)
        blocks = weights[one.first : one.first + one.count].permute(0, 2, 1, 3)  # block, layer, output, input
        if one.cut is None:
            whole = blocks[0][:, :rows, :columns]
        elif one.cut == 0:
            share = -(-rows // one.count)
            whole = blocks[:, :, :share, :columns].transpose(0, 1).flatten(1, 2)[:, :rows]
        else:
            share = -(-columns // one.count)
            whole = blocks[:, :, :rows, :share].permute(1, 2, 0, 3).flatten(2, 3)[:, :, :columns]
        return _written_first(whole, piece)

    def mapped(self, values: Values, x: Tensor, pattern: str, dim: int) -> Tensor:
        return self.rest.mapped(values, x, pattern, dim)

    def mapped_back(self, values: Values, x: Tensor, pattern: str, dim: int) -> Tensor:
        return self.rest.mapped_back(values, x, pattern, dim)

    # ---- as maps and mixtures, for the recipe path --------------------------------------------------------------

    def growth(self, values: Values) -> Growth:
        filled = {name: _missing(name, shape) for name, shape in self.rest.shapes().items()} | dict(values)
        base = self.rest.growth(filled)
        parts = {pattern: one for pattern, one in base.parts.items() if pattern not in self.own}
        for one in self.layout[1]:
            own = self._ring_parts(values, one)
            parts[one.piece.pattern] = (*parts.get(one.piece.pattern, ()), *own)
        layers = mixture(_layer_mean(values["ring.L"])) if self.rest.deepens else base.layers
        return replace(base, parts=parts, layers=layers)

    def _ring_parts(self, values: Values, target: RingBlocks) -> list[Part]:
        """One term per source matrix and ring index; a source that is cut along the other dimension, one per block."""
        found = []
        ring = {name: values[f"ring.{name}"].detach() for name in "BOLI"}
        every = range(self.rank)
        for r1, r2, r3, r4 in ((a, b, c, d) for a in every for b in every for c in every for d in every):
            layers = mixture(ring["L"][r3, :, :, r4])
            for source in self.layout[0]:
                shares = ring["B"][r1, target.first : target.first + target.count][
                    :, source.first : source.first + source.count, r2
                ]
                for maps in self._maps(
                    shares, ring["O"][r2, ..., r3], ring["I"][r4, ..., r1], source, target
                ):
                    found.append(Part(source=source.piece.pattern, layers=layers, maps=maps))
        return found

    def _maps(
        self, shares: Tensor, outputs: Tensor, inputs: Tensor, source: RingBlocks, target: RingBlocks
    ) -> list[tuple[LinearMap, ...]]:
        """Maps whose products sum to Σ_{b', b} shares[b', b] · (b' ← b) ⊗ outputs ⊗ inputs, cut to the matrices' sizes."""
        whole = [self._cropped(side, source, target, place) for place, side in enumerate((outputs, inputs))]
        pairs: list[list[Tensor]] = []
        if source.cut is None or target.cut is None or source.cut == target.cut:
            cut = (target.cut if source.cut is None else source.cut) or 0
            pair = list(whole)
            pair[cut] = torch.kron(shares, pair[cut])
            pairs.append(pair)
        else:  # one matrix is cut along what it writes, the other along what it reads: no single product
            for block in range(source.count):
                pair = list(whole)
                taken = torch.eye(source.count, dtype=shares.dtype)[block : block + 1]
                pair[source.cut] = torch.kron(taken, pair[source.cut])
                pair[target.cut] = torch.kron(shares[:, block : block + 1], pair[target.cut])
                pairs.append(pair)
        return [self._placed(pair, source.piece, target.piece) for pair in pairs]

    def _cropped(self, side: Tensor, source: RingBlocks, target: RingBlocks, place: int) -> Tensor:
        """The ring's map of one side, down to what a block of source and target holds along it."""
        return side[: _held(target, self.large, place), : _held(source, self.small, place)]

    def _placed(self, pair: list[Tensor], source: MatrixBlock, target: MatrixBlock) -> tuple[LinearMap, ...]:
        """Maps in storage order of the target, within the whole (perhaps fused) parameters."""
        large, small = _sizes(target, self.large), _sizes(source, self.small)
        maps = [matrix[: large[place], : small[place]] for place, matrix in enumerate(pair)]
        wholes = []
        for place, matrix in enumerate(maps):
            role = ("write", "read")[place]
            rows, start = _room(target, self.large, role, 1)
            columns, begin = _room(source, self.small, role, 0)
            whole = torch.zeros(rows, columns, dtype=matrix.dtype)
            whole[start : start + matrix.shape[0], begin : begin + matrix.shape[1]] = matrix
            wholes.append(whole)
        return tuple(Dense(wholes[("write", "read").index(role)]) for role in target.roles)


def contract(m: Tensor, b: Tensor, o: Tensor, layers: Tensor, i: Tensor) -> Tensor:
    """The ring applied to M₁ (blocks, outputs, layers, inputs): small modes first, so that little is multiplied.

    >>> one = torch.ones(1, 1, 1, 1)
    >>> contract(torch.full((1, 1, 1, 1), 3.0), one, one, one * 2, one).item()
    6.0
    """
    x = torch.einsum("pBbq,boli->pqBoli", b, m)
    x = torch.einsum("rLls,pqBoli->pqrsBoLi", layers, x)
    x = torch.einsum("qOor,pqrsBoLi->psBOLi", o, x)
    return torch.einsum("sIip,psBOLi->BOLI", i, x)


def ring_start(
    form: Mango, *, width: str = "selection", depth: str = "stack", noise: float = 1e-3, seed: int = 0
) -> dict[str, Tensor]:
    """Stacked layers and selected units (the r = 0 term), plus noise on the whole ring, so that all of it can learn.

    Blocks of the target come from the same kind's blocks in turn, `new o` from `o mod O` and `new i` from `i mod I`.
    """
    rest = initial(form.rest, width=width, depth=depth, seed=seed)
    found = {name: rest[name] for name in form.shapes() if name in rest}
    kinds = [index for one in form.layout[1] for index in _sources(one, form.layout[0])]
    for name, (after, before) in zip("BOLI", form.ring, strict=True):
        index = torch.tensor(kinds) if name == "B" else torch.arange(after) % before
        key = f"ring.{name}"
        shape = form.shapes()[key]
        drawn = uniform_rows(seed, key, after, before * form.rank**2) * 2 - 1
        value = noise * drawn.view(after, before, form.rank, form.rank).permute(2, 0, 1, 3)
        value[0, ..., 0] += torch.nn.functional.one_hot(index, before)
        assert tuple(value.shape) == shape
        found[key] = value.float()
    return {name: found[name] for name in form.shapes()}


def _sources(one: RingBlocks, small: tuple[RingBlocks, ...]) -> list[int]:
    same = next(other for other in small if other.piece.key == one.piece.key)
    return [same.first + block % same.count for block in range(one.count)]


def _layout(matrices: list[MatrixBlock], model: Model) -> tuple[RingBlocks, ...]:
    """Blocks of a model's layers: an axis behind a nonlinearity is cut, every other matrix is one block."""
    whole = [piece for piece in matrices if _cut_along(piece, model) is None]
    if not whole:
        raise GrowthError(
            "mango cuts the matrices around an MLP into blocks as large as the others, and a layer of this model has no others",
            fix="use ligo, or an operator that is not learned",
        )
    widest = max(max(_sizes(piece, model)) for piece in whole)
    found, first = [], 0
    for piece in matrices:
        cut = _cut_along(piece, model)
        count = 1 if cut is None else -(-_sizes(piece, model)[cut] // widest)
        found.append(RingBlocks(piece, first, count, cut))
        first += count
    return tuple(found)


def _cut_along(piece: MatrixBlock, model: Model) -> int | None:
    """0 where a matrix writes the MLP axis, 1 where it reads it."""
    for role, block in zip(piece.roles, piece.blocks, strict=True):
        atoms = [model.axes[atom] for atom in block if isinstance(atom, str)]
        if any(axis.is_nonlinear and axis.like is None for axis in atoms):
            return ("write", "read").index(role)
    return None


def _sizes(piece: MatrixBlock, model: Model) -> tuple[int, int]:
    """(written, read)."""
    return (piece.size(model, piece.roles.index("write")), piece.size(model, piece.roles.index("read")))


def _held(one: RingBlocks, model: Model, place: int) -> int:
    """Units of a block along one side (0 written, 1 read)."""
    whole = _sizes(one.piece, model)[place]
    return -(-whole // one.count) if one.cut == place else whole


def _block_size(layout: tuple[RingBlocks, ...], model: Model) -> tuple[int, int]:
    """The common size of all blocks: the largest of each side."""
    return (max(_held(one, model, 0) for one in layout), max(_held(one, model, 1) for one in layout))


def _blocks(matrix: Tensor, one: RingBlocks) -> list[Tensor]:
    """A matrix (layers, outputs, inputs) cut into its blocks; the last may be shorter."""
    if one.cut is None:
        return [matrix]
    dim = one.cut + 1
    share = -(-matrix.shape[dim] // one.count)
    return list(torch.split(matrix, share, dim))


def _written_first(matrix: Tensor, piece: MatrixBlock) -> Tensor:
    """(layers, outputs, inputs) of a stack in storage order, and back: the same swap."""
    return matrix if piece.roles == ("write", "read") else matrix.transpose(1, 2)


def _room(piece: MatrixBlock, model: Model, role: str, which: int) -> tuple[int, int]:
    """Length of the whole parameter along a role, and where the piece begins in it."""
    dim = [str(one) for one in piece.roles].index(role)
    length = patterns(model)[piece.pattern].signature.shape(model.sizes)[dim]
    return length, piece.start[which] if piece.place == dim else 0


def _layer_mean(ring: Tensor) -> Tensor:
    """What per-layer lists and moments follow: the diagonal of the ring's layer factor, averaged."""
    return ring.diagonal(dim1=0, dim2=3).mean(-1)


def _missing(name: str, shape: tuple[int, ...]) -> Tensor:
    """A place-holder for LiGO's numbers that the ring stands for: used by moments alone, where maps must have a shape."""
    if name.startswith("layers."):
        return torch.eye(max(shape))[: shape[0], : shape[1]]
    index = torch.arange(shape[0]) % shape[1]
    return torch.nn.functional.one_hot(index, shape[1]).float()
