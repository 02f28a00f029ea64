"""What is saved is what is read, bit for bit, in every format and from every kind of source."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import (
    MODELS,
    assert_same_tensors,
    files_of,
    tiny_bert,
    tiny_gpt2,
    tiny_llama,
    tiny_mixtral,
    train,
    trained_state,
    two_groups,
)
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, GPT2Model

from outgrow.errors import CheckpointError
from outgrow.models.library import build_model, decay_names, model_names
from outgrow.parallel.ranks import ALONE
from outgrow.state.training_state import TrainingState
from outgrow.store import layouts
from outgrow.store.assets import Asset
from outgrow.store.check import check_finite
from outgrow.store.config_file import load_config
from outgrow.store.contents import OptimizerInfo, ParamGroup
from outgrow.store.source import MemorySource, TensorMeta

save = partial(layouts.save_contents, ranks=ALONE)

STORIES = Path("/work/shared/data/ckpt/stories260K")


@pytest.mark.parametrize("format", ["native", "trainer", "hub"])
@pytest.mark.parametrize("kind", MODELS)
def test_round_trip(kind: str, format: Any, tmp_path: Path) -> None:
    state = trained_state(MODELS[kind]())
    back = TrainingState.from_pretrained(state.save_pretrained(tmp_path / "out", format=format))
    assert_same_tensors(state, back, ("weight",) if format == "hub" else ())
    assert back.config == {**state.config, "transformers_version": back.config["transformers_version"]}
    if format == "hub":
        assert (back.steps, back.optimizer) == ({}, None)
    else:
        assert back.steps == state.steps
        assert set(back.steps.values()) == {2.0}
    if format == "native":
        assert (back.optimizer, back.records) == (state.optimizer, state.records)
    again = back.save_pretrained(tmp_path / "again", format=format)
    if format != "trainer":  # the second time Trainer's own records are carried over
        assert files_of(again) == files_of(tmp_path / "out")


@pytest.mark.parametrize("format", ["native", "hub", "trainer"])
def test_from_pretrained_of_transformers_opens_it(format: Any, tmp_path: Path) -> None:
    for model, auto in (
        (tiny_llama(), AutoModelForCausalLM),
        (tiny_bert(), AutoModelForMaskedLM),
        (tiny_mixtral(), AutoModelForCausalLM),
    ):
        state = trained_state(model)
        save(state, tmp_path / "out", format=format, overwrite=True, shard_bytes=2000)
        assert (tmp_path / "out" / "model.safetensors.index.json").exists()
        loaded, info = auto.from_pretrained(tmp_path / "out", output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        for name, parameter in loaded.named_parameters():
            assert torch.equal(parameter, dict(model.named_parameters())[name]), name


def test_shards_and_blocks_change_no_bit(state: TrainingState, tmp_path: Path) -> None:
    whole = state.save_pretrained(tmp_path / "whole")
    for shard_bytes, block_bytes, workers in ((1500, 64, 1), (700, 1, 3), (10**9, 100, 2)):
        parts = save(
            state,
            tmp_path / "parts",
            overwrite=True,
            shard_bytes=shard_bytes,
            block_bytes=block_bytes,
            workers=workers,
        )
        assert_same_tensors(state, TrainingState.from_pretrained(parts))
        tensors = {k: v for path in parts.glob("model*.safetensors") for k, v in load_file(path).items()}
        expected = load_file(whole / "model.safetensors")
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert (parts / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_the_official_reader_opens_every_dtype(tmp_path: Path) -> None:
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        state = TrainingState.from_model(tiny_gpt2().to(dtype))
        out = state.save_pretrained(tmp_path / str(dtype), format="hub")
        with safe_open(out / "model.safetensors", framework="pt") as file:
            assert set(file.keys()) == set(state.source.names("weight"))
            assert torch.equal(
                file.get_tensor("transformer.wpe.weight"),
                state.source.read("transformer.wpe.weight", "weight"),
            )
        assert TrainingState.from_pretrained(out).config["dtype"] == str(dtype).removeprefix("torch.")


def test_mixed_dtypes_stay_aligned(state: TrainingState, tmp_path: Path) -> None:
    tensors = {
        slot: {n: state.source.read(n, slot) for n in state.source.names(slot)}
        for slot in ("weight", "exp_avg", "exp_avg_sq")
    }
    tensors["exp_avg"] = {name: value.bfloat16() for name, value in tensors["exp_avg"].items()}
    mixed = replace(state, source=MemorySource(tensors))
    assert_same_tensors(mixed, TrainingState.from_pretrained(mixed.save_pretrained(tmp_path / "out")))


def test_sharded_hub_folder_with_hub_names(tmp_path: Path) -> None:
    model = tiny_gpt2()
    model.save_pretrained(tmp_path / "saved", max_shard_size="3KB")
    state = TrainingState.from_pretrained(tmp_path / "saved")
    assert_same_tensors(TrainingState.from_model(model), state)
    tensors = {
        name.removeprefix("transformer."): value.detach().clone() for name, value in model.named_parameters()
    }
    tensors["h.0.attn.bias"] = torch.ones(14, 14)  # a mask of old files
    (tmp_path / "hub").mkdir()
    save_file(tensors, tmp_path / "hub" / "weights.safetensors")
    model.config.architectures = ["GPT2LMHeadModel"]
    model.config.save_pretrained(tmp_path / "hub")
    assert_same_tensors(state, TrainingState.from_pretrained(tmp_path / "hub"))


def test_base_model_and_prefix(tmp_path: Path) -> None:
    model = GPT2Model(tiny_gpt2().config)
    model.save_pretrained(tmp_path / "base")
    state = TrainingState.from_pretrained(tmp_path / "base")
    assert "h.0.ln_1.weight" in state.source.names("weight")
    tensors = {f"transformer.{name}": value.detach().clone() for name, value in model.named_parameters()}
    shutil.copytree(tmp_path / "base", tmp_path / "prefixed")
    save_file(tensors, tmp_path / "prefixed" / "model.safetensors")
    assert_same_tensors(state, TrainingState.from_pretrained(tmp_path / "prefixed"))


def test_old_bert_names_and_tied_copies(tmp_path: Path) -> None:
    model = tiny_bert()
    model.save_pretrained(tmp_path / "bert")
    tensors = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): p.detach().clone()
        for n, p in model.named_parameters(remove_duplicate=False)
    }
    assert "cls.predictions.decoder.weight" in tensors
    tensors["cls.seq_relationship.weight"] = torch.ones(2, 12)
    save_file(tensors, tmp_path / "bert" / "model.safetensors")
    state = TrainingState.from_pretrained(tmp_path / "bert")
    assert_same_tensors(TrainingState.from_model(model), state)
    del tensors["bert.embeddings.word_embeddings.weight"]  # only the tied copy is there
    shutil.copytree(tmp_path / "bert", tmp_path / "tied")
    save_file(tensors, tmp_path / "tied" / "model.safetensors")
    assert_same_tensors(state, TrainingState.from_pretrained(tmp_path / "tied"))
    tensors["bert.embeddings.word_embeddings.weight"] = torch.zeros(19, 12)
    save_file(tensors, tmp_path / "bert" / "model.safetensors")
    with pytest.raises(CheckpointError, match="differ, though the model ties them"):
        TrainingState.from_pretrained(tmp_path / "bert")


def test_reading_rows(state: TrainingState, tmp_path: Path) -> None:
    source = TrainingState.from_pretrained(state.save_pretrained(tmp_path / "out")).source
    name = "model.layers.1.mlp.up_proj.weight"
    whole = state.source.read(name, "exp_avg_sq")
    assert source.meta(name, "exp_avg_sq") == TensorMeta((20, 12), torch.float32)
    for rows in (
        slice(3, 7),
        slice(None),
        slice(5, 5),
        slice(-4, None),
        slice(0, 20, 3),
        slice(18, 99),
        torch.tensor([5, 0, 5, 19]),
    ):
        assert torch.equal(source.read(name, "exp_avg_sq", rows), whole[rows]), rows


def test_unaligned_files_are_read(tmp_path: Path) -> None:
    out = TrainingState.from_model(tiny_gpt2()).save_pretrained(tmp_path / "out", format="hub")
    raw = (out / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    (out / "model.safetensors").write_bytes(
        (length + 1).to_bytes(8, "little") + raw[8 : 8 + length] + b" " + raw[8 + length :]
    )
    assert_same_tensors(TrainingState.from_model(tiny_gpt2()), TrainingState.from_pretrained(out))


def test_load_into_continues_the_same_training(tmp_path: Path) -> None:
    model = tiny_llama()
    optimizer = torch.optim.AdamW(two_groups(model), lr=1e-2, fused=True)
    train(model, optimizer, 3)
    saved = TrainingState.from_model(model, optimizer).save_pretrained(tmp_path / "out")
    state = TrainingState.from_pretrained(saved)
    other = build_model(state.config)
    resumed = torch.optim.AdamW(two_groups(other), lr=1e-2, fused=True)
    state.load_into(other, resumed)
    train(model, optimizer, 2, seed=7)
    train(other, resumed, 2, seed=7)
    assert_same_tensors(TrainingState.from_model(model, optimizer), TrainingState.from_model(other, resumed))


def test_load_into_is_strict(state: TrainingState) -> None:
    wider = tiny_llama(intermediate_size=24)
    before = {name: value.detach().clone() for name, value in wider.named_parameters()}
    with pytest.raises(CheckpointError, match="has another shape"):
        state.load_into(wider)
    assert all(torch.equal(value, before[name]) for name, value in wider.named_parameters())
    with pytest.raises(CheckpointError, match="not the model's parameters"):
        state.load_into(tiny_llama(num_hidden_layers=3))
    model = tiny_llama()
    with pytest.raises(CheckpointError, match="not the model's"):
        state.load_into(model, torch.optim.AdamW(tiny_llama().parameters()))
    with pytest.raises(CheckpointError, match="Adam"):
        state.load_into(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_parameters_without_gradient_start_from_zero() -> None:
    model = tiny_llama()
    optimizer = torch.optim.AdamW(model.parameters())
    fresh = TrainingState.from_model(model, optimizer)
    assert fresh.steps == {}
    assert fresh.optimizer is not None
    assert fresh.source.names("exp_avg") == ()
    model.model.norm.weight.grad = torch.ones(12)
    optimizer.step()
    state = TrainingState.from_model(model, optimizer)
    assert state.steps["model.norm.weight"] == 1
    assert state.steps["model.embed_tokens.weight"] == 0
    assert not state.source.read("model.embed_tokens.weight", "exp_avg").any()


def test_an_optimizer_without_steps_survives(tmp_path: Path) -> None:
    model = tiny_llama()
    state = TrainingState.from_model(model, torch.optim.AdamW(two_groups(model)))
    assert state.optimizer is not None
    for format in ("native", "trainer"):
        if (
            format == "trainer"
        ):  # Trainer decays by name, this optimizer by the number of dimensions: here the same
            assert set(state.optimizer.groups[0].names) == set(decay_names(model))
        back = TrainingState.from_pretrained(state.save_pretrained(tmp_path / format, format=format))  # type: ignore[arg-type]
        assert back.steps == {}
        assert back.optimizer is not None
        assert back.optimizer.groups[0].options["weight_decay"] == 0.1


def test_records_lineage_and_assets(state: TrainingState, tmp_path: Path) -> None:
    asset = tmp_path / "tokenizer.json"
    asset.write_text("{}")
    records = {"schedule": {"a": [1, 2.5, None]}, "data": {"state": b"\x00\xff"}, "rng": {"seed": 3}}
    rich = replace(
        state,
        records=records,
        lineage=({"operator": "pad"}, {"operator": "stack"}),
        assets=(Asset.of(asset),),
    )
    for format in ("native", "trainer", "hub"):
        back = TrainingState.from_pretrained(rich.save_pretrained(tmp_path / format, format=format))  # type: ignore[arg-type]
        assert back.lineage == rich.lineage
        assert [path.name for path in back.assets] == ["tokenizer.json"]
        if format == "native":
            assert back.records == records
    for name in ("config", "../evil", "Data"):
        with pytest.raises(CheckpointError, match="name of a record"):
            replace(state, records={name: {}}).save_pretrained(tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_same_contents_are_read_once(state: TrainingState, tmp_path: Path) -> None:
    class Counting(MemorySource):
        reads = 0

        def groups(self, slot: str) -> tuple[tuple[str, ...], ...]:
            names = self.names(slot)
            pairs = [(n, n.replace("layers.0", "layers.1")) for n in names if "layers.0" in n]
            return (*pairs, *((n,) for n in names if "layers" not in n))

        def read(self, name: str, slot: str, rows: Any = None) -> torch.Tensor:
            Counting.reads += 1
            assert "layers.1" not in name
            return super().read(name, slot, rows)

    weights = {name: state.source.read(name, "weight") for name in state.source.names("weight")}
    source = Counting({"weight": weights})
    out = save(replace(state, source=source, steps={}, optimizer=None), tmp_path / "out", block_bytes=200)
    back = TrainingState.from_pretrained(out)
    for name in weights:
        assert torch.equal(back.source.read(name, "weight"), weights[name.replace("layers.1", "layers.0")])
    assert Counting.reads > len(weights) / 2


def test_progress_reaches_the_total(state: TrainingState, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    state.save_pretrained(tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] == 3 * sum(p.numel() * 4 for p in tiny_llama().parameters())


def test_incomplete_states_are_not_written(state: TrainingState, tmp_path: Path) -> None:
    assert state.optimizer is not None
    lacking = {n: state.source.read(n, "weight") for n in state.source.names("weight")[1:]}
    for wrong, message in (
        (replace(state, source=MemorySource({"weight": lacking})), "are not those of the model"),
        (replace(state, steps={}), "number of steps"),
        (replace(state, optimizer=None), "does not say of which optimizer"),
        (
            replace(state, optimizer=OptimizerInfo("AdamW", state.optimizer.groups[:1])),
            "tensors are not those",
        ),
        (replace(state, optimizer=OptimizerInfo("AdamW", state.optimizer.groups * 2)), "groups are not"),
        (replace(state, config={**state.config, "hidden_size": 16}), "wrong shape"),
        (replace(state, config={**state.config, "architectures": ["pipeline"]}), "unknown model class"),
    ):
        with pytest.raises(CheckpointError, match=message):
            wrong.save_pretrained(tmp_path / "out")
        assert list(tmp_path.iterdir()) == []


def test_optimizers_that_trainer_cannot_express(state: TrainingState, tmp_path: Path) -> None:
    assert state.optimizer is not None
    names = state.source.names("weight")
    thirds = tuple(ParamGroup(names[i::3], {"lr": 0.1 * i, "betas": [0.9, 0.99]}) for i in range(3))
    odd = replace(state, optimizer=OptimizerInfo("AdamW", thirds))
    with pytest.raises(CheckpointError, match="cannot be written as a Trainer checkpoint"):
        odd.save_pretrained(tmp_path / "out", format="trainer")
    assert TrainingState.from_pretrained(odd.save_pretrained(tmp_path / "native")).optimizer == odd.optimizer
    with pytest.raises(CheckpointError, match="no optimizer"):
        replace(TrainingState.from_model(tiny_llama())).save_pretrained(tmp_path / "out", format="trainer")


def test_manifest(state: TrainingState, tmp_path: Path) -> None:
    out = save(state, tmp_path / "out", shard_bytes=2000)
    manifest = json.loads((out / "outgrow.json").read_text())
    assert set(manifest["files"]) | {"outgrow.json"} == {path.name for path in out.iterdir()}
    assert manifest["step"] == 2
    assert manifest["libraries"]["torch"] == version("torch")


@pytest.mark.skipif(not STORIES.is_dir(), reason="the shared data is not there")
def test_a_model_that_nobody_here_trained(tmp_path: Path) -> None:
    state = TrainingState.from_pretrained(STORIES)
    assert model_names(load_config(STORIES)).shapes == {
        n: state.source.meta(n, "weight").shape for n in state.source.names("weight")
    }
    check_finite(state.source)
    back = TrainingState.from_pretrained(state.save_pretrained(tmp_path / "out"))
    assert_same_tensors(state, back)
    assert {path.name for path in back.assets} == {
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    original = AutoModelForCausalLM.from_pretrained(STORIES)
    tokens = torch.arange(3, 40)[None]
    assert torch.equal(model(tokens).logits, original(tokens).logits)
