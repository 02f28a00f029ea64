"""Sharded checkpoints of other trainers and of our own: written, read by rows, grown from, and never run as a pickle."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from tiny_models import tiny_gpt2, tiny_llama, trained_state
from torch import Tensor

import outgrow
from outgrow.errors import CheckpointError
from outgrow.state.training_state import TrainingState
from outgrow.store.dcp import view
from outgrow.store.dcp.folder import DcpFolder
from outgrow.store.dcp.metadata import read_metadata

FORMATS = ("dcp", "accelerate", "torchtitan", "olmo-core")
LARGER = {"hidden_size": 18, "num_attention_heads": 6, "num_key_value_heads": 3, "num_hidden_layers": 3}
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed:UserWarning", "ignore:TypedStorage")


def assert_same_tensors(
    first: TrainingState, second: TrainingState, slots: tuple[str, ...] = ("weight", "exp_avg", "exp_avg_sq")
) -> None:
    """Equal names and bits in every slot, and in some rows of each tensor read alone."""
    for slot in slots:
        assert set(first.source.names(slot)) == set(second.source.names(slot)) != set(), slot
        for name in first.source.names(slot):
            one, other = first.source.read(name, slot), second.source.read(name, slot)
            assert torch.equal(one, other), (slot, name)
            assert torch.equal(one[1:3], second.source.read(name, slot, slice(1, 3))), (slot, name)
            rows = torch.tensor([len(one) - 1, 0])
            assert torch.equal(one[rows], second.source.read(name, slot, rows)), (slot, name)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("format", FORMATS)
def test_a_state_comes_back_from_every_trainer_and_grows(
    format: Any, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "CHUNK_BYTES", 600)  # every tensor in many chunks
    state = trained_state(tiny_llama(tied=tied))
    state.save_pretrained(tmp_path / "small", format=format)
    back = TrainingState.from_pretrained(tmp_path / "small")
    assert_same_tensors(state, back)
    assert back.steps == state.steps
    assert back.optimizer is not None
    assert [set(group.names) for group in back.optimizer.groups] == [
        set(g.names) for g in state.optimizer.groups
    ]  # type: ignore[union-attr]
    assert [group.options["weight_decay"] for group in back.optimizer.groups] == [0.1, 0.0]
    grown = outgrow.grow(back, to=LARGER, width="isometric", seed=3)
    assert_same_tensors(outgrow.grow(state, to=LARGER, width="isometric", seed=3), grown)
    grown.save_pretrained(tmp_path / "large", format=format)
    again = TrainingState.from_pretrained(tmp_path / "large")
    assert_same_tensors(grown, again)
    assert [entry["growth"] for entry in again.lineage] == [entry["growth"] for entry in grown.lineage]


def test_our_own_keeps_records_and_lineage(tmp_path: Path, state: TrainingState) -> None:
    grown = outgrow.grow(state, to={"num_hidden_layers": 3})
    grown.save_pretrained(tmp_path / "s", format="dcp")
    back = TrainingState.from_pretrained(tmp_path / "s")
    assert (back.records, back.config) == (grown.records, grown.config)


def test_a_model_that_no_table_names(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not know how torchtitan names a gpt2"):
        trained_state(tiny_gpt2()).save_pretrained(tmp_path / "s", format="torchtitan")
    assert not (tmp_path / "s").exists()
    trained_state(tiny_gpt2()).save_pretrained(tmp_path / "s", format="accelerate")
    assert_same_tensors(trained_state(tiny_gpt2()), TrainingState.from_pretrained(tmp_path / "s"))


# ---- what others write ----------------------------------------------------------------------------------------------


def nested(state: TrainingState, key: Callable[[str], str] = lambda name: name) -> dict[str, Any]:
    """The state as a plain loop saves it: {"model": ..., "optimizer": {"state": ..., "param_groups": ...}}."""
    assert state.optimizer is not None
    moments = {
        key(name): {slot: state.source.read(name, slot) for slot in ("exp_avg", "exp_avg_sq")}
        | {"step": torch.tensor(state.steps[name])}
        for name in state.source.names("weight")
    }
    groups = [
        {**group.options, "params": [key(name) for name in group.names]} for group in state.optimizer.groups
    ]
    weights = {key(name): state.source.read(name, "weight") for name in state.source.names("weight")}
    return {"model": weights, "optimizer": {"state": moments, "param_groups": groups}}


def test_a_plain_loop_that_saves_one_folder(tmp_path: Path, state: TrainingState) -> None:
    dcp.save(nested(state), checkpoint_id=tmp_path / "ckpt" / "step5", no_dist=True)
    with pytest.raises(CheckpointError, match=r"put the model's config.json"):
        TrainingState.from_pretrained(tmp_path / "ckpt" / "step5")
    state.save_pretrained(tmp_path / "hub", format="hub")
    shutil.copyfile(tmp_path / "hub" / "config.json", tmp_path / "ckpt" / "config.json")
    back = TrainingState.from_pretrained(tmp_path / "ckpt" / "step5")
    assert_same_tensors(state, back)
    assert back.steps == state.steps


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_plain_loop_that_saves_what_a_wrapper_names(
    tmp_path: Path, state: TrainingState, prefix: str
) -> None:
    """Moments come along, also under `app` and as `optim`, as in PyTorch's tutorial; a counter is no weight."""
    found = nested(state, lambda name: prefix + name)
    state.save_pretrained(tmp_path / "hub", format="hub")
    app = {"app": {"model": found["model"], "optim": found["optimizer"]}, "step": torch.tensor(5)}
    dcp.save(app, checkpoint_id=tmp_path / "ckpt", no_dist=True)
    shutil.copyfile(tmp_path / "hub" / "config.json", tmp_path / "ckpt" / "config.json")
    back = TrainingState.from_pretrained(tmp_path / "ckpt")
    assert_same_tensors(state, back)
    assert back.steps == state.steps


def test_an_optimizer_with_numbers_for_names_leaves_the_weights(tmp_path: Path, state: TrainingState) -> None:
    found = nested(state)
    numbers = {name: number for number, name in enumerate(found["model"])}
    moments = {numbers[name]: entry for name, entry in found["optimizer"]["state"].items()}
    groups = [
        {**each, "params": [numbers[name] for name in each["params"]]}
        for each in found["optimizer"]["param_groups"]
    ]
    state.save_pretrained(tmp_path / "ckpt", format="hub")
    (tmp_path / "ckpt" / "model.safetensors").unlink()
    saved = {"model": found["model"], "optimizer": {"state": moments, "param_groups": groups}}
    dcp.save(saved, checkpoint_id=tmp_path / "ckpt", no_dist=True)
    back = TrainingState.from_pretrained(tmp_path / "ckpt")
    assert back.optimizer is None
    assert [(one.part, "numbers and no names" in one.why) for one in back.unread] == [("moments", True)]


def test_fsdp_whole_state_dicts(tmp_path: Path, state: TrainingState) -> None:
    state.save_pretrained(tmp_path / "hub", format="hub")
    content = nested(state)
    torch.save(content["model"], tmp_path / "hub" / "pytorch_model_fsdp.bin")
    torch.save(content["optimizer"], tmp_path / "hub" / "optimizer.bin")
    back = TrainingState.from_pretrained(tmp_path / "hub")
    assert_same_tensors(state, back)
    assert back.steps == state.steps


def test_torchtitan_keeps_rotary_pairs_as_neighbours(tmp_path: Path) -> None:
    state = trained_state(tiny_llama(tied=False))
    state.save_pretrained(tmp_path / "step-2", format="torchtitan")
    folder = DcpFolder.open(tmp_path / "step-2")
    query = state.source.read("model.layers.1.self_attn.q_proj.weight", "weight")
    # torchtitan's own formula, of halves to pairs: models/llama3/state_dict_adapter.py
    paired = query.view(4, 2, 3, 12).transpose(1, 2).reshape(24, 12)
    assert torch.equal(folder.read("layers.1.attention.qkv_linear.wq.weight"), paired)
    assert folder.value("train_state.step") == 2
    assert folder.value("optimizer.param_groups.norm.weight.betas") == (0.8, 0.9)


def megatron(state: TrainingState, padded: int) -> dict[str, Tensor]:
    """Megatron-core's layout by its own formulas: layers stacked, query, key and value of a group fused, vocabulary padded."""
    read = lambda name: state.source.read(name, "weight")  # noqa: E731

    def stacked(tail: str) -> Tensor:
        return torch.stack([read(f"model.layers.{layer}.{tail}.weight") for layer in range(2)])

    q, k, v = (stacked(f"self_attn.{one}_proj") for one in "qkv")
    qkv = torch.cat([q.view(2, 2, 12, 12), k.view(2, 2, 6, 12), v.view(2, 2, 6, 12)], 2).reshape(2, 48, 12)
    table = torch.cat([read("model.embed_tokens.weight"), torch.zeros(padded, 12)])
    attention, mlp = "decoder.layers.self_attention", "decoder.layers.mlp"
    return {
        "embedding.word_embeddings.weight": table,
        f"{attention}.linear_qkv.layer_norm_weight": stacked("input_layernorm"),
        f"{attention}.linear_qkv.weight": qkv,
        f"{attention}.linear_proj.weight": stacked("self_attn.o_proj"),
        f"{mlp}.linear_fc1.layer_norm_weight": stacked("post_attention_layernorm"),
        f"{mlp}.linear_fc1.weight": torch.cat([stacked("mlp.gate_proj"), stacked("mlp.up_proj")], 1),
        f"{mlp}.linear_fc2.weight": stacked("mlp.down_proj"),
        "decoder.final_layernorm.weight": read("model.norm.weight"),
        "output_layer.weight": torch.cat([read("lm_head.weight"), torch.zeros(padded, 12)]),
    }


def test_megatron_weights_and_their_masters(tmp_path: Path) -> None:
    state = trained_state(tiny_llama(tied=False))
    tensors = megatron(state, padded=13)
    rounded = {key: value.bfloat16() for key, value in tensors.items()}
    masters = {f"optimizer.state.fp32_param.{key}": value for key, value in tensors.items()}
    dcp.save({**rounded, **masters}, checkpoint_id=tmp_path / "iter_2", no_dist=True)
    state.save_pretrained(tmp_path / "hub", format="hub")
    shutil.copyfile(tmp_path / "hub" / "config.json", tmp_path / "iter_2" / "config.json")
    back = TrainingState.from_pretrained(tmp_path / "iter_2")
    assert_same_tensors(state, back, ("weight",))
    assert back.optimizer is None


# ---- strangers' files -----------------------------------------------------------------------------------------------


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harm",)


def change(path: Path, edit: Callable[[Any], Any]) -> None:
    content = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(edit(content) or content))


def _outside(content: Any) -> None:
    for info in content.storage_data.values():
        info.relative_path = "../" + info.relative_path


def _compressed(content: Any) -> None:
    for info in content.storage_data.values():
        info.transform_descriptors = ["zstd"]


def _lost_rank(content: Any) -> None:
    for entry in content.state_dict_metadata.values():
        if len(getattr(entry, "chunks", ())) > 1:
            entry.chunks.pop()


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "unfinished": (lambda p: (p / ".metadata").unlink(), "no .metadata|unfinished|has no"),
    "no pickle": (lambda p: (p / ".metadata").write_bytes(b"hello"), "does not describe a DCP"),
    "another object": (lambda p: change(p / ".metadata", lambda _: Harm()), "does not describe a DCP"),
    "file gone": (lambda p: (p / "__0_0.distcp").unlink(), "missing"),
    "file cut": (lambda p: os.truncate(p / "__0_0.distcp", 900), "truncated"),
    "file outside": (lambda p: change(p / ".metadata", _outside), "outside its folder"),
    "compressed": (lambda p: change(p / ".metadata", _compressed), "compressed"),
    "a rank's part gone": (lambda p: change(p / ".metadata", _lost_rank), "not whole"),
    "zeros": (
        lambda p: (p / "__0_0.distcp").write_bytes(bytes(200_000)),
        "at byte 0, (cannot be read|is a pickle)",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_damage_is_one_clear_error(
    fault: str, tmp_path: Path, state: TrainingState, monkeypatch: Any
) -> None:
    monkeypatch.setattr(view, "CHUNK_BYTES", 500)
    monkeypatch.chdir(tmp_path)
    state.save_pretrained(tmp_path / "s", format="torchtitan")
    damage, message = BAD[fault]
    damage(tmp_path / "s")
    with pytest.raises(CheckpointError, match=message):
        TrainingState.from_pretrained(tmp_path / "s")
    assert not (tmp_path / "harm").exists()


def test_nothing_that_metadata_names_is_run(tmp_path: Path, state: TrainingState, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    state.save_pretrained(tmp_path / "s", format="accelerate")
    path = tmp_path / "s" / "pytorch_model_fsdp_0" / ".metadata"
    change(path, lambda content: setattr(content, "planner_data", Harm()))
    assert read_metadata(path.parent)
    assert_same_tensors(state, TrainingState.from_pretrained(tmp_path / "s"))
    assert not (tmp_path / "harm").exists()
    pickle.loads(path.read_bytes())  # what torch does
    assert (tmp_path / "harm").exists()


def test_checkpoints_that_are_refused_with_a_reason(tmp_path: Path, state: TrainingState) -> None:
    state.save_pretrained(tmp_path / "run" / "step-2", format="torchtitan")
    with pytest.raises(CheckpointError, match=r"(?s)several checkpoints.*step-2"):
        TrainingState.from_pretrained(tmp_path / "run")
    (tmp_path / "nano" / "model").mkdir(parents=True)
    (tmp_path / "nano" / "checkpoint_metadata.json").write_text("{}")
    with pytest.raises(CheckpointError, match="nanotron"):
        TrainingState.from_pretrained(tmp_path / "nano")
