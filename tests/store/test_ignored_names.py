"""Tensors of published files that are no parameters, under every spelling of their names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel

import outgrow
from outgrow.errors import ArchitectureError
from outgrow.state.training_state import TrainingState

TINY = BertConfig(
    vocab_size=20,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=6,
)


def with_positions(folder: Path, name: str) -> None:
    """Adds the table of positions that transformers wrote before 4.31."""
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, name: torch.arange(6)[None]}, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("name", ["bert.embeddings.position_ids", "embeddings.position_ids"])
def test_a_table_of_positions_is_no_parameter(tmp_path: Path, name: str) -> None:
    BertForMaskedLM(TINY).save_pretrained(tmp_path)
    with_positions(tmp_path, name)
    state = TrainingState.from_pretrained(tmp_path)
    assert outgrow.plan_growth(state, to={"intermediate_size": 14}).keeps_function


def test_a_sentence_encoder_of_2021_opens(tmp_path: Path) -> None:
    BertModel(TINY).save_pretrained(tmp_path)
    with_positions(tmp_path, "embeddings.position_ids")
    state = TrainingState.from_pretrained(tmp_path)
    assert outgrow.plan_growth(state, to={"intermediate_size": 14}).keeps_function


def test_another_head_is_named_for_what_it_is(tmp_path: Path) -> None:
    """It says its class, not that its file is damaged."""
    BertForSequenceClassification(TINY).save_pretrained(tmp_path)
    with_positions(tmp_path, "bert.embeddings.position_ids")
    with pytest.raises(ArchitectureError, match="another class of model"):
        outgrow.plan_growth(TrainingState.from_pretrained(tmp_path), to={"intermediate_size": 14})
