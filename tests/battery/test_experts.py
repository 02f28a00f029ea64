"""Experts grow: function, the sum of gradients over copies, moments, load; and what cannot be kept is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from battery import growing, zoo
from outgrow.errors import ArchitectureError, GrowthError
from outgrow.growth.plan import GrowthPlan, plan
from outgrow.methods.build import build
from outgrow.models.architecture import resolve
from outgrow.models.conversion import conversion
from outgrow.state.converted_view import ConvertedView
from outgrow.store.source import MemorySource

SMALL = {**zoo.LLAMA, "num_hidden_layers": 2}
MOE: dict[str, dict[str, Any]] = {
    "mixtral": {"model_type": "mixtral", **SMALL, "num_local_experts": 3, "num_experts_per_tok": 2},
    "qwen3_moe": {
        "model_type": "qwen3_moe",
        **SMALL,
        "intermediate_size": 11,
        "moe_intermediate_size": 40,
        "num_experts": 3,
        "num_experts_per_tok": 2,
        "norm_topk_prob": False,
    },
}
DENSE = {"mixtral": {"model_type": "llama", **SMALL}, "qwen3_moe": {"model_type": "qwen3", **SMALL}}
E = "num_local_experts"
K = "num_experts_per_tok"


def full(settings: dict[str, Any]) -> dict[str, Any]:
    chosen = {**zoo.TOKENS, **settings}
    return zoo.transformers.AutoConfig.for_model(chosen.pop("model_type"), **chosen).to_dict()


def mixture(kind: str) -> tuple[dict[str, Any], dict[str, Tensor], Any]:
    """Config, weights and live model of a mixture of different experts."""
    model = zoo.norms_in_float64(zoo.build(full(MOE[kind])))
    return model.config.to_dict(), growing.weights(model), model


def upcycled(kind: str) -> tuple[dict[str, Any], dict[str, Tensor], Any]:
    """Config and weights of a mixture with one expert, and the dense model that it was."""
    dense = zoo.norms_in_float64(zoo.build(full(DENSE[kind])))
    found = conversion(dense.config.to_dict(), kind)
    view = ConvertedView(found, MemorySource({"weight": growing.weights(dense)}))
    return dict(found.config), {name: view.read(name, "weight") for name in view.names("weight")}, dense


def planned(config: dict[str, Any], to: dict[str, int], experts: str, **options: Any) -> GrowthPlan:
    moments = options.pop("moments", "transport")
    return plan(build(resolve(config), to, experts=experts, depth="identity", **options), moments)


def grown(made: GrowthPlan, weights: dict[str, Tensor]) -> Any:
    large = zoo.norms_in_float64(zoo.build(dict(made.config), seed=5))
    growing.load(large, growing.view(made, weight=weights))
    return large


def gap(model: Any, other: Any) -> float:
    with torch.no_grad():
        a, b = zoo.logits(model, zoo.batch()), zoo.logits(other, zoo.batch())
    return float((a - b).abs().max() / a.abs().max())


EXACT = [
    ("mixtral", "one", {E: 8, K: 2}, "copy"),
    ("mixtral", "one", {E: 4, K: 1}, "copy"),
    ("mixtral", "one", {E: 8, K: 4}, "split:pieces=4"),
    ("qwen3_moe", "one", {E: 6, K: 4}, "split:pieces=2"),
    ("qwen3_moe", "one", {E: 5, K: 3}, "copy"),
    ("mixtral", "some", {E: 6, K: 4}, "copy"),
    ("mixtral", "some", {E: 12, K: 8}, "split:pieces=4"),
    ("mixtral", "some", {E: 12, K: 8}, "split:pieces=2"),
    ("qwen3_moe", "some", {E: 6, K: 4}, "copy"),
    ("qwen3_moe", "some", {E: 6, K: 4}, "split:pieces=2"),
    (
        "mixtral",
        "one",
        {E: 4, K: 2, "hidden_size": 36, "num_attention_heads": 6, "num_hidden_layers": 3},
        "copy",
    ),
    ("mixtral", "one", {E: 4, K: 2, "hidden_size": 36, "num_hidden_layers": 3}, "split:pieces=2"),
]


@pytest.mark.parametrize(("kind", "from_", "to", "experts"), EXACT)
def test_what_is_promised_is_kept(kind: str, from_: str, to: dict[str, int], experts: str) -> None:
    config, weights, before = (upcycled if from_ == "one" else mixture)(kind)
    made = planned(config, to, experts)
    assert made.keeps_function, made.compensation.findings
    after = grown(made, weights)
    assert gap(before, after) < 1e-13
    if "hidden_size" in to:
        return
    sums = expert_gradients(made, after)
    _, small = zoo.loss_and_gradients(
        mixture(kind)[2] if from_ == "some" else one_expert(config, weights), zoo.batch()
    )
    largest = max(float(gradient.norm()) for gradient in small.values())
    for name, gradient in sums.items():
        assert float((gradient - small[name]).norm()) < 1e-11 * float(small[name].norm()) + 1e-13 * largest, (
            name
        )


def one_expert(config: dict[str, Any], weights: dict[str, Tensor]) -> Any:
    model = zoo.norms_in_float64(zoo.build(config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model


def expert_gradients(made: GrowthPlan, model: Any) -> dict[str, Tensor]:
    """Σ over copies of the large gradients, per tensor: Lᵀ g' where W' = L W. Rows drawn anew come from nothing."""
    from outgrow.proof.measures import summed

    _, gradients = zoo.loss_and_gradients(model, zoo.batch())
    found = {}
    for name, gradient in gradients.items():
        router = made.growth.router_of(made.large.parameters[name])
        if router is None or not router.fresh_rows:
            found[name] = summed(made, name, gradient)
    return found


def test_moments_follow_the_law_of_a_mean_gradient_or_of_its_noise() -> None:
    config, weights, _ = upcycled("mixtral")
    to = {E: 8, K: 2}
    name = "model.layers.0.mlp.experts.down_proj"
    squares = {one: torch.rand_like(value) for one, value in weights.items()}
    for moments, first, second in (("transport", 8, 64), ("cautious", 8, 16), ("copy", 1, 1)):
        made = planned(config, to, "copy", moments=moments)
        view = growing.view(made, weight=weights, exp_avg=weights, exp_avg_sq=squares)
        for expert in (0, 7):
            torch.testing.assert_close(view.read(name, "exp_avg")[expert], weights[name][0] / first)
            torch.testing.assert_close(view.read(name, "exp_avg_sq")[expert], squares[name][0] / second)
        router = "model.layers.0.mlp.gate.weight"
        assert made.steps[router] is None  # it begins anew
        assert not view.read(router, "exp_avg").any()
    pieces = planned(config, {E: 8, K: 4}, "split:pieces=4")
    view = growing.view(pieces, weight=weights, exp_avg=weights, exp_avg_sq=squares)
    part = slice(10, 20)  # the second of four pieces of 40 units; two copies, output × 4
    torch.testing.assert_close(view.read(name, "weight")[1], weights[name][0][:, part] * 4)
    torch.testing.assert_close(view.read(name, "exp_avg")[5], weights[name][0][:, part] / 2 / 4)
    torch.testing.assert_close(view.read(name, "exp_avg_sq")[5], squares[name][0][:, part] / (2 * 4) ** 2)


def test_noise_of_a_large_router_spares_the_sets_themselves() -> None:
    """A common random row per set: the first stays, and the others move alike, so choices inside a set keep their order."""
    config, weights, before = mixture("mixtral")
    made = planned(config, {E: 9, K: 6}, "copy:row_noise=0.01")
    assert not made.keeps_function
    assert not made.is_caged
    assert planned(config, {E: 9, K: 6}, "copy").is_caged
    router = "model.layers.0.mlp.gate.weight"
    rows = growing.view(made, weight=weights).read(router, "weight").view(3, 3, -1) - weights[router]
    assert not rows[0].any()
    for moved in rows[1:]:
        torch.testing.assert_close(moved, moved[:1].expand_as(moved))
    assert 0.005 < float(rows[1].std() / weights[router].square().mean().sqrt()) < 0.02
    assert gap(before, grown(made, weights)) < 0.1


def test_drop_redraws_a_share_of_every_experts_units() -> None:
    config, weights, before = upcycled("mixtral")
    made = planned(config, {E: 4, K: 2}, "drop:share=0.25")
    assert not made.keeps_function
    assert gap(before, grown(made, weights)) > 1e-3
    squares = {one: torch.rand_like(value) for one, value in weights.items()}
    view = growing.view(made, weight=weights, exp_avg=weights, exp_avg_sq=squares)
    down, up = "model.layers.1.mlp.experts.down_proj", "model.layers.1.mlp.experts.gate_up_proj"
    (one,) = made.growth.experts
    assert one.redrawn is not None
    assert one.redrawn.sum(1).tolist() == [10] * 4
    assert len({tuple(row.tolist()) for row in one.redrawn}) == 4
    for expert in range(4):
        anew = one.redrawn[expert]
        both = torch.cat([anew, anew])
        new, old = view.read(down, "weight")[expert], weights[down][0]
        assert torch.equal(new[:, ~anew], old[:, ~anew])
        assert 0.7 < float(new[:, anew].std() / old.std()) < 1.4
        assert torch.equal(view.read(up, "weight")[expert][~both], weights[up][0][~both])
        assert not view.read(up, "exp_avg")[expert][both].any()
        level = squares[up].mean() / 16
        torch.testing.assert_close(view.read(up, "exp_avg_sq")[expert][both], level.expand(20, 24))
    assert torch.equal(view.read(down, "weight", slice(2, 3))[0], view.read(down, "weight")[2])


@pytest.mark.parametrize(
    ("from_", "to", "experts"),
    [
        ("one", {E: 4, K: 2}, "copy"),
        ("one", {E: 8, K: 4}, "split:pieces=4"),
        ("one", {E: 4, K: 2}, "drop"),
        ("some", {E: 6, K: 4}, "copy:row_noise=0.1"),
    ],
)
def test_rows_do_not_depend_on_how_many_are_read(from_: str, to: dict[str, int], experts: str) -> None:
    config, weights, _ = (upcycled if from_ == "one" else mixture)("mixtral")
    squares = {name: value.square() for name, value in weights.items()}
    view = growing.view(planned(config, to, experts), weight=weights, exp_avg=weights, exp_avg_sq=squares)
    for slot in ("weight", "exp_avg", "exp_avg_sq"):
        for name in view.names(slot):
            whole = view.read(name, slot)
            again = growing.view(
                planned(config, to, experts), weight=weights, exp_avg=weights, exp_avg_sq=squares
            )
            rows = torch.cat([again.read(name, slot, slice(at, at + 1)) for at in range(len(whole))])
            assert torch.equal(whole.view(torch.int64), rows.view(torch.int64)), (slot, name)


@pytest.mark.parametrize(
    ("kind", "from_", "to", "experts", "words"),
    [
        ("mixtral", "some", {E: 6}, "copy", "choose num_experts_per_tok = 4"),
        ("mixtral", "some", {E: 7, K: 2}, "copy", "choose 6 or 9"),
        ("mixtral", "one", {E: 8, K: 3}, "split:pieces=4", "choose num_experts_per_tok = 4 or 8"),
        ("mixtral", "one", {E: 8, K: 3}, "split:pieces=3", "3 equal pieces"),
        ("mixtral", "one", {E: 8, K: 4, "intermediate_size": 20}, "split:pieces=4", "leaves 10 inner units"),
        ("mixtral", "some", {K: 3}, "copy", "does not take whole families"),
        ("mixtral", "some", {E: 6, K: 2}, "groups", "knows no groups"),
        ("mixtral", "some", {E: 4, K: 2}, "hidden", "no selection bias"),
        ("mixtral", "one", {E: 2, K: 3}, "copy", "cannot choose 3 of 2"),
        ("mixtral", "one", {E: 8, K: 4}, "copi", "did you mean copy"),
        ("mixtral", "one", {E: 8, K: 4, "intermediate_size": 60}, "drop", "grow twice"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    kind: str, from_: str, to: dict[str, int], experts: str, words: str
) -> None:
    config, _, _ = (upcycled if from_ == "one" else mixture)(kind)
    with pytest.raises((ArchitectureError, GrowthError), match=words):
        planned(config, to, experts)


def test_a_router_whose_shares_do_not_add_up_is_refused_or_declared() -> None:
    config, weights, before = upcycled("qwen3_moe")
    config = {**config, "norm_topk_prob": False}
    with pytest.raises(GrowthError, match="do not add up to the same"):
        planned(config, {E: 4, K: 2}, "copy")
    made = planned(config, {E: 4, K: 2}, "copy:inexact=true")
    assert not made.keeps_function
    assert gap(before, grown(made, weights)) > 1e-3
    flat, weights, before = mixture("mixtral")
    made = planned(flat, {E: 6, K: 2}, "copy:inexact=true")
    assert not made.keeps_function
    assert gap(before, grown(made, weights)) > 1e-2


def test_a_dense_model_has_no_experts() -> None:
    with pytest.raises(GrowthError, match="--as mixtral"):
        build(resolve(full(DENSE["mixtral"])), {"hidden_size": 48}, experts="copy")
    with pytest.raises(GrowthError, match="--as mixtral"):
        build(resolve(full(DENSE["mixtral"])), {E: 4})
