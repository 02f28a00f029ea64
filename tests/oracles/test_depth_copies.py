"""Depth operators that copy whole layers, a second time: which layer stands where, from each paper, as a list."""

from __future__ import annotations

import pytest
import torch

from oracles.layers import BRANCH_ENDS, PREFIXES, SLOTS, deepened, in_layers, state

SILENT = True

# The small models have layers 0 1 2. (layer, silent) is a copy whose branches output zero.
EXPECTED: dict[str, dict[int, list[int | tuple[int, bool]]]] = {
    "staged:mode=copy,order=append": {5: [0, 1, 2, 0, 1], 6: [0, 1, 2, 0, 1, 2]},
    "staged:mode=copy,order=alternate": {6: [0, 0, 1, 1, 2, 2], 9: [0, 0, 0, 1, 1, 1, 2, 2, 2]},
    "staged:order=append": {6: [0, 1, 2, (0, SILENT), (1, SILENT), (2, SILENT)]},
    "staged": {6: [0, (0, SILENT), 1, (1, SILENT), 2, (2, SILENT)]},
    "gstack": {6: [0, 1, 2, 0, 1, 2], 9: [0, 1, 2, 0, 1, 2, 0, 1, 2]},
    # blocks of 1: n = 3, block ⌈3/2⌉ is layer 1; then n = 4, block 2 is its first copy
    "midas": {4: [0, 1, 1, 2], 5: [0, 1, 1, 1, 2], 6: [0, 1, 2, 0, 1, 2]},
    "midas:block=1": {6: [0, 1, 1, 1, 1, 2]},
    "lidas": {4: [0, 1, 1, 2], 5: [0, 1, 0, 1, 2]},
    "lidas:block=1": {5: [0, 1, 1, 1, 2]},
    "solar": {4: [0, 1, 1, 2], 5: [0, 1, 2, 1, 2], 6: [0, 1, 2, 0, 1, 2]},
    "solar:overlap=1": {4: [0, 1, 1, 2], 5: [0, 1, 0, 1, 2]},
    "llama_pro": {
        4: [0, 1, 2, (2, SILENT)],
        5: [0, 1, (1, SILENT), 2, (2, SILENT)],
        6: [0, (0, SILENT), 1, (1, SILENT), 2, (2, SILENT)],
    },
    "llama_pro:every=3": {5: [0, 1, 2, (2, SILENT), (2, SILENT)]},
    "mslt": {4: [0, 1, 2, 2], 5: [0, 1, 2, 1, 2]},
    "repeat": {5: [0, 1, 2, 2, 2]},
    "repeat:end=first": {5: [0, 0, 0, 1, 2]},
    "repeat:end=bottom": {5: [0, 1, 0, 1, 2]},
}
CASES = [(depth, large) for depth, sizes in EXPECTED.items() for large in sizes]


@pytest.mark.parametrize(("depth", "large"), CASES)
@pytest.mark.parametrize("name", PREFIXES)
def test_layers_stand_where_the_paper_says(name: str, depth: str, large: int) -> None:
    old = state(name)
    view = deepened(name, old, depth, large)
    rows = [one if isinstance(one, tuple) else (one, False) for one in EXPECTED[depth][large]]
    assert len(rows) == large
    for slot in SLOTS:
        for layer, rest, grown in in_layers(name, view, slot):
            source, silent = rows[layer]
            if silent and (slot != "weight" or rest.startswith(BRANCH_ENDS)):
                assert not grown.any(), (layer, rest)
            else:
                assert torch.equal(grown, old[slot][f"{PREFIXES[name]}{source}.{rest}"]), (layer, rest)


@pytest.mark.parametrize("depth", ["midas:block=1", "solar:overlap=1", "repeat:end=first"])
@pytest.mark.parametrize("name", PREFIXES)
def test_keep_zero_keeps_the_moments_of_the_first_copy_alone(name: str, depth: str) -> None:
    old = state(name)
    large = next(iter(EXPECTED[depth]))
    view = deepened(name, old, depth, large, moments="keep_zero")
    rows = EXPECTED[depth][large]
    for slot in ("exp_avg", "exp_avg_sq"):
        for layer, rest, grown in in_layers(name, view, slot):
            if rows[layer] in rows[:layer]:
                assert not grown.any()
            else:
                assert torch.equal(grown, old[slot][f"{PREFIXES[name]}{rows[layer]}.{rest}"])


@pytest.mark.parametrize("name", PREFIXES)
def test_reset_leaves_no_moments(name: str) -> None:
    view = deepened(name, state(name), "solar", 5, moments="reset")
    assert view.names("exp_avg") == view.names("exp_avg_sq") == ()
