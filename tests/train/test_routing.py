"""Training a model with experts: its balancing loss, the load in the log, and a run that goes from dense to sparse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from outgrow.data.objectives import IGNORED
from outgrow.engine.step import Device, Step, build_for_training, optimizer_step
from outgrow.errors import ConfigError, GrowthError
from outgrow.growth.experts import Routing
from outgrow.models.architecture import load_architecture, resolve
from outgrow.models.files import known
from outgrow.models.routing import coefficient, has_experts, watched
from outgrow.proof.tiny_model import example
from outgrow.run.run_file import parse_run
from outgrow.state.growing import grow
from outgrow.state.training_state import TrainingState
from outgrow.training import train_run
from outgrow.training.folder import read_metrics

Tiny = Callable[..., dict[str, Any]]
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 31,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CPU = Device("cpu", False)


def mixture(**fields: Any) -> nn.Module:
    torch.manual_seed(0)
    config = MixtralConfig(
        **SIZES,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        initializer_range=0.3,
        **fields,
    )
    config._experts_implementation = "eager"
    return MixtralForCausalLM(config)


def batch(items: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(31, (items, 9), generator=torch.Generator().manual_seed(3))
    targets = tokens.roll(-1, 1)
    targets[:, -1] = IGNORED
    return tokens, targets


def stepped(model: nn.Module, **how: Any) -> tuple[Step, dict[str, torch.Tensor]]:
    """One step of gradient descent at rate 1: its gradients are what the weights moved by."""
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    settings: dict[str, Any] = {
        "micro_batch": 6,
        "learning_rate": 1.0,
        "clip": None,
        "device": CPU,
        "seed": (0, 0),
    }
    step = optimizer_step(model, sgd, batch(), **{**settings, **how})
    return step, {name: before[name] - value.detach() for name, value in model.named_parameters()}


def test_the_balancing_loss_is_transformers_own() -> None:
    tokens, targets = batch()
    reference = mixture(router_aux_loss_coef=0.5)
    out = reference(input_ids=tokens, output_router_logits=True)
    cross = nn.functional.cross_entropy(out.logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    (cross + 0.5 * out.aux_loss).backward()
    step, gradients = stepped(mixture(router_aux_loss_coef=0.5))
    assert step.loss == pytest.approx(
        cross.item(), rel=1e-6
    )  # the loss that is reported is the cross-entropy
    assert step.routing[0] == pytest.approx(out.aux_loss.item(), rel=1e-6)
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)
    _, asked = stepped(mixture(router_aux_loss_coef=0.5), balancing=0.0)
    gate = "model.layers.0.mlp.gate.weight"
    assert not torch.allclose(asked[gate], gradients[gate], rtol=1e-2)
    assert coefficient(reference, None) == 0.5
    assert coefficient(reference, 0.0) == 0.0


def test_the_load_counts_every_token_once_however_it_is_batched() -> None:
    (whole, _), (parts, _) = stepped(mixture()), stepped(mixture(), micro_batch=2)
    assert whole.routing[1:] == parts.routing[1:]
    model = mixture()
    with watched(model) as seen, torch.no_grad():
        model(input_ids=batch()[0])
    tokens = seen.tokens()
    assert tokens.shape == (2, 4)
    assert tokens.sum(1).tolist() == [6 * 9 * 2] * 2
    even = 6 * 9 * 2 / 4
    assert whole.routing[1] == pytest.approx(float(tokens.max()) / even)
    assert whole.routing[2] == pytest.approx(float(tokens.min()) / even)
    with torch.no_grad():  # every token to the first two experts
        for layer in model.model.layers:
            layer.mlp.gate.weight.zero_()
    with watched(model) as seen, torch.no_grad():
        model(input_ids=batch()[0])
    assert (seen.tokens() == 0).sum(1).tolist() == [2, 2]


def test_a_dense_model_says_nothing_of_experts() -> None:
    from transformers import LlamaForCausalLM

    dense = LlamaForCausalLM(LlamaConfig(**SIZES))
    assert not has_experts(dense)
    assert stepped(dense)[0].routing == ()
    other = Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **SIZES,
            num_key_value_heads=2,
            head_dim=8,
            num_experts=4,
            moe_intermediate_size=24,
            num_experts_per_tok=2,
        )
    )
    assert len(stepped(other)[0].routing) == 4


def test_a_run_goes_from_a_dense_model_to_a_mixture(tiny: Tiny, tmp_path: Path) -> None:
    content = tiny(balancing=0.02)
    content["stages"][1]["grow"] = {
        "as": "mixtral",
        "to": {"num_local_experts": 4, "num_experts_per_tok": 2},
        "experts": "copy",
        "moments": "cautious",
    }
    result = train_run(parse_run(content), progress=False)
    small, large = result.stages
    assert large.parameters > small.parameters
    assert large.loss_before_growth is not None
    assert large.loss_after_growth == pytest.approx(large.loss_before_growth, rel=1e-6)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "train"]
    sparse = [row for row in rows if row["stage"] == 1]
    assert all("balance" not in row for row in rows if row["stage"] == 0)
    assert all(1.0 < row["balance"] < 8.0 and row["load_max"] >= 1.0 >= row["load_min"] for row in sparse)


@pytest.mark.parametrize(
    ("grow", "words"),
    [
        ({"as": "mixtra", "to": {"num_local_experts": 4}}, "did you mean mixtral"),
        (
            {
                "as": "mixtral",
                "to": {"num_local_experts": 4, "num_experts_per_tok": 3},
                "experts": "split:pieces=2",
            },
            "choose num_experts_per_tok = 2 or 4",
        ),
        ({"to": {"num_hidden_layers": 2}, "experts": "copy"}, "--as mixtral"),
    ],
)
def test_a_growth_that_cannot_be_is_named_before_any_training(
    tiny: Tiny, grow: dict[str, Any], words: str
) -> None:
    content = tiny()
    content["stages"][1]["grow"] = grow
    with pytest.raises((ConfigError, GrowthError), match=words):
        train_run(parse_run(content), progress=False)


@pytest.mark.parametrize(
    "kind", [name for name in known() if load_architecture(name).routers and name != "llama4_text"]
)
def test_every_kind_of_router_counts_its_tokens(kind: str) -> None:
    model = build_for_training(example(load_architecture(kind)))
    with watched(model) as seen, torch.no_grad():
        model(input_ids=batch()[0])
    (router, *_) = load_architecture(kind).routers.values()
    active = Routing.of(router, resolve(model.config.to_dict())).active
    assert seen.tokens().sum(1).tolist() == [6 * 9 * active] * seen.shape[0]
    assert len(stepped(model)[0].routing) == 4


def test_a_router_that_tells_no_one_is_trained_and_not_counted() -> None:
    assert stepped(build_for_training(example(load_architecture("llama4_text"))))[0].routing == ()


def test_hidden_copies_enter_as_their_bias_rises() -> None:
    config = example(load_architecture("glm4_moe"))
    torch.manual_seed(0)
    small = TrainingState.from_model(build_for_training(config))
    grown = grow(small, to={"n_routed_experts": 9}, experts="hidden")
    model = build_for_training(grown.config)
    grown.load_into(model)
    tokens, _ = batch()
    before = build_for_training(config)
    small.load_into(before)
    with torch.no_grad():
        torch.testing.assert_close(
            model(input_ids=tokens).logits, before(input_ids=tokens).logits, rtol=1e-4, atol=1e-5
        )

    def load_of_hidden() -> float:
        with watched(model) as seen, torch.no_grad():
            model(input_ids=tokens)
        return float(seen.tokens()[:, 6:].sum())

    assert load_of_hidden() == 0
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-4)
    settings: dict[str, Any] = {
        "micro_batch": 6,
        "learning_rate": 1e-4,
        "clip": None,
        "device": CPU,
        "seed": (0, 0),
    }
    bias = "model.layers.1.mlp.gate.e_score_correction_bias"
    first = dict(model.named_buffers())[bias].clone()
    optimizer_step(model, adamw, batch(), **settings, bias_rate=0.3)
    moved = dict(model.named_buffers())[bias] - first
    assert torch.equal(moved[6:], torch.full_like(moved[6:], moved[6:].max()))  # idle experts rise
    assert float(moved[6]) == pytest.approx(0.3)
    assert float(moved.min()) == pytest.approx(-0.3)  # the others that have most fall
    for _ in range(4):
        optimizer_step(model, adamw, batch(), **settings, bias_rate=0.3)
    assert load_of_hidden() > 0
