"""Tensors of published files that are no parameters, under every spelling of their names."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    FalconConfig,
    FalconForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import outgrow
from outgrow.errors import ArchitectureError
from outgrow.models.architecture import load_architecture
from outgrow.models.files import known
from outgrow.models.library import config_dict, config_object, meta_model
from outgrow.proof import tiny_model
from outgrow.state.training_state import TrainingState
from outgrow.store.inventory import take_inventory
from outgrow.store.safetensors_folder import NO_PARAMETERS

TYPES = [name for name in known() if load_architecture(name).library == "transformers"]
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


@pytest.mark.parametrize("model_type", TYPES)
def test_what_a_class_of_transformers_ignores_is_ignored(model_type: str) -> None:
    """Published files of DeepSeek-V3, GLM-4.5 and Qwen3-Next predict one more token; T5's hold an old table."""
    spec = load_architecture(model_type)
    config = config_dict(config_object({**tiny_model.example(spec), "architectures": [spec.class_]}))
    theirs = meta_model(config)._keys_to_ignore_on_load_unexpected or ()
    patterns = (*NO_PARAMETERS, *spec.ignored)
    for pattern in theirs:
        name = re.sub(r"\.?\*$", ".x", pattern.removeprefix("^").replace("\\", ""))
        spellings = (name, f"a.{name}", f"a.{name}.weight")
        if not name.startswith("crossattention"):  # of a class that is not described
            assert any(fnmatchcase(one, ours) for one in spellings for ours in patterns), pattern


def test_tables_that_every_model_makes_itself_are_no_parameters(tmp_path: Path) -> None:
    """Llama's, Mistral's and Falcon's files of 2023 hold the frequencies of every layer."""
    config = FalconConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        new_decoder_architecture=True,
    )
    FalconForCausalLM(config).save_pretrained(tmp_path)
    with_positions(tmp_path, "transformer.h.0.self_attention.maybe_rotary.rotary_emb.inv_freq")
    assert TrainingState.from_pretrained(tmp_path)


def test_tensors_that_are_no_parameters_are_named_as_left_behind(tmp_path: Path) -> None:
    config = T5Config(
        vocab_size=20, d_model=8, d_kv=4, d_ff=12, num_layers=1, num_decoder_layers=1, num_heads=2
    )
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({**tensors, name: torch.rand(32, 2)}, tmp_path / "model.safetensors", {"format": "pt"})
    state = TrainingState.from_pretrained(tmp_path)
    (left,) = (file for file in state.files if file.fate("native", moments=False)[0] == "left behind")
    assert left.name == f"tensors: {name}"
    assert "no parameters" in left.why


def test_the_lineage_beside_shards_is_no_stranger(tmp_path: Path) -> None:
    """A sharded checkpoint keeps it in a file of its own, which is read and written anew."""
    (tmp_path / "outgrow_lineage.json").write_text("[]")
    (found,) = take_inventory(tmp_path, weights=())
    assert found.fate("torchtitan", moments=True) == ("rewritten", "")
