"""Experts: published files hold every expert's matrices apart, the model in memory holds them in one tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TOKENS, assert_same_tensors, tiny_mixtral, trained_state
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

import outgrow
from outgrow.errors import ArchitectureError, CheckpointError, GrowthError
from outgrow.models.library import build_model
from outgrow.proof.verify import verify
from outgrow.state.training_state import TrainingState
from outgrow.store.source import TensorMeta

GATE_UP = "model.layers.1.mlp.experts.gate_up_proj"
FIRST = "model.layers.1.block_sparse_moe.experts.0.w1.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As transformers saves it, in shards."""
    tiny_mixtral().save_pretrained(tmp_path / "saved", max_shard_size="5KB")
    return tmp_path / "saved"


def on_disk(folder: Path) -> dict[str, Tensor]:
    return {name: one for path in folder.glob("*.safetensors") for name, one in load_file(path).items()}


def resaved(folder: Path, tensors: dict[str, Tensor]) -> Path:
    for path in folder.glob("model*"):
        path.unlink()
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_parts_are_read_as_one_tensor(folder: Path) -> None:
    assert FIRST in on_disk(folder), "transformers saves experts apart"
    state, whole = TrainingState.from_pretrained(folder), TrainingState.from_model(tiny_mixtral())
    assert_same_tensors(whole, state)
    assert state.source.meta(GATE_UP, "weight") == TensorMeta((4, 40, 12), torch.float32)
    expected = whole.source.read(GATE_UP, "weight")
    for rows in (None, slice(1, 3), slice(2, 2), slice(-1, None), slice(0, 4, 3), torch.tensor([3, 0, 3])):
        found = state.source.read(GATE_UP, "weight", rows)
        assert torch.equal(found, expected if rows is None else expected[rows]), rows


def test_qwens_parts_have_other_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 19, "hidden_size": 12, "moe_intermediate_size": 20, "num_hidden_layers": 1}
    experts = {"num_attention_heads": 3, "num_key_value_heads": 1, "num_experts": 4, "num_experts_per_tok": 2}
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, **experts, head_dim=4, **TOKENS))
    model.save_pretrained(tmp_path / "saved")
    assert "model.layers.0.mlp.experts.3.up_proj.weight" in on_disk(tmp_path / "saved")
    state = TrainingState.from_pretrained(tmp_path / "saved")
    assert_same_tensors(TrainingState.from_model(model), state)


def test_what_is_written_is_what_transformers_opens(folder: Path, tmp_path: Path) -> None:
    grown = outgrow.grow(
        TrainingState.from_pretrained(folder),
        to={"hidden_size": 17, "intermediate_size": 23, "num_attention_heads": 6, "num_hidden_layers": 3},
        width="isometric",
        depth="identity",
    )
    large, info = AutoModelForCausalLM.from_pretrained(
        grown.save_pretrained(tmp_path / "large", format="hub"),
        output_loading_info=True,
        experts_implementation="eager",  # torch's grouped product wants rows of 16 bytes
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokens = torch.arange(3, 19).view(2, 8)
    with torch.no_grad():
        before, after = (model(input_ids=tokens).logits for model in (tiny_mixtral().eval(), large.eval()))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)  # float32
    assert grown.config["num_local_experts"] == 4


def test_the_proof_runs_in_float64(folder: Path) -> None:
    small = trained_state(tiny_mixtral())
    grown = outgrow.grow(
        small, to={"hidden_size": 24, "num_hidden_layers": 3}, width="isometric", depth="identity"
    )
    tokens = torch.arange(3, 19).view(2, 8)
    report = verify(small, grown, [{"input_ids": tokens, "labels": tokens}], steps=2)
    assert report.promised
    assert report.passed


@pytest.mark.parametrize("sizes", [(12, 20), (18, 21), (24, 40)])
def test_a_model_of_any_width_can_be_trained(sizes: tuple[int, int]) -> None:
    hidden, inner = sizes
    config = tiny_mixtral().config.to_dict() | {"architectures": ["MixtralForCausalLM"], "head_dim": 4}
    model = build_model({**config, "hidden_size": hidden, "intermediate_size": inner})
    tokens = torch.arange(3, 19).view(2, 8)
    model(input_ids=tokens, labels=tokens).loss.backward()
    assert all(bool(one.grad.any()) for one in model.parameters())


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ({"num_local_experts": 8}, "copies need top-4"),
        ({"num_experts_per_tok": 8}, "cannot choose 8 of 4 experts"),
    ],
)
def test_experts_that_no_router_can_keep_are_refused(folder: Path, to: dict[str, int], says: str) -> None:
    with pytest.raises((ArchitectureError, GrowthError), match=says):
        outgrow.grow(TrainingState.from_pretrained(folder), to=to)


def test_parts_that_make_no_whole(folder: Path) -> None:
    tensors = on_disk(folder)
    without = {name: one for name, one in tensors.items() if name != FIRST}
    with pytest.raises(CheckpointError, match=r"gate_up_proj in .* lacks parts"):
        TrainingState.from_pretrained(resaved(folder, without))
    with pytest.raises(CheckpointError, match="wrong shape or dtype"):
        TrainingState.from_pretrained(resaved(folder, {**tensors, FIRST: torch.zeros(20, 11)}))
    with pytest.raises(CheckpointError, match="wrong shape or dtype"):
        TrainingState.from_pretrained(resaved(folder, {**tensors, FIRST: tensors[FIRST].bfloat16()}))
    with pytest.raises(CheckpointError, match="and in parts"):
        TrainingState.from_pretrained(resaved(folder, {**tensors, GATE_UP: torch.zeros(4, 40, 12)}))
    again = FIRST.replace("block_sparse_moe", "mlp")
    with pytest.raises(CheckpointError, match="twice"):
        TrainingState.from_pretrained(resaved(folder, {**tensors, again: tensors[FIRST].clone()}))
    fifth = FIRST.replace("experts.0", "experts.4")
    with pytest.raises(CheckpointError, match=r"unknown: .*experts\.4\.w1"):
        TrainingState.from_pretrained(resaved(folder, {**tensors, fifth: tensors[FIRST].clone()}))


@pytest.mark.parametrize(("to", "kept"), [({"num_hidden_layers": 4}, False), ({"hidden_size": 24}, True)])
def test_a_balancing_loss_over_all_layers_has_no_gradient_law(to: dict[str, int], kept: bool) -> None:
    """The function, the logits, is kept; the routers' loss beside it is a mean over old and new layers."""
    model = tiny_mixtral()
    model.config.output_router_logits, model.config.router_aux_loss_coef = True, 0.5
    small = TrainingState.from_model(model)
    large = outgrow.grow(small, to=to, width="isometric", depth="identity", noise=0.0)
    tokens = torch.randint(3, 11, (2, 9), generator=torch.Generator().manual_seed(0))
    report = verify(small, large, [{"input_ids": tokens, "labels": tokens}], steps=1)
    assert report.promised
    assert report.gradient_promised == kept
    assert report.passed
