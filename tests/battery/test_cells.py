"""Block copies against gathers: the same numbers by two ways, and no bit of a box depends on the box."""

from __future__ import annotations

import pytest
import torch
from tests.battery import zoo
from torch import Tensor

from outgrow.algebra.recipe import Recipe, _Kitchen, evaluate_recipe
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

    def gathered(self, recipe: Recipe, box: tuple[tuple[int, int], ...]) -> Tensor:
        made = _Kitchen(recipe, self.read, self.statistic, self.mean_row, torch.float64)
        total = made.by_gathers(box).clone()
        for fill in recipe.fills:
            fill.add_to(total, box, recipe.shape, self.statistic)
        return total


@pytest.mark.parametrize(("name", "width"), CASES)
def test_cells_are_what_gathers_give(name: str, width: str) -> None:
    kitchen, by_cells = Kitchen(name), 0
    made = plan(build(zoo.resolved(name), WIDER[name], width=width, noise=0.3))
    for slot in ("weight", "exp_avg_sq"):
        for recipe in made.recipes[slot].values():
            whole = tuple((0, size) for size in recipe.shape)
            got = kitchen.cook(recipe, whole)
            if recipe.layout is not None:
                by_cells += 1
                # float64: a few roundings of sums of numbers of about 1
                torch.testing.assert_close(got, kitchen.gathered(recipe, whole), rtol=1e-12, atol=1e-12)
            box = tuple((size // 3, size - size // 4) for size in recipe.shape)
            part = got[tuple(slice(start, stop) for start, stop in box)].contiguous()
            assert torch.equal(kitchen.cook(recipe, box).view(torch.int64), part.view(torch.int64)), (
                recipe.name
            )
    assert by_cells or width in ("net2net", "aki")  # units drawn at random make no runs
