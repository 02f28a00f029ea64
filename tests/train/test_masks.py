"""New units and layers that hold anything: at mask 0 the small model's function, at mask 1 the plain model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from battery import zoo
from outgrow.engine.masks import MaskedNorm, Masks, check_masks, make_masks
from outgrow.errors import OutgrowError
from outgrow.growth.new_entries import NewEntries, new_entries
from outgrow.growth.plan import GrowthPlan, plan
from outgrow.methods.build import build
from outgrow.run.after_growth import MasksConfig
from outgrow.run.run_file import parse_run
from outgrow.training import train_run

Tiny = Callable[..., dict[str, Any]]
GROWTHS: dict[str, dict[str, dict[str, Any]]] = {
    "llama": {
        "hidden": {"hidden_size": 32},
        "mlp": {"intermediate_size": 47},
        "heads": {"num_attention_heads": 6, "num_key_value_heads": 3},
        "group": {"num_attention_heads": 6},
        "layers": {"num_hidden_layers": 5},
        "all": {
            "hidden_size": 36,
            "intermediate_size": 47,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "num_hidden_layers": 5,
        },
    },
    "gpt2": {
        "hidden": {"n_embd": 30, "n_head": 5},
        "mlp": {"n_inner": 47},
        "layers": {"n_layer": 5},
        "all": {"n_embd": 36, "n_head": 6, "n_inner": 47, "n_layer": 5},
    },
    "mixtral": {"heads": {"hidden_size": 32, "num_attention_heads": 6, "num_hidden_layers": 5}},
    "bert": {
        "mlp": {"intermediate_size": 47},
        "layers": {"num_hidden_layers": 5},
        "hidden": {"hidden_size": 48, "num_attention_heads": 8},
        "all": {
            "hidden_size": 48,
            "num_attention_heads": 8,
            "intermediate_size": 80,
            "num_hidden_layers": 5,
        },
    },
    "vit": {
        "all": {"hidden_size": 36, "num_attention_heads": 6, "intermediate_size": 47, "num_hidden_layers": 5}
    },
}
CASES = [(name, which) for name, growths in GROWTHS.items() for which in growths]


def beside(name: str, to: dict[str, Any]) -> tuple[GrowthPlan, dict[str, NewEntries]]:
    """Units beside the old ones, and what is new: the plan says where, its own weights are not used."""
    width = "duplicate" if name == "bert" and "hidden_size" in to else "pad"  # post-norm cannot be padded
    made = plan(build(zoo.resolved(name), to, width=width, depth="stack"))
    return made, new_entries(made)


def random_beside_old(growth: GrowthPlan, entries: dict[str, NewEntries], small: nn.Module) -> nn.Module:
    """A large model that is random everywhere (norms and biases as well) but in its old entries."""
    config = dict(growth.config) | {
        spec.eps: growth.small.config[spec.eps] for spec in growth.large.axes.values() if spec.eps
    }
    large = zoo.build(config, seed=9)
    old = dict(small.named_parameters())
    with torch.no_grad():
        for name, parameter in large.named_parameters():
            if not entries[name].new_layer:
                source = growth.recipes["weight"][name].terms[0].source
                parameter[~entries[name].mask()] = old[str(source)].flatten()
    return large


def unchecked(
    model: nn.Module, growth: GrowthPlan, entries: dict[str, NewEntries], patch: pytest.MonkeyPatch
) -> Masks:
    """Masks of a plan whose gains and eps are made for zeros beside the old units: here they are random instead."""
    patch.setattr("outgrow.engine.masks.check_masks", lambda *_: None)
    return make_masks(model, growth, entries)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return zoo.logits(model, zoo.batch())


@pytest.mark.parametrize(("name", "which"), CASES)
def test_the_function_is_kept_at_0_and_plain_at_1(
    name: str, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    growth, entries = beside(name, GROWTHS[name][which])
    small = zoo.norms_in_float64(zoo.build(zoo.config(name)))
    large = zoo.norms_in_float64(random_beside_old(growth, entries, small))
    masks = unchecked(large, growth, entries, monkeypatch)
    before, plain = logits(small), logits(large)
    assert float((plain - before).abs().max()) > 1e-3
    with masks.at(0.0):
        torch.testing.assert_close(logits(large), before, rtol=0, atol=1e-11)
    with masks.at(1.0):
        assert torch.equal(logits(large), plain)
    with masks.at(1.0 - 1e-12):  # hooks in place, and next to nothing masked
        torch.testing.assert_close(logits(large), plain, rtol=0, atol=1e-8)
    assert torch.equal(logits(large), plain)  # nothing stays behind


def test_old_gradients_at_0_are_the_small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    growth, entries = beside("llama", GROWTHS["llama"]["all"])
    small = zoo.norms_in_float64(zoo.build(zoo.config("llama")))
    large = zoo.norms_in_float64(random_beside_old(growth, entries, small))
    _, before = zoo.loss_and_gradients(small, zoo.batch())
    with unchecked(large, growth, entries, monkeypatch).at(0.0):
        _, after = zoo.loss_and_gradients(large, zoo.batch())
    for name, gradient in after.items():
        if not entries[name].new_layer:
            source = before[str(growth.recipes["weight"][name].terms[0].source)]
            torch.testing.assert_close(gradient[~entries[name].mask()], source.flatten(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_a_masked_norm_is_its_formula(kind: Any) -> None:
    new = torch.tensor([False, True, False, True, True])
    x, eps, value = torch.randn(4, 5, dtype=torch.float64), 1e-3, 0.3
    module = nn.RMSNorm(5, eps=eps) if kind == "rms" else nn.LayerNorm(5, eps=eps)
    module.double().requires_grad_(False).load_state_dict(
        {key: torch.randn(5) for key in module.state_dict()}
    )
    norm = MaskedNorm(module, kind, eps, new)
    with Masks((norm,), (), ()).at(value):
        got = module(x)
    for row in range(4):
        weights = [value if flag else 1.0 for flag in new.tolist()]
        total, values = sum(weights), x[row].tolist()
        mean = sum(w * v for w, v in zip(weights, values, strict=True)) / total if kind == "layer" else 0.0
        spread = sum(w * (v - mean) ** 2 for w, v in zip(weights, values, strict=True)) / total
        for unit in range(5):
            y = (values[unit] - mean) / (spread + eps) ** 0.5 * float(module.weight[unit])
            y += float(module.bias[unit]) if kind == "layer" else 0.0
            assert float(got[row, unit]) == pytest.approx(weights[unit] * y, abs=1e-12)


def test_what_masks_cannot_hide() -> None:
    for name, to, words in (
        ("llama", {"head_dim": 16}, "axis 'query_dim'"),
        ("llama", {"vocab_size": 40}, "axis 'vocab'"),
        ("llama", {"hidden_size": 32}, "scales '.*norm.weight'"),
        ("mixtral", {"intermediate_size": 47}, "inside experts"),
    ):
        growth, entries = beside(name, to)
        with pytest.raises(OutgrowError, match=words):
            check_masks(growth, entries)
    copied = plan(build(zoo.resolved("llama"), {"intermediate_size": 80}, width="duplicate"))
    with pytest.raises(OutgrowError, match="leaves old entries as they are"):
        check_masks(copied, new_entries(copied))
    growth = plan(build(zoo.resolved("bert"), {"num_hidden_layers": 4}, depth="identity"))
    with pytest.raises(OutgrowError, match="use depth: stack"):
        check_masks(growth, new_entries(growth))
    growth, entries = beside(
        "llama", {"intermediate_size": 50, **GROWTHS["llama"]["heads"], "num_hidden_layers": 4}
    )
    check_masks(growth, entries)


MASKED = {
    "grow": {
        "to": {"intermediate_size": 40, "num_hidden_layers": 3},
        "width": "pad",
        "depth": "stack",
        "noise": 0.0,
    },
    "masks": {"rise_tokens": 64 * 9},
}


def test_a_stage_fades_in_what_its_growth_added(tiny: Tiny) -> None:
    """Stacked layers would break the function: behind a mask they do not."""
    run = tiny()
    run["stages"][1] |= MASKED
    result = train_run(parse_run(run), progress=False)
    large = result.stages[1]
    assert large.loss_after_growth == pytest.approx(large.loss_before_growth, rel=1e-5)
    assert large.final_loss is not None
    assert large.loss_before_growth is not None
    assert large.final_loss < large.loss_before_growth
    without = {**run["stages"][1], "masks": None}
    plain = train_run(
        parse_run({**run, "stages": [run["stages"][0], without], "output": run["output"] + "-plain"}),
        progress=False,
    )
    assert plain.stages[1].loss_after_growth != pytest.approx(large.loss_before_growth, rel=1e-3)


def test_a_mask_is_a_function_of_tokens() -> None:
    assert [MasksConfig(rise_tokens=10).at(tokens) for tokens in (0, 5, 10, 99)] == [0.0, 0.5, 1.0, 1.0]
