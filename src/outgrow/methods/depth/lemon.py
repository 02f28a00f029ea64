"""LEMON in depth (arXiv 2310.07999): new layers are copies that output exactly zero, in one of two ways.

    zero     the last projection of each branch is zero
    paired   units inside a branch stand in pairs, written alike and read with opposite signs:
             W_in' = (B; B),  W_out' = (A, -A),  so that  A f(Bx) - A f(Bx) = 0  and every weight has a gradient at once

In pairs: MLP units r and r + n/2 copy unit r, and so do the value dimensions inside each head. An odd unit is written and
not read. On the algebra this is one part whose maps have Gᵀ F = 0.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from outgrow.algebra.linear import EMPTY, Select
from outgrow.algebra.maps import AxisMap
from outgrow.growth.growth import Growth, Part
from outgrow.methods.depth.layers import copied, repeats, spread
from outgrow.methods.registry import Operator
from outgrow.models.model import Model


def lemon_layers(
    small: Model, large: Model, *, outputs: Literal["paired", "zero"] = "paired", seed: int = 0
) -> Growth:
    """After every layer a copy that outputs zero, by pairs that cancel or by a zero last projection.

    Keeps: function and gradient law, under every norm and at any depth.
    """
    index = spread(small.layers, large.layers)
    silent = repeats(index)
    if outputs == "zero":
        return copied(small, large, index, silent=silent)
    axes = {
        name: _pairs(small.sizes[name])
        for name, spec in small.axes.items()
        if (spec.is_nonlinear or spec.is_linear) and spec.like is None
    }
    parts = {
        name: (Part(axes={axis: axes[axis] for axis in inside}),)
        for name, parameter in large.parameters.items()
        if parameter.layer in silent
        and (inside := axes.keys() & frozenset[str]().union(*(dim.axes for dim in parameter.signature.dims)))
    }
    return replace(copied(small, large, index, silent=silent, silenced="pairs"), parts=parts)


def _pairs(size: int) -> AxisMap:
    """Unit r and r + n/2 copy unit r; the second is read with a minus.

    >>> pair = _pairs(3)
    >>> pair.forward.index.tolist(), pair.backward.matrix().sum(0).tolist()
    ([0, 0, 2], [0.0, 0.0, 0.0])
    """
    half = size // 2
    index = torch.arange(size)
    index[half : 2 * half] -= half
    sign = torch.ones(size, dtype=torch.float64)
    sign[half : 2 * half] = -1
    read = torch.where(torch.arange(size) < 2 * half, index, EMPTY)
    return AxisMap(
        Select(index, torch.ones(size, dtype=torch.float64), size),
        Select(read, torch.where(read == EMPTY, 0.0, sign), size),
    )


OPERATORS = (
    Operator(
        name="lemon",
        kind="depth",
        grow=lemon_layers,
        title="After every layer a copy that outputs zero: its units cancel in pairs, or its last projections are zero.",
        paper="LEMON (Wang et al., arXiv 2310.07999)",
        tensors={
            "new MLP units and value dimensions": "paired: written alike, read with opposite signs",
            "new branch outputs": "zero: zero; paired: biases zero",
            "every other tensor": "copied with its layer",
        },
        function="kept, under every norm",
        gradient="kept: old layers see the same gradients",
        escape="paired: every new weight behind a pair has a gradient at step 1; zero: the last projections, then the rest",
        use="growth that must not lose anything and should learn at once",
        schedule="the default learning rate with a faster decay",
        options={
            "outputs": "a new layer is silent by units that cancel (paired), or by a zero last matrix (zero)",
        },
    ),
)
