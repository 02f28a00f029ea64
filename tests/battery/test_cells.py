"""Cells against whole maps: the same numbers by two ways, and no bit of a box depends on the box."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from battery import zoo
from outgrow.algebra.invisible import Invisible
from outgrow.algebra.linear import EMPTY, MEAN, Gathered, Run, Select
from outgrow.algebra.recipe import Recipe, Term, evaluate_recipe
from outgrow.growth.plan import plan
from outgrow.methods.build import WIDTH, build

WIDER = {
    "gpt2": {"n_embd": 48, "n_head": 8, "n_inner": 80, "n_layer": 4, "vocab_size": 41},
    "llama": {"hidden_size": 48, "num_attention_heads": 8, "intermediate_size": 80, "vocab_size": 41},
    "bert": {"hidden_size": 48, "num_attention_heads": 8, "intermediate_size": 80, "num_hidden_layers": 4},
}
REFUSED = {("gpt2", "sparkling"), ("bert", "sparkling"), ("bert", "pad"), ("llama", "sparkling")}
CASES = [(name, width) for name in WIDER for width in WIDTH if (name, width) not in REFUSED]


class Kitchen:
    """The sources of a model's weights, in memory."""

    def __init__(self, name: str) -> None:
        self.tensors = {key: value.detach() for key, value in zoo.build(zoo.config(name)).named_parameters()}

    def read(self, name: str, rows: slice | Tensor) -> Tensor:
        return self.tensors[name][rows]

    def statistic(self, name: str, which: str) -> float:
        values = self.tensors[name]
        return float(values.mean() if which == "mean" else values.square().mean().sqrt())

    def mean_row(self, name: str) -> Tensor:
        return self.tensors[name].double().mean(0)

    def cook(self, recipe: Recipe, box: tuple[tuple[int, int], ...]) -> Tensor:
        wide = torch.float64
        return evaluate_recipe(recipe, self.read, self.statistic, self.mean_row, box, wide=wide, dtype=wide)

    def mapped(self, recipe: Recipe) -> Tensor:
        """The formula itself: every source through every map, and the fills on top."""
        total = torch.zeros(recipe.shape, dtype=torch.float64)
        for term in recipe.terms:
            sizes = [map_.inputs for map_ in term.maps]
            source = term.source
            x = (
                self.tensors[source]
                if isinstance(source, str)
                else torch.full(sizes, source, dtype=total.dtype)
            )
            for dim, map_ in enumerate(term.maps):
                x = map_.apply(x, dim)
            total += term.coefficient * x
        for fill in recipe.fills:
            fill.add_to(total, tuple((0, size) for size in recipe.shape), recipe.shape, self.statistic)
        return total


@pytest.mark.parametrize(("name", "width"), CASES)
def test_cells_are_what_the_maps_give(name: str, width: str) -> None:
    kitchen = Kitchen(name)
    made = plan(build(zoo.resolved(name), WIDER[name], width=width, noise=0.3))
    for slot in ("weight", "exp_avg_sq"):
        for recipe in made.recipes[slot].values():
            whole = tuple((0, size) for size in recipe.shape)
            got = kitchen.cook(recipe, whole)
            assert recipe.layout is not None
            # float64: a few roundings of sums of numbers of about 1
            torch.testing.assert_close(got, kitchen.mapped(recipe), rtol=1e-12, atol=1e-12)
            box = tuple((size // 3, size - size // 4) for size in recipe.shape)
            part = got[tuple(slice(start, stop) for start, stop in box)].contiguous()
            assert torch.equal(kitchen.cook(recipe, box).view(torch.int64), part.view(torch.int64)), (
                recipe.name
            )


SCATTERED = torch.tensor([*range(20), *[7, 3, 7, EMPTY] * 6, *range(20, 40), MEAN, 5, 5, 9])


def test_long_runs_are_copied_and_what_lies_between_is_gathered() -> None:
    """Runs, gathers, means and nothing in two dimensions, of a tensor and of one number: what the formula says."""
    dice = torch.Generator().manual_seed(0)
    weights = torch.rand(len(SCATTERED), generator=dice, dtype=torch.float64) + 0.5
    maps = Select(SCATTERED, torch.ones_like(weights), 40), Select(SCATTERED, weights, 40)
    assert [type(one) for one in maps[0].stretches] == [Run, Gathered, Run, Run, Gathered]
    kitchen = Kitchen("gpt2")
    kitchen.tensors["w"] = torch.randn(40, 40, generator=dice, dtype=torch.float64)
    whole = ((0, len(SCATTERED)),) * 2
    for source in ("w", 0.7):
        recipe = Recipe("w", (len(SCATTERED),) * 2, (Term(source, maps, 1.5),))
        got = kitchen.cook(recipe, whole)
        torch.testing.assert_close(got, kitchen.mapped(recipe), rtol=1e-12, atol=1e-12)
        part = kitchen.cook(recipe, ((3, 50), (21, 68)))
        assert torch.equal(part.view(torch.int64), got[3:50, 21:68].contiguous().view(torch.int64))


@pytest.mark.parametrize("dim", [0, 1])
def test_no_reader_sees_noise_of_units_copied_in_any_order(dim: int) -> None:
    """N F = 0; a unit without another copy has none, and of c copies each has a variance of 1 - 1 / c."""
    index = torch.tensor([0, 1, 2, 3, 2, 0, 2, EMPTY, 2, 5, 0] * 4)[:41]
    index = torch.where((index == 5) & (torch.arange(41) > 10), 0, index)
    count = torch.bincount(index[index >= 0], minlength=6).double()
    forward = Select(index, torch.ones(41, dtype=torch.float64), 6)
    share = torch.where(index >= 0, 1 / count[index.clamp(min=0)], 0.0)
    fill = Invisible(1.0, 3, "w", dim, forward, Select(index, share, 6))
    assert fill.groups is None
    shape = (41, 4096) if dim == 0 else (4096, 41)
    noise = torch.zeros(shape, dtype=torch.float64)
    fill.add_to(noise, tuple((0, size) for size in shape), shape, lambda name, which: 1.0)
    assert float(forward.transposed(noise, dim).abs().max()) < 1e-13  # sums of a dozen numbers of about 1
    found = noise.square().mean(1 - dim)
    expected = torch.where((index >= 0) & (share < 1), 1 - share, 0.0)
    assert torch.equal(found == 0, expected == 0)
    # the mean of 4,096 squares of a normal number has a spread of √(2/4096) = 2.2 %
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.0)


@pytest.mark.parametrize("dim", [0, 1])
def test_noise_of_units_copied_in_any_order_has_the_law_of_a_projection(dim: int) -> None:
    """Any weights in F, also below zero: N F = 0, and the covariance of a unit's copies is I - f fᵀ / |f|²."""
    dice = torch.Generator().manual_seed(1)
    index = torch.randint(5, (23,), generator=dice)
    weight = torch.randn(23, generator=dice, dtype=torch.float64)
    forward = Select(index, weight, 5)
    lengths = torch.zeros(5, dtype=torch.float64).index_add_(0, index, weight.square())
    fill = Invisible(1.0, 3, "w", dim, forward, Select(index, weight / lengths[index], 5))
    assert fill.groups is None
    shape = (23, 4096) if dim == 0 else (4096, 23)
    whole = tuple((0, size) for size in shape)
    noise = fill.block(whole, shape, lambda name, which: 1.0, torch.float64)
    assert float(forward.transposed(noise, dim).abs().max()) < 1e-13  # sums of a dozen numbers of about 1
    rows = noise if dim == 0 else noise.T
    expected = torch.eye(23, dtype=torch.float64)
    expected -= (index[:, None] == index) * torch.outer(weight, weight) / lengths[index]
    # an entry of the covariance of 4,096 normal vectors has a spread of at most √(2/4096) = 2.2 %
    torch.testing.assert_close(rows @ rows.T / 4096, expected, rtol=0.0, atol=0.1)
    for dtype in (torch.float32, torch.float64):
        all_of_it = fill.block(whole, shape, lambda name, which: 1.0, dtype)
        box = tuple((size // 3, size - size // 4) for size in shape)
        part = all_of_it[tuple(slice(start, stop) for start, stop in box)]
        assert torch.equal(fill.block(box, shape, lambda name, which: 1.0, dtype), part)


@pytest.mark.parametrize("name", WIDER)
def test_readers_of_units_copied_in_any_order_share_as_writers_write(name: str) -> None:
    """G = F (FᵀF)⁻¹ at every unit with several copies: the noise of such units has the law that is promised, by F alone."""
    met = set()
    for width in (width for of, width in CASES if of == name):
        made = plan(build(zoo.resolved(name), WIDER[name], width=width, noise=0.3))
        for fill in (fill for recipe in made.recipes["weight"].values() for fill in recipe.fills):
            if not isinstance(fill, Invisible) or fill.groups is not None:
                continue
            met.add(width)
            forward, backward = fill.forward, fill.backward
            several = forward.covered() & (forward.index >= 0)
            copies = torch.bincount(forward.index[several], minlength=forward.units)
            several &= copies[forward.index.clamp(min=0)] > 1
            units, written = forward.index[several], forward.weight[several].double()
            squares = torch.zeros(forward.units, dtype=torch.float64).index_add_(0, units, written.square())
            assert torch.equal(backward.index[several], units)
            shares = written / squares[units]
            torch.testing.assert_close(backward.weight[several].double(), shares, rtol=1e-12, atol=0.0)
    assert met >= {"net2net", "aki"}
