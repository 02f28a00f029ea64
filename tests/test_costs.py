"""FLOPs and memory from a config agree with what PyTorch counts and keeps, on every architecture there is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from battery.zoo import CONFIGS, TOKENS, batch, config
from outgrow.algebra.linear import Dense, Identity
from outgrow.algebra.recipe import Recipe, Term
from outgrow.cost.flops import Speed, Speeds, model_cost, training_flops
from outgrow.cost.frozen_flops import frozen_training_flops
from outgrow.cost.memory import training_memory
from outgrow.data.masked import Hiding
from outgrow.data.objectives import summed_loss
from outgrow.engine.step import Device, predict
from outgrow.errors import ConfigError
from outgrow.growth.growth_cost import growth_cost
from outgrow.growth.plan import plan
from outgrow.methods.build import build
from outgrow.models.architecture import load_architecture, resolve

TEXT = [
    name for name, entry in CONFIGS.items() if load_architecture(entry["model_type"]).objective != "image"
]
"""Images are counted in tests/test_vision.py and tests/test_cait.py."""
MASKED = [name for name in TEXT if load_architecture(CONFIGS[name]["model_type"]).objective == "masked"]
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout_prob", "attention_probs_dropout_prob")


def model_of(content: dict[str, Any], attention: str) -> nn.Module:
    made = transformers.AutoConfig.for_model(
        **{**content, **{name: 0.0 for name in DROPOUTS if name in content}}
    )
    made._attn_implementation, made.use_cache = attention, False
    made._experts_implementation = "eager"  # PyTorch counts no FLOPs of the grouped product
    model: nn.Module = getattr(transformers, load_architecture(content["model_type"]).class_)(made)
    return model.train()


@pytest.mark.parametrize("name", TEXT)
def test_flops_agree_with_pytorch(name: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    content, tokens = config(name), batch(rows=2, columns=16)
    model, cost = model_of(content, "eager"), model_cost(content)
    assert cost.parameters == sum(one.numel() for one in model.parameters())
    with FlopCounterMode(display=False) as forward:
        loss = model(input_ids=tokens).logits.sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    assert forward.get_total_flops() == pytest.approx(cost.forward(16) * tokens.numel(), rel=0.01)
    assert backward.get_total_flops() == pytest.approx(cost.backward(16) * tokens.numel(), rel=0.01)
    assert cost.training(16) == cost.forward(16) + cost.backward(16)


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_head_works_at_the_hidden_places_alone(name: str) -> None:
    """The same loss and gradients as from all scores, for what the formula says in FLOPs and memory."""
    from torch.utils.flop_counter import FlopCounterMode

    content = config(name)
    model, vocab = model_of(content, "eager"), content["vocab_size"]
    hidden = Hiding(1, frozenset({0, 1, 2}), vocab, share=0.3).apply(batch(rows=4, columns=16), (0, 0))
    with FlopCounterMode(display=False) as counter:
        logits, targets = predict(model, hidden, Device("cpu", bf16=False))
        loss = summed_loss(logits, targets)
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = {key: one.grad for key, one in model.named_parameters()}
    model.zero_grad()
    everywhere = summed_loss(model(input_ids=hidden[0]).logits, hidden[1])
    everywhere.backward()  # type: ignore[no-untyped-call]
    assert logits.shape == (4 * 5, vocab)
    torch.testing.assert_close(loss, everywhere)
    for key, one in model.named_parameters():
        torch.testing.assert_close(gradients[key], one.grad, rtol=1e-4, atol=1e-5)

    cost, counted = model_cost(content), counter.get_total_flops() / hidden[0].numel()
    assert counted == pytest.approx(training_flops(content, 16, mask_share=0.3)[1], rel=0.01)
    assert cost.training(16) - counted == pytest.approx(6 * cost.head_weights * 11 / 16, rel=0.05)
    assert frozen_training_flops(content, 16, (), 0.3) == pytest.approx(counted, rel=0.01)
    few, many = (
        training_memory(content, sequences=4, sequence_length=16, mask_share=share) for share in (0.3, 1.0)
    )
    assert many.logits == few.logits * 16 / 5
    assert many.activations - few.activations == 4 * 11 * 4 * vocab


def test_a_token_meets_its_own_experts_and_the_memory_holds_all() -> None:
    few, all_ = (model_cost(config("mixtral") | {"num_experts_per_tok": count}) for count in (2, 5))
    mlp, embed, layers, experts = 40, 24, 3, 5
    assert few.parameters == all_.parameters == all_.active
    assert all_.active - few.active == layers * (5 - 2) * 3 * mlp * embed
    assert all_.forward(16) - few.forward(16) == 2 * (all_.active - few.active)
    dense = model_cost({**config("mistral"), "intermediate_size": 2 * mlp})
    assert few.forward(16) == dense.forward(16) + 2 * layers * experts * embed  # and the router
    memory = training_memory(config("mixtral"), sequences=1, sequence_length=16, itemsize=2)
    assert memory.moments == 8 * few.parameters
    assert memory.weights - 4 * few.parameters == 2 * all_.matrix_weights


def test_causal_attention_counts_what_each_position_sees() -> None:
    cost, length = model_cost(config("llama")), 7
    seen = sum(2 * cost.matrix_weights + 2 * cost.attention_width * (place + 1) for place in range(length))
    assert cost.forward(length, causal=True) * length == seen
    assert cost.forward(1, causal=True) == cost.forward(1)
    assert cost.training(length, causal=True) == 3 * cost.forward(length, causal=True)


@pytest.mark.parametrize("name", TEXT)
def test_non_embedding_parameters(name: str) -> None:
    model = model_of(config(name), "eager")
    heads = ("lm_head.weight", "decoder.weight", "decoder.bias", "predictions.bias", "lm_head.bias")
    rest = [
        one.numel()
        for key, one in model.named_parameters()
        if not ((".embed" in key and one.dim() == 2) or ".wte" in key or ".wpe" in key or key.endswith(heads))
    ]
    assert model_cost(config(name)).non_embedding == sum(rest)


# ---- memory ---------------------------------------------------------------------------------------------------------

# Sizes at which what is left out (a few numbers per token of norms and softmax, positions) is small, as in real models.
SIZES = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 160}
POSITIONS = {"vocab_size": 101, "max_position_embeddings": 64}
GQA = {**SIZES, **POSITIONS, "num_key_value_heads": 2}
MEMORY: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 64, "n_head": 4, "n_layer": 3, "n_inner": 160, "n_positions": 64, "vocab_size": 101},
    "bert": {**SIZES, **POSITIONS},
    "roberta": {**SIZES, **POSITIONS, "max_position_embeddings": 66},
    "llama": {**GQA, "head_dim": 24},
    "mistral": {**GQA, "head_dim": 24},
    "eurobert": GQA,
    "qwen2": GQA,
    "qwen3": {**GQA, "head_dim": 24},
    "mixtral": {**GQA, "head_dim": 24, "num_local_experts": 5, "num_experts_per_tok": 2},
}


def kept(model: nn.Module, tokens: Tensor) -> int:
    """Bytes that the backward pass of a cross-entropy will read, parameters and buffers left out."""
    own = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(input_ids=tokens).logits.float()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
        found = sum(storage.nbytes() for storage in storages.values())
        loss.backward()  # type: ignore[no-untyped-call]
    return found


@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize("name", MEMORY)
def test_activations_are_what_pytorch_keeps(name: str, flash: bool) -> None:
    """Within 2 %: what is left out is one to three numbers per token and norm or head."""
    content = transformers.AutoConfig.for_model(name, **{**TOKENS, **MEMORY[name]}).to_dict()
    model = model_of(content, "sdpa" if flash else "eager")
    measured = kept(model, batch(rows=2, columns=32))
    memory = training_memory(content, sequences=2, sequence_length=32, flash=flash, mask_share=1.0)
    assert memory.activations == pytest.approx(measured, rel=0.02)
    assert memory.weights == memory.gradients == 4 * sum(one.numel() for one in model.parameters())


def test_activations_of_branches_side_by_side() -> None:
    """Their norms share an input. Under flash attention the estimate is an upper bound: each of keys and values is counted as
    keeping the whole matrix that is fused within the heads, and one of them does."""
    content = transformers.AutoConfig.for_model("gpt_neox", **{**TOKENS, **SIZES, **POSITIONS}).to_dict()
    eager, flash = (kept(model_of(content, one), batch(rows=2, columns=32)) for one in ("eager", "sdpa"))
    settings: dict[str, Any] = {"sequences": 2, "sequence_length": 32}
    assert training_memory(content, **settings, flash=False).activations == pytest.approx(eager, rel=0.02)
    assert flash <= training_memory(content, **settings).activations <= 1.06 * flash
    serial = {**content, "use_parallel_residual": False}
    more = kept(model_of(serial, "eager"), batch(rows=2, columns=32))
    assert training_memory(serial, **settings, flash=False).activations == pytest.approx(more, rel=0.02)
    assert more > eager


@pytest.mark.parametrize("name", ["gpt2", "bert", "llama", "qwen3", "mixtral"])
def test_activations_under_autocast(name: str) -> None:
    """Within 5 %: which tensors are cast, and how often, is the model's own business."""
    content = transformers.AutoConfig.for_model(name, **{**TOKENS, **MEMORY[name]}).to_dict()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        measured = kept(model_of(content, "sdpa"), batch(rows=8, columns=32))
    memory = training_memory(content, sequences=8, sequence_length=32, itemsize=2, mask_share=1.0)
    copies = memory.weights - memory.gradients
    assert memory.activations + copies == pytest.approx(measured, rel=0.05)


def test_memory_is_a_sum_and_grows_with_the_batch() -> None:
    content = config("llama")
    one = training_memory(content, sequences=1, sequence_length=16, moments=1)
    two = training_memory(content, sequences=2, sequence_length=16)
    assert two.activations == 2 * one.activations
    assert two.moments == 2 * one.moments
    assert one.total == one.weights + one.gradients + one.moments + one.activations + one.logits
    longer = training_memory(content, sequences=1, sequence_length=32, flash=False)
    assert (
        longer.activations
        > 2 * training_memory(content, sequences=1, sequence_length=16, flash=False).activations
    )


# ---- the cost of a growth -------------------------------------------------------------------------------------------


def test_the_cost_of_a_growth() -> None:
    small = resolve(config("llama"))
    growth = build(small, {"intermediate_size": 80}, width="duplicate", depth="stack", noise=0.0, seed=0)
    cost = growth_cost(plan(growth), slots=["weight"])
    mlp, embed, layers = 40, 24, 3
    assert cost.bytes_read == 4 * small.num_parameters
    assert cost.bytes_written == 4 * resolve({**small.config, "intermediate_size": 2 * mlp}).num_parameters
    assert cost.flops == layers * 2 * mlp * embed  # only the reader, down_proj, is scaled: by a half

    noisy = build(small, {"intermediate_size": 80}, width="duplicate", depth="stack", noise=0.1, seed=0)
    assert growth_cost(plan(noisy), slots=["weight"]).flops > cost.flops
    every = growth_cost(plan(growth))
    assert every.bytes_written == 3 * cost.bytes_written


def test_copied_layers_are_read_once() -> None:
    growth = build(
        resolve(config("gpt2")), {"n_layer": 6}, width="isometric", depth="stack", noise=0.0, seed=0
    )
    cost = growth_cost(plan(growth), slots=["weight"])
    assert cost.bytes_read == 4 * growth.small.num_parameters
    assert cost.bytes_written == 4 * growth.large.num_parameters


def test_learned_maps_cost_their_products() -> None:
    from outgrow.growth.growth_cost import _recipe_cost

    rows, columns = Dense(torch.ones(6, 4)), Dense(torch.ones(5, 3))
    recipe = Recipe(
        "w", (6, 5), (Term("w", (rows, columns)), Term("v", (rows, Dense(torch.ones(5, 3))), 0.5))
    )
    product = 2 * 4 * 3 * 5 + 2 * 6 * 4 * 5  # B (W Aᵀ)
    assert _recipe_cost(recipe, {}) == (2 * product + 30 + 30, 24)
    assert _recipe_cost(Recipe("w", (4, 3), (Term("w", (Identity(4), Identity(3))),)), {}) == (0, 12)


def test_fitting_an_operator_costs_a_step_of_the_target_and_the_maps() -> None:
    cost = model_cost(config("llama"))
    assert cost.fitting(16, 1000, 5e6) == 1000 * cost.training(16) + 1.5e7


# ---- hours and money ------------------------------------------------------------------------------------------------


def test_hours_and_money_from_measured_speeds() -> None:
    table = Speeds("gpu", (Speed(4e9, 100e3), Speed(1e9, 200e3)), price_per_hour=3.0)
    assert table.tokens_per_second(1e9) == pytest.approx(200e3)
    assert table.tokens_per_second(4e9) == pytest.approx(100e3)
    assert table.tokens_per_second(2e9) == pytest.approx((100e3 * 200e3) ** 0.5)
    assert table.tokens_per_second(8e9) == pytest.approx(50e3)  # the FLOPs per second of the largest measured
    assert table.tokens_per_second(0.5e9) == pytest.approx(400e3)
    assert table.hours(720e6, 1e9) == pytest.approx(1.0)
    assert table.price(720e6, 1e9) == pytest.approx(3.0)
    with pytest.raises(ConfigError, match="no speed was measured on gpu"):
        Speeds("gpu", ()).hours(1.0, 1.0)
