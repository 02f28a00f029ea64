"""Which entries are new: counted, compared with another way to say it, and cut into disjoint blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from battery import zoo
from outgrow.algebra.linear import Dense, Identity
from outgrow.algebra.recipe import Recipe, Term, evaluate_recipe
from outgrow.errors import GrowthError
from outgrow.growth.new_entries import NewEntries, new_entries
from outgrow.growth.plan import plan
from outgrow.methods.build import build

WIDER: dict[str, dict[str, Any]] = {
    "gpt2": {"hidden_size": 48, "num_attention_heads": 8, "n_inner": 50, "n_layer": 5},
    "bert": {
        "hidden_size": 48,
        "num_attention_heads": 8,
        "num_hidden_layers": 4,
        "intermediate_size": 50,
        "vocab_size": 40,
    },
    "llama": {
        "hidden_size": 36,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "intermediate_size": 50,
        "num_hidden_layers": 5,
        "head_dim": 16,
    },
}


@pytest.mark.parametrize("depth", ["stack", "identity"])
@pytest.mark.parametrize("name", ["gpt2", "bert", "llama", "qwen3-tied", "mixtral"])
def test_old_entries_are_where_moments_are_kept(name: str, depth: str) -> None:
    """`keep_zero` writes every old moment once, on old entries: moments that are all ones show where."""
    small = zoo.resolved(name)
    growth = build(small, WIDER[zoo.family(name)], width="isometric", depth=depth, noise=0.1)
    kept = plan(growth, "keep_zero")
    entries = new_entries(kept)
    assert set(entries) == set(kept.large.parameters)
    for name_, recipe in kept.recipes["exp_avg"].items():
        values = evaluate_recipe(
            recipe,
            lambda source, rows: torch.ones(small.shape(source))[rows],
            lambda _, which: 0.0,
            lambda source: torch.ones(small.shape(source)[1:]),
            tuple((0, size) for size in recipe.shape),
            wide=torch.float32,
            dtype=torch.float32,
        )
        assert entries[name_].mask().shape == recipe.shape
        torch.testing.assert_close(~entries[name_].mask(), values == 1, msg=name_)
    old = sum(int((~found.mask()).sum()) for found in entries.values())
    assert old == small.num_parameters  # every old entry stands in one place


def test_new_entries_say_what_they_cannot_know() -> None:
    small = zoo.resolved("llama")
    made = plan(build(small, {"intermediate_size": 50}))
    name = "model.layers.0.mlp.up_proj.weight"
    maps = (Dense(torch.rand(50, 40, dtype=torch.float64)), Identity(24))
    learned = Recipe(name, (50, 24), (Term(name, maps),))
    with pytest.raises(GrowthError, match=r"units of '.*mlp.* are mixtures"):
        new_entries(replace(made, recipes={"weight": {**made.recipes["weight"], name: learned}}))
    layers = replace(made.growth.layers, rows=(((0, 0.5), (1, 0.5)), *made.growth.layers.rows[1:]))
    with pytest.raises(GrowthError, match="layer 0 is a mixture"):
        new_entries(replace(made, growth=replace(made.growth, layers=layers)))


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=5), min_size=1, max_size=3), st.booleans())
def test_regions_cover_every_new_entry_once(units: list[list[bool]], new_layer: bool) -> None:
    entries = NewEntries(tuple(torch.tensor(flags) for flags in units), new_layer)
    count = torch.zeros([len(flags) for flags in units])
    for region in entries.regions():
        count[region] += 1
    torch.testing.assert_close(count, entries.mask().float())
    assert entries.any == bool(entries.mask().any())
    assert entries.all == bool(entries.mask().all())
