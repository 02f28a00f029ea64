"""Layers cut inside: the same run on one rank, on slices and on slices of shards; growth into slices; what is refused.

`tensor_worker.py` does the work in forks, once for all tests of this file.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from distributed.tensor_types import GRADIENT, LOSS
from distributed.tensor_worker import LARGE, MESHES, SMALL, STEPS, sliced
from outgrow.errors import ConfigError
from outgrow.models.library import config_dict, config_object, tensor_plan
from outgrow.parallel import tensor
from outgrow.parallel.mesh import DataPart, MeshSizes
from outgrow.parallel.sharding import total_norm
from outgrow.parallel.tensor import check_tensor, slice_numbers
from outgrow.run.run_file import parse_run
from outgrow.training.dry import dry_run
from outgrow.training.preflight import check_ranks
from train.tiny_corpus import write_corpus

ROUNDING = 1e-5
"""Of losses near 5 over six steps. A unit in the last place is 5e-7; sums over slices have another order in every layer."""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the worker says, by fact."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("tensor_worker.py"), tmp_path_factory.mktemp("tensor")],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "returned a view" not in done.stderr
    assert "suboptimal" not in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["fact"]: line["value"] for line in lines}


@pytest.mark.parametrize("other", ["tensor and shard", "moved"])
def test_losses_and_norms_are_those_of_one_rank(facts: dict[str, Any], other: str) -> None:
    for what in ("losses", "norms"):
        alone, cut = facts[f"{what} alone"], facts[f"{what} {other}"]
        assert cut == pytest.approx(alone, abs=ROUNDING, rel=0)
    assert len(facts["norms alone"]) == 2 * STEPS
    assert len(facts["ranks moved"]) == 3  # slices, shards, slices: each went on where another one was killed


@pytest.mark.parametrize("mesh", MESHES)
def test_growth_into_slices_has_the_bits_of_one_process(facts: dict[str, Any], mesh: str) -> None:
    assert facts[f"grown {mesh}"] == []


def test_what_slices_hold_whole_stays_the_same_on_all(facts: dict[str, Any]) -> None:
    assert facts["copies that differ"] == []
    assert {name.split(".", 3)[-1] if ".layers." in name else name for name in facts["copies"]} == {
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        "self_attn.q_norm.weight",
        "self_attn.k_norm.weight",
        "self_attn.o_proj.bias",
        "model.norm.weight",
        "model.embed_tokens.weight",
    }


@pytest.mark.parametrize("what", ["tied in two ways", "a vocabulary that slices cannot share"])
def test_embedding_and_head_may_stay_whole(facts: dict[str, Any], what: str) -> None:
    for loss, norm, gradient in facts[f"off {what}"]:
        assert abs(loss) <= LOSS
        assert abs(norm) <= GRADIENT
        assert gradient <= GRADIENT


def test_muon_on_slices_of_shards(facts: dict[str, Any]) -> None:
    """Its bits are held on whole matrices (test_ranks.py); here gradients are sums in another order, rounded to bf16 by Newton-Schulz."""
    alone, cut = facts["muon alone"], facts["muon tensor and shard"]
    assert cut == pytest.approx(alone, abs=ROUNDING, rel=0)
    assert len(alone) == 6


# ---- what is refused, before any work ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 3, "num_key_value_heads": 3}, r"q_proj.weight evenly .*3 kv_heads"),
        ({"intermediate_size": 21}, r"gate_proj.weight evenly .*21 mlp"),
        ({"attention_dropout": 0.1}, r"dropout .*attention_dropout 0.1"),
        (
            {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
            r"no plan .*bert.* parallel.shard",
        ),
        (
            {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]},
            r"more than is built here .*experts: moe_tp_experts",
        ),
    ],
)
def test_a_model_that_slices_cannot_hold(change: dict[str, Any], message: str) -> None:
    said = {**SMALL, "vocab_size": 300, "pad_token_id": 0, "architectures": ["Qwen3ForCausalLM"], **change}
    config = {**config_dict(config_object(said)), "architectures": said["architectures"]}
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        check_tensor(config, 2, "the model of stage 'small'")
    check_tensor(config, 1, "here")


def test_a_rank_holds_its_slices_and_what_cannot_be_cut() -> None:
    config = {**SMALL, "vocab_size": 301, "architectures": ["Qwen3ForCausalLM"]}
    alone, slices = slice_numbers(config, 1), slice_numbers(config, 2)
    ratios = {name.rpartition("layers.0.")[2]: alone[name] / slices[name] for name in alone}
    assert ratios["model.embed_tokens.weight"] == ratios["input_layernorm.weight"] == 1
    assert ratios["mlp.down_proj.weight"] == ratios["self_attn.q_proj.bias"] == 2


def test_a_plan_that_forgets_a_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A norm of single heads that no rule names would see a part of its gradient."""

    def without_norms(model: torch.nn.Module) -> dict[str, str]:
        return {name: rule for name, rule in tensor_plan(model).items() if not name.endswith("_norm")}

    config = {**SMALL, "vocab_size": 300, "architectures": ["Qwen3ForCausalLM"]}
    check_tensor(config, 2, "here")
    monkeypatch.setattr(tensor, "tensor_plan", without_norms)
    with pytest.raises(ConfigError, match=r"(?s)says nothing of a tensor .*q_norm.weight: scale query_dim"):
        check_tensor(config, 2, "here")


@pytest.mark.parametrize(
    ("change", "world", "message"),
    [
        ({"compile": True}, 2, "compiled layers that are cut inside lose a part of their gradients"),
        ({"optimizer": {"name": "adafactor"}}, 2, "adafactor trains on one rank alone"),
        ({"batch": {"sequences": 6, "micro_batch": 2}}, 4, "2 groups of 2 ranks cannot share"),
        ({"parallel": {"tensor": 2, "shard": 2}}, 2, "shard 2 x tensor 2 for 2 ranks"),
        ({"parallel": {"tensor": 3}}, 4, "shard auto x tensor 3 for 4 ranks"),
    ],
)
def test_what_a_run_cannot_ask_for(change: dict[str, Any], world: int, message: str, tmp_path: Path) -> None:
    run = sliced(tmp_path, "run", {"tensor": 2}) | change
    with pytest.raises(ConfigError, match=message):
        check_ranks(parse_run(run), world)
    assert not (tmp_path / "run").exists()


def test_masks_see_whole_activations(tmp_path: Path) -> None:
    run = sliced(tmp_path, "run", {"tensor": 2})
    run["stages"][1] = {"name": "large", "tokens": 192, "grow": {"to": LARGE}, "masks": {"rise_tokens": 64}}
    with pytest.raises(ConfigError, match=r"stages.1.masks change activations"):
        check_ranks(parse_run(run), 2)


def test_every_stage_is_checked_before_any_work(tmp_path: Path) -> None:
    write_corpus(tmp_path / "text.txt")
    run = sliced(tmp_path, "run", {"tensor": 2})
    run["stages"][1]["grow"] = {"to": {**LARGE, "intermediate_size": 35}}
    with pytest.raises(ConfigError, match=r"(?s)the model of stage 'large'.*35 mlp"):
        dry_run(parse_run(run), 2)
    dry_run(parse_run(run))


def test_ranks_of_a_group_do_the_same_part_and_one_counts() -> None:
    parts = [MeshSizes(2, 1, 2).part(rank) for rank in range(4)]
    assert parts == [DataPart(number, 2, counts) for number in (0, 1) for counts in (True, False)]


def test_a_dry_run_counts_slices(tmp_path: Path) -> None:
    write_corpus(tmp_path / "text.txt")
    run = parse_run(sliced(tmp_path, "run", {"tensor": 2}))
    whole, slices, both = (dry_run(run, world).stages[1] for world in (1, 2, 4))
    assert both.memory_bytes < slices.memory_bytes < whole.memory_bytes
    assert slices.parameters == whole.parameters
    assert both.rank_bytes == math.ceil(whole.checkpoint_bytes / 4)


def test_the_norm_of_plain_gradients_is_torchs() -> None:
    drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((3, 5), (7,))]
    assert torch.equal(total_norm(drawn), torch.nn.utils.get_total_norm(drawn))
