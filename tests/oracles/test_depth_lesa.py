"""LESA, a second time: where new layers stand, what they hold, and that the fit predicts better than interpolation."""

from __future__ import annotations

from math import cos

import pytest
import torch

from battery import growing, zoo
from oracles.layers import PREFIXES, in_layers
from outgrow.errors import GrowthError
from outgrow.growth.plan import plan
from outgrow.learning.lesa import fit_lesa
from outgrow.state.growing import apply
from outgrow.state.training_state import TrainingState

ANGLE = 1.0  # layer i holds A cos(i·θ) + B sin(i·θ), so that (W_{i-1} + W_{i+1}) / (2 cos θ) = W_i, and the mean is off by cos θ


def turning(name: str, layers: int) -> TrainingState:
    """A model whose layers turn from one to the next."""
    count = "n_layer" if name == "gpt2" else "num_hidden_layers"
    model = zoo.build({**zoo.config(name), count: layers, "architectures": None}, dtype=torch.float32)
    prefix = PREFIXES[name]
    first = {
        tensor: one.detach().clone() for tensor, one in model.named_parameters() if f"{prefix}0." in tensor
    }
    second = {
        tensor: torch.randn(one.shape, generator=torch.Generator().manual_seed(3))
        for tensor, one in first.items()
    }
    with torch.no_grad():
        for tensor, one in model.named_parameters():
            if tensor.startswith(prefix):
                layer, rest = tensor.removeprefix(prefix).split(".", 1)
                angle = torch.tensor(int(layer) * ANGLE)
                base = f"{prefix}0.{rest}"
                one.copy_(first[base] * angle.cos() + second[base] * angle.sin())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    zoo.loss(model, zoo.batch()).backward()
    optimizer.step()
    return TrainingState.from_model(model, optimizer)


@pytest.mark.parametrize("name", PREFIXES)
def test_new_layers_are_predicted_between_neighbours(name: str) -> None:
    state = turning(name, 6)
    growth = fit_lesa(state, {"num_hidden_layers": 8}, steps=120)
    fitted = growth.provenance[0]
    assert fitted["error"] < 0.2 * fitted["error_of_mean"]
    grown = apply(plan(growth), state)
    order = [0, 1, (1, 2), 2, 3, (3, 4), 4, 5]  # gaps 1 and 3 of five
    mean, predicted = [], []
    for slot in ("weight", "exp_avg", "exp_avg_sq"):
        for layer, rest, value in in_layers(name, grown.source, slot):  # type: ignore[arg-type]
            place = order[layer]
            left = place if isinstance(place, int) else place[0]
            old = state.source.read(f"{PREFIXES[name]}{left}.{rest}", slot)
            if isinstance(place, int) or slot != "weight":
                assert torch.equal(value, old), (slot, layer, rest)
            else:
                right = state.source.read(f"{PREFIXES[name]}{place[1]}.{rest}", slot)
                between = (old + right) / 2
                if value.dim() == 1:
                    torch.testing.assert_close(value, between)
                else:  # what the law of this model asks for; the network has seen nothing so far out
                    wanted = between / cos(ANGLE)
                    mean.append(float((between - wanted).norm() / wanted.norm()))
                    predicted.append(float((value - wanted).norm() / wanted.norm()))
    assert sum(predicted) < sum(mean)
    large = growing.view(
        plan(growth), weight={n: state.source.read(n, "weight") for n in state.source.names("weight")}
    )
    assert set(large.names("weight")) == set(grown.source.names("weight"))


def test_lesa_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    state = turning("gpt2", 4)
    before = torch.random.get_rng_state()
    one, other = (fit_lesa(state, {"n_layer": 5, "n_inner": 53}, steps=3) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
    made = plan(one)
    assert not made.keeps_function
    assert any("predicted" in finding.why for finding in made.compensation.findings)
    wide = apply(made, state).source.read("transformer.h.2.mlp.c_fc.weight", "weight")
    assert wide.shape == (24, 53)  # the predicted layer grows in width like the others
    torch.testing.assert_close(wide[:, :40], one.tensors["lesa/transformer.h.2.mlp.c_fc.weight"])


def test_lesa_refuses_what_it_cannot_learn() -> None:
    with pytest.raises(GrowthError, match="fewer than three layers"):
        fit_lesa(turning("gpt2", 2), {"n_layer": 3})
    with pytest.raises(GrowthError, match="at most 5 layers"):
        fit_lesa(turning("gpt2", 3), {"n_layer": 6})
    mixtral = TrainingState.from_model(zoo.build(zoo.config("mixtral")))
    with pytest.raises(GrowthError, match="has 3 dimensions"):
        fit_lesa(mixtral, {"num_hidden_layers": 4})
    with pytest.raises(GrowthError, match="no moments"):
        plan(fit_lesa(turning("gpt2", 3), {"n_layer": 4}, steps=1), "parts")
