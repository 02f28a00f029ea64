"""What a growth itself costs, from its plan: FLOPs, and bytes read and written.

    term        source rows that are used are read once; a gather costs one multiply per number where it scales, a learned
                map 2 * inputs * outputs per column; one multiply for a coefficient, one addition to join two terms
    fill        one multiply per number, four for noise that readers cannot see (drawing the numbers is not counted)

Against training, this is nothing: a gather costs about one FLOP per weight, a token six.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from outgrow.algebra.invisible import Invisible
from outgrow.algebra.linear import LinearMap
from outgrow.algebra.recipe import Recipe
from outgrow.growth.plan import GrowthPlan

_NOISE = 4  # scale, project, map back, subtract


@dataclass(frozen=True)
class GrowthCost:
    """Of one growth. `flops / bytes` is far below what any processor can do: a growth is as fast as its disk."""

    flops: int
    bytes_read: int
    bytes_written: int


def growth_cost(
    plan: GrowthPlan, *, itemsize: int = 4, slots: Sequence[str] = ("weight", "exp_avg", "exp_avg_sq")
) -> GrowthCost:
    """The cost of growing these slots, `itemsize` bytes per number.

    >>> from outgrow.models.architecture import resolve
    >>> from outgrow.methods.build import build
    >>> from outgrow.growth.plan import plan
    >>> small = {"model_type": "gpt2", "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 7, "vocab_size": 11}
    >>> growth = build(resolve(small), {"n_layer": 2}, width="isometric", depth="stack", noise=0.0, seed=0)
    >>> cost = growth_cost(plan(growth), slots=["weight"])
    >>> cost.flops, cost.bytes_written - cost.bytes_read  # one more layer of 510 numbers
    (0, 2040)
    """
    flops = read = written = 0
    known: dict[LinearMap, tuple[int, int]] = {}
    for slot in slots:
        for names in plan.same_contents(slot):  # copies of a layer are computed once
            recipe = plan.recipes[slot][names[0]]
            own_flops, numbers = _recipe_cost(recipe, known)
            flops += own_flops
            read += itemsize * numbers
            written += itemsize * prod(recipe.shape) * len(names)
    return GrowthCost(flops, read, written)


def _recipe_cost(recipe: Recipe, known: dict[LinearMap, tuple[int, int]]) -> tuple[int, int]:
    """FLOPs, and numbers that are read; `known` holds (units that are read, FLOPs per column) of maps met before."""
    flops = read = 0
    for term in recipe.terms:
        for map_ in term.maps:
            if map_ not in known:
                known[map_] = (map_.sources()[1].inputs, map_.flops)
        head, *others = term.maps
        used = known[head][0]
        numbers = used * prod(map_.inputs for map_ in others)
        read += numbers if isinstance(term.source, str) else 0
        for map_, inputs in (*((one, one.inputs) for one in others), (head, used)):  # as they are applied
            if not numbers:
                break
            columns = numbers // inputs
            flops += columns * known[map_][1]
            numbers = columns * map_.outputs
        flops += numbers if term.coefficient != 1.0 else 0
    size = prod(recipe.shape)
    flops += size * max(0, len(recipe.terms) - 1)
    flops += size * sum(_NOISE if isinstance(fill, Invisible) else 1 for fill in recipe.fills)
    return flops, read
