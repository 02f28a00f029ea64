"""stack, interleave and identity a second time, from their formulas; identity under post-norm."""

from __future__ import annotations

import pytest
import torch

from oracles.layers import BRANCH_ENDS, PREFIXES, SLOTS, deepened, in_layers, state


def depth_oracle(operator: str, small: int, large: int) -> list[tuple[int, bool]]:
    """New layer -> (old layer, whether its branches are silenced)."""
    if operator == "stack":  # 0 1 2 0 1 2 ...
        return [(layer % small, False) for layer in range(large)]
    layers: list[tuple[int, bool]] = []
    for old in range(small):  # 0 0 1 1 2 2: old layer j has the copies j·L'/L ≤ new < (j+1)·L'/L
        copies = [new for new in range(large) if old * large <= new * small < (old + 1) * large]
        layers += [(old, operator == "identity" and place > 0) for place, _ in enumerate(copies)]
    return layers


@pytest.mark.parametrize("large", [3, 4, 5, 6, 7])
@pytest.mark.parametrize("operator", ["stack", "interleave", "identity"])
@pytest.mark.parametrize("name", PREFIXES)
def test_depth(name: str, operator: str, large: int) -> None:
    old = state(name)
    view = deepened(name, old, operator, large)
    layers = depth_oracle(operator, 3, large)
    assert len(layers) == large
    for slot in SLOTS:
        for layer, rest, grown in in_layers(name, view, slot):
            source, silent = layers[layer]
            if silent and (slot != "weight" or rest.startswith(BRANCH_ENDS)):
                assert not grown.any()
            else:
                assert torch.equal(grown, old[slot][f"{PREFIXES[name]}{source}.{rest}"])
        for tensor in view.names(slot):
            if not tensor.startswith(PREFIXES[name]):
                assert torch.equal(view.read(tensor, slot), old[slot][tensor])


def test_depth_under_post_norm() -> None:
    """BERT 3 → 5 by identity is 0 · 1 · 2: the layer before a silent one gives its last norm to it."""
    old = state("bert")
    view = deepened("bert", old, "identity", 5)
    ones, zeros = torch.ones(24, dtype=torch.float64), torch.zeros(24, dtype=torch.float64)
    layer = "bert.encoder.layer."
    assert depth_oracle("identity", 3, 5) == [(0, False), (0, True), (1, False), (1, True), (2, False)]
    for new, source in ((0, 0), (2, 1)):
        for kind, neutral in (("weight", ones), ("bias", zeros)):
            last = f"output.LayerNorm.{kind}"
            first = f"attention.output.LayerNorm.{kind}"
            moved = old["weight"][f"{layer}{source}.{last}"]
            assert torch.equal(view.read(f"{layer}{new}.{last}", "weight"), neutral)
            assert torch.equal(view.read(f"{layer}{new + 1}.{first}", "weight"), neutral)
            assert torch.equal(view.read(f"{layer}{new + 1}.{last}", "weight"), moved)
            kept_first = view.read(f"{layer}{new}.{first}", "weight")
            assert torch.equal(kept_first, old["weight"][f"{layer}{source}.{first}"])
        for end in ("attention.output.dense", "output.dense"):
            assert not view.read(f"{layer}{new + 1}.{end}.weight", "weight").any()
            assert not view.read(f"{layer}{new + 1}.{end}.bias", "weight").any()
