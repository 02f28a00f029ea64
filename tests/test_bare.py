"""Models without a head: every type's bare class, its names, growth and proof, from live models and from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaModel,
    ViTConfig,
    ViTModel,
)
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

import outgrow
from outgrow.cost.flops import model_cost
from outgrow.data.objectives import objective_of
from outgrow.errors import ArchitectureError, CheckpointError
from outgrow.growth.plan import plan
from outgrow.methods.build import build
from outgrow.models.agreement import check_described
from outgrow.models.architecture import load_architecture, resolve
from outgrow.models.bare import bare_class
from outgrow.models.conversion import conversion
from outgrow.models.files import known
from outgrow.proof import guard, tiny_model
from outgrow.proof.probe import strays
from outgrow.proof.verify import verify
from outgrow.state.growing import grow
from outgrow.state.training_state import TrainingState
from outgrow.store.source import MemorySource

TYPES = [name for name in known() if bare_class(load_architecture(name)) is not None]
GROWN = ["bert", "mpnet", "xlm-roberta", "vit", "t5", "llama", "gpt2", "olmo", "deepseek_v3", "mamba"]
"""Poolers, a tied head that owns the table, two stacks, a norm without a gain, experts, a recurrence."""
LARGER = {"hidden_size": 48, "num_attention_heads": 8, "intermediate_size": 53, "num_hidden_layers": 4}


def bare(model_type: str) -> dict[str, Any]:
    """The config of a type's example, for its class without a head."""
    spec = load_architecture(model_type)
    return tiny_model.example(spec) | {"architectures": [bare_class(spec)]}


@pytest.mark.parametrize("model_type", TYPES)
def test_the_file_of_a_type_describes_its_bare_class_too(model_type: str) -> None:
    config = bare(model_type)
    assert config["architectures"] == [MODEL_MAPPING_NAMES[model_type]]
    model = resolve(config)
    check_described(model, config)
    assert model.spec.class_ == MODEL_MAPPING_NAMES[model_type]
    assert set(model.spec.outputs.values()) <= set(model.axes)
    assert "last_hidden_state" in model.spec.outputs


@pytest.mark.parametrize("model_type", GROWN)
def test_hidden_states_grow_by_the_maps(model_type: str) -> None:
    spec = load_architecture(model_type)
    assert spec.example is not None
    found = guard.grown(bare(model_type), {**spec.example.grow, **spec.example.isometric}, "isometric")
    assert found.promises_function
    assert found.promises_law
    assert found.holds, found


def bert(layers: int = 3) -> BertModel:
    """A small BERT with its pooler, every number random."""
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            hidden_size=24,
            num_attention_heads=4,
            num_hidden_layers=layers,
            intermediate_size=40,
            vocab_size=37,
            max_position_embeddings=20,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def test_a_file_grows_and_transformers_finds_the_same_hidden_states(tmp_path: Path) -> None:
    small = bert()
    small.save_pretrained(tmp_path / "small")
    state = TrainingState.from_pretrained(tmp_path / "small")
    assert state.config["architectures"] == ["BertModel"]
    assert "pooler.dense.weight" in state.source.names("weight")
    grow(state, to=LARGER, width="isometric", depth="identity").save_pretrained(
        tmp_path / "large", format="hub"
    )
    large = AutoModel.from_pretrained(tmp_path / "large").eval()
    assert type(large) is BertModel
    tokens = torch.arange(27).view(3, 9) % 31
    with torch.no_grad():
        before, after = small(input_ids=tokens), large(input_ids=tokens)
    for name in ("last_hidden_state", "pooler_output"):
        old, new = getattr(before, name), getattr(after, name)
        copies = torch.cat([old, old], dim=-1)  # cyclic copies of 24 units on 48
        scale = float((new * copies).sum() / copies.square().sum())
        torch.testing.assert_close(new, scale * copies, rtol=0, atol=2e-5)  # float32, four layers
    report = verify(state, TrainingState.from_pretrained(tmp_path / "large"), steps=1)
    assert report.promised
    assert report.passed, report


@pytest.mark.parametrize("model_type", ["vit", "dinov2"])
def test_an_image_model_without_a_head_is_proved_on_images(model_type: str) -> None:
    torch.manual_seed(0)
    config = {name: value for name, value in bare(model_type).items() if name != "architectures"}
    small = TrainingState.from_model(AutoModel.from_config(AutoConfig.for_model(**config)).eval())
    spec = load_architecture(model_type)
    assert spec.example is not None
    large = grow(
        small, to={**spec.example.grow, **spec.example.isometric}, width="isometric", depth="identity"
    )
    report = verify(small, large, steps=0)
    assert report.promised
    assert report.passed, report


def test_a_wrong_pooler_and_a_stray_unit_are_seen() -> None:
    small = TrainingState.from_model(bert())
    large = grow(small, to=LARGER, width="isometric", depth="identity", noise=0.0)
    for name, unit in (("pooler.dense.bias", 0), ("encoder.layer.3.output.LayerNorm.bias", 47)):
        tensors = {one: large.source.read(one, "weight").clone() for one in large.source.names("weight")}
        tensors[name][unit] += 0.5
        wrong = TrainingState(
            config=large.config, source=MemorySource({"weight": tensors}), lineage=large.lineage
        )
        report = verify(small, wrong, steps=0)
        assert report.function_error > 1e-3
        assert not report.passed


def test_new_units_that_copy_nothing_stray() -> None:
    config = tiny_model.example(load_architecture("llama"))
    to = {"hidden_size": 42, "num_attention_heads": 6, "num_key_value_heads": 3}
    made = plan(build(resolve(bare("llama")), to, width="pad"))
    large = tiny_model.tiny(made.config)  # random, not the grown one
    assert strays(large, made, tiny_model.inputs(large)) > 0.1
    headed = plan(build(resolve(config), to, width="pad"))
    assert strays(large, headed, {}) == 0.0  # a head reads its outputs


def test_a_live_model_grows_with_its_moments() -> None:
    model = bert()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tokens = torch.arange(27).view(3, 9) % 31
    model(input_ids=tokens).pooler_output.square().sum().backward()
    optimizer.step()
    large, new, made = outgrow.grow_model(model, optimizer, to=LARGER, width="isometric", depth="identity")
    assert made.keeps_function
    assert isinstance(large, BertModel)
    assert len(new.state) == len(list(large.parameters()))
    assert large.pooler.dense.weight.shape == (48, 48)


def test_the_pooler_of_an_image_model_keeps_its_size_where_the_config_says_it() -> None:
    config = ViTConfig(
        hidden_size=24,
        num_attention_heads=4,
        num_hidden_layers=1,
        intermediate_size=40,
        image_size=15,
        patch_size=5,
        pooler_output_size=10,
    )
    state = TrainingState.from_model(ViTModel(config))
    large = grow(state, to={"hidden_size": 48, "num_attention_heads": 8}, width="isometric")
    assert large.source.meta("pooler.dense.weight", "weight").shape == (10, 48)


def test_a_bare_model_costs_what_its_matrices_do() -> None:
    """Two FLOPs per weight of a matrix; the pooler sees one place, and there is no head."""
    cost = model_cost(bare("bert"))
    layer = 4 * 24 * 24 + 2 * 24 * 40
    assert (cost.matrix_weights, cost.head_weights, cost.apart) == (3 * layer, 0, 24 * 24)


def test_a_bare_model_becomes_a_bare_mixture() -> None:
    config = LlamaConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, vocab_size=11
    )
    found = conversion({**config.to_dict(), "architectures": ["LlamaModel"]}, "mixtral")
    assert found.config["architectures"] == ["MixtralModel"]
    assert found.large.shape("layers.0.mlp.experts.gate_up_proj") == (1, 24, 8)


def test_a_bare_model_is_not_trained_here() -> None:
    with pytest.raises(ArchitectureError, match=r"BertModel, features.*not trained here"):
        objective_of(bare("bert"))


def test_files_of_another_class_are_refused_with_what_is_wrong(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tiny_model.tiny(tiny_model.example(load_architecture("bert"))).save_pretrained(tmp_path / "headed")
    config = (tmp_path / "headed" / "config.json").read_text()
    (tmp_path / "headed" / "config.json").write_text(config.replace("BertForMaskedLM", "BertModel"))
    with pytest.raises(CheckpointError, match=r"unknown: cls\.predictions.*missing: pooler"):
        TrainingState.from_pretrained(tmp_path / "headed")
    (tmp_path / "headed" / "config.json").write_text(
        config.replace("BertForMaskedLM", "BertForQuestionAnswering")
    )
    with pytest.raises(CheckpointError, match="are not those of the model"):
        TrainingState.from_pretrained(tmp_path / "headed")


def test_a_decoder_without_a_head_is_saved_and_opened(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=37,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaModel(config).save_pretrained(tmp_path / "small")
    state = TrainingState.from_pretrained(tmp_path / "small")
    large = grow(
        state, to={"hidden_size": 42, "num_attention_heads": 7, "num_hidden_layers": 3}, depth="identity"
    )
    assert verify(state, large, steps=0).passed
