"""`verify` tells a saved state from the one that its plan makes, and names what differs: weights, moments, config, lineage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from outgrow import TrainingState, grow, verify
from outgrow.algebra.slots import SLOTS
from outgrow.store.lineage import Lineage
from outgrow.store.source import MemorySource

UP = "model.layers.0.mlp.up_proj.weight"


def trained() -> TrainingState:
    """A tiny Llama with two steps of AdamW behind it."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=11, max_position_embeddings=32, **sizes, bos_token_id=1, eos_token_id=2)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tokens = torch.randint(0, 11, (4, 9))
    for _ in range(2):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    return TrainingState.from_model(model, optimizer)


SMALL = trained()
LARGE = {
    "kept": grow(SMALL, to={"hidden_size": 12, "num_attention_heads": 3}, width="isometric"),
    "changed": grow(SMALL, to={"num_hidden_layers": 4}),
}


def tensors(state: TrainingState, **changed: tuple[str, Any]) -> TrainingState:
    """The state in memory, a tensor of a slot put through a function."""
    held = {
        slot: {name: state.source.read(name, slot) for name in state.source.names(slot)} for slot in SLOTS
    }
    for slot, (name, change) in changed.items():
        held[slot][name] = change(held[slot][name])
    return replace(state, source=MemorySource({slot: found for slot, found in held.items() if found}))


def told(state: TrainingState, **more: Any) -> TrainingState:
    """The state with an entry of its lineage that says other things."""
    return replace(state, lineage=Lineage([{**state.lineage[-1], **more}]))


@pytest.mark.parametrize("which", LARGE)
def test_what_was_changed_in_a_grown_state_is_named(which: str) -> None:
    large = LARGE[which]
    rope = {"rope_type": "default", "rope_theta": 5e5}
    cases = {
        f"weight of {UP}": tensors(large, weight=(UP, lambda one: one * (1 + 1e-3))),
        f"exp_avg of {UP}": tensors(large, exp_avg=(UP, torch.neg)),
        f"exp_avg_sq of {UP}": tensors(large, exp_avg_sq=(UP, lambda one: one * 2)),
        "step counts of the optimizer": replace(large, steps=dict.fromkeys(large.steps, 9.0)),
        "rope_parameters.rope_theta of config.json": replace(
            large, config={**large.config, "rope_parameters": rope}
        ),
        "rms_norm_eps of config.json": replace(large, config={**large.config, "rms_norm_eps": 1e-3}),
        "hidden_act of config.json": replace(large, config={**large.config, "hidden_act": "gelu"}),
        "keeps_function of the lineage": told(large, keeps_function=which != "kept"),
        "to.parameters of the lineage": told(large, to={"parameters": 1}),
        "an earlier to.parameters of the lineage": replace(
            large, lineage=Lineage([{"to": {"parameters": 1}}, *large.lineage])
        ),
    }
    for what, forged in cases.items():
        report = verify(SMALL, forged, steps=0)
        assert report.unlike == (what,)
        assert not report.passed
        assert what in report.verdict
    moments = verify(SMALL, told(large, growth={**large.lineage[-1]["growth"], "moments": "reset"}), steps=0)
    assert moments.unlike[0] == "exp_avg of lm_head.weight"
    assert "more" in moments.verdict


@pytest.mark.parametrize("which", LARGE)
def test_what_a_user_may_change_is_no_fault(which: str) -> None:
    """Dropout, tokens that end a text, notes of other programs, and an export without moments."""
    large = LARGE[which]
    free = {"attention_dropout": 0.3, "eos_token_id": 5, "use_cache": False, "made_by": "another program"}
    bare = replace(large, source=tensors(large).source, config={**large.config, **free})
    for state in (large, bare, weights_alone(large)):
        assert verify(SMALL, state, steps=0).passed
    assert verify(weights_alone(SMALL), large, steps=0).passed


def weights_alone(state: TrainingState) -> TrainingState:
    held = {name: state.source.read(name, "weight") for name in state.source.names("weight")}
    return replace(state, source=MemorySource({"weight": held}), steps={}, optimizer=None)
