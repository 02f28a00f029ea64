"""Tiny models built by transformers, trained for a step or two, for the tests of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from outgrow.state.training_state import TrainingState

TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def tiny_llama(*, tied: bool = True, seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"vocab_size": 19, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "tie_word_embeddings": tied}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, **TOKENS, **changes}))


def tiny_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=19, n_positions=14, n_embd=12, n_layer=2, n_head=3, **TOKENS)
    )


def tiny_bert() -> BertForMaskedLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 19, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2}
    return BertForMaskedLM(BertConfig(num_attention_heads=3, max_position_embeddings=14, **sizes, **TOKENS))


def tiny_mixtral() -> MixtralForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 19, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2}
    experts = {
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    }
    return MixtralForCausalLM(MixtralConfig(**sizes, **experts, **TOKENS))


MODELS = {"llama": tiny_llama, "gpt2": tiny_gpt2, "bert": tiny_bert, "mixtral": tiny_mixtral}


def two_groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]


def train(model: Any, optimizer: torch.optim.Optimizer, steps: int, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        tokens = torch.randint(3, 19, (2, 9), generator=generator)
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def trained_state(model: Any, steps: int = 2) -> TrainingState:
    optimizer = torch.optim.AdamW(two_groups(model), lr=1e-2, betas=(0.8, 0.9), fused=True)
    train(model, optimizer, steps)
    return TrainingState.from_model(
        model, optimizer, records={"schedule": {"peak": 0.01}, "data": {"tokens": 36}}
    )


def assert_same_tensors(first: TrainingState, second: TrainingState, slots: tuple[str, ...] = ()) -> None:
    """Equal names, dtypes and bits in every slot."""
    for slot in slots or ("weight", "exp_avg", "exp_avg_sq"):
        assert set(first.source.names(slot)) == set(second.source.names(slot)), slot
        assert slots or slot == "weight" or not first.steps or first.source.names(slot)
        for name in first.source.names(slot):
            a, b = first.source.read(name, slot), second.source.read(name, slot)
            assert a.dtype == b.dtype, (slot, name)
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=f"{slot} of {name}")


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
