"""A start of our own for LiGO: the fit begins at a growth that keeps the function, with every map untied and free.

    F, A, gains, w  :=  the maps, norm gains and layers of an exact growth

Published starts damage the model (notes 2.8: readers over-count, norms see other statistics) and the fit has to repair
it first. Here its first loss is the small model's. Copies of a unit would stay equal for ever, so their readers share
unevenly: that keeps the function too, for a reader sees only the sum of its copies.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from outgrow.algebra.axes import Product
from outgrow.algebra.linear import Select
from outgrow.algebra.maps import AxisMap
from outgrow.algebra.products import kron
from outgrow.errors import GrowthError
from outgrow.growth.compensation import Compensation
from outgrow.growth.growth import Growth, product_maps
from outgrow.growth.plan import GrowthPlan, plan
from outgrow.methods.learned.form import BlockSide, uniform_rows
from outgrow.methods.learned.ligo import Ligo
from outgrow.models.architecture import resolve
from outgrow.models.model import Model


def exact_start(
    base: Growth, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Ligo, dict[str, Tensor]]:
    """The form and its numbers that say exactly what `base` does (without its noise, with uneven readers).

    Raises GrowthError where some weight of `base` is no mixture of layers under one map per dimension.
    """
    if base.parts or base.gains is not None:
        raise GrowthError(
            "the exact start needs operators that make every weight by one map per dimension",
            got=", ".join(f"{key} {value}" for entry in base.provenance for key, value in entry.items()),
            fix="choose width isometric, duplicate or pad, and depth identity, stack or interleave",
        )
    planned = plan(replace(base, noise=0.0), "reset")
    large = resolve({**base.large.config, **planned.compensation.eps})
    mixtures, offsets = _mixtures(planned)
    form = Ligo(base.small, large, "free", tuple(sorted(offsets)))
    axes = _Axes(planned.compensation, base.small, seed)
    values = {f"offset.{pattern}": rows for pattern, rows in offsets.items()}
    for piece in form.pieces.values():
        for block, side in zip(piece.blocks, piece.roles, strict=True):
            name = form.matrix_name(block, side)
            if name is not None and name not in values:
                values[name] = axes.matrix(block, side)
        if piece.layered and form.deepens:
            values[f"layers.{piece.key}"] = mixtures[piece.pattern]
    return form, {name: values[name].to(dtype) for name in form.shapes()}


class _Axes:
    """The maps of an exact growth, with uneven readers and live new units."""

    def __init__(self, compensation: Compensation, small: Model, seed: int) -> None:
        self._small, self._seed = small, seed
        self._axes = {name: self._uneven(name, axis) for name, axis in compensation.axes.items()}
        self._gains = compensation.gains

    def matrix(self, block: Product, side: BlockSide) -> Tensor:
        """float64 (large, small)."""
        atoms = product_maps(block, self._gains if side == "gain" else self._axes)
        found = kron([one.backward if side == "read" else one.forward for one in atoms]).matrix()
        maps = [(one.backward if side == "read" else one.forward).covered() for one in atoms]
        empty, dead = torch.zeros(1, dtype=torch.bool), torch.zeros(1, dtype=torch.bool)
        for one, covered in zip(atoms, maps, strict=True):
            lively = one.fresh == "both" or (one.fresh, side) in (("writers", "write"), ("readers", "read"))
            empty = (empty[:, None] | ~covered).flatten()
            dead = (dead[:, None] | (~covered if not lively else torch.zeros_like(covered))).flatten()
        fill = empty & ~dead
        if bool(fill.any()):
            # Zero on both sides would be a saddle. One side alone may hold anything: copies of old units, at random.
            address = f"exact/{' '.join(map(str, block))}/{side}"
            pick = (uniform_rows(self._seed, address, len(found), 1).flatten() * found.shape[1]).long()
            copies = torch.nn.functional.one_hot(pick, found.shape[1]).double()
            found = torch.where(fill[:, None], copies, found)
        return found

    def _uneven(self, name: str, axis: AxisMap) -> AxisMap:
        """Readers' shares of a unit's copies drawn from [1/2, 3/2] and scaled so that GᵀF stays I."""
        spec = self._small.axes.get(name)
        if not axis.grows or axis.forward.gather is None or axis.backward.gather is None:
            return axis
        if spec is not None and (spec.is_table or spec.inside_head):
            return axis
        read, written = axis.backward.gather, axis.forward.gather
        shared = (read.index >= 0) & (read.index == written.index)
        drawn = 0.5 + uniform_rows(self._seed, f"exact/{name}", read.outputs, 1).flatten()
        total = torch.zeros(read.units, dtype=torch.float64)
        total.index_add_(0, read.index[shared], (read.weight * written.weight * drawn)[shared])
        weight = torch.where(shared, read.weight * drawn / total[read.index.clamp(min=0)], read.weight)
        return AxisMap(axis.forward, Select(read.index, weight, read.units), axis.fresh)


def _mixtures(planned: GrowthPlan) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Per pattern: depth weights (large layers, small layers); and the constants of norms that a recipe rewrites."""
    small, large = planned.small, planned.large
    weights: dict[str, Tensor] = {}
    offsets: dict[str, Tensor] = {}
    for name, recipe in planned.recipes["weight"].items():
        parameter = large.parameters[name]
        pattern, layer = parameter.pattern, parameter.layer
        if layer is None:
            continue
        mixed = weights.setdefault(pattern, torch.zeros(large.layers, small.layers, dtype=torch.float64))
        for term in recipe.terms:
            if isinstance(term.source, str):
                source = small.parameters[term.source].layer
                assert source is not None
                mixed[layer, source] += term.coefficient
            elif term.source:
                constant = torch.full((term.maps[0].inputs,), term.source, dtype=torch.float64)
                rows = offsets.setdefault(
                    pattern, torch.zeros(large.layers, *recipe.shape, dtype=torch.float64)
                )
                rows[layer] += term.coefficient * term.maps[0].apply(constant, 0)
    return weights, offsets
