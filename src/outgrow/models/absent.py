"""A model without what its type may have: its config says 0 of it, as of the experts in a dense Granite 4.

Its architecture follows from the file of its type, where such axes are `optional`: parameters that have an absent axis go, and
with them routers, and axes that nothing else has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outgrow.algebra.axes import parse
from outgrow.models.bare import used_axes
from outgrow.models.expressions import got
from outgrow.models.spec import ArchitectureSpec


def absent_axes(spec: ArchitectureSpec, config: Mapping[str, Any]) -> frozenset[str]:
    """The axes that a model of this config has nothing of.

    >>> from outgrow.models.architecture import load_architecture
    >>> sorted(absent_axes(load_architecture("granitemoehybrid"), {"num_local_experts": 0}))
    ['choices', 'experts']
    """
    return frozenset(
        name for name, axis in spec.axes.items() if axis.optional and got(config, axis.size) == 0
    )


def without_axes(spec: ArchitectureSpec, absent: frozenset[str]) -> ArchitectureSpec:
    """The architecture without some axes, and all that has them.

    >>> from outgrow.models.architecture import load_architecture
    >>> dense = without_axes(load_architecture("granitemoehybrid"), frozenset({"choices", "experts"}))
    >>> dense.routers, "mlp" in dense.axes, "shared" in dense.axes
    ({}, False, True)
    """
    kept = {
        pattern: one
        for pattern, one in spec.parameters.items()
        if not any(absent & set(dim.axes) for dim in parse(one.axes).dims)
    }
    routers = {name: one for name, one in spec.routers.items() if not absent & {one.choices, one.experts}}
    axes = used_axes(spec, kept, spec.outputs.values())
    return spec.model_copy(update={"parameters": kept, "routers": routers, "axes": axes})
