"""What `test_shards.py` looks at, done once in forks: `shards_worker.py FOLDER`. One line of JSON per fact."""

from __future__ import annotations

import json
import logging
import os
import runpy
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import transformers.models.llama.modeling_llama  # noqa: F401  (imported once, before the forks)
from accelerate.utils import fsdp_utils
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.fsdp.fully_sharded_data_parallel import StateDictType
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from transformers import LlamaConfig, LlamaForCausalLM

import outgrow
from distributed import forks
from outgrow.parallel.ranks import start_ranks
from outgrow.state.training_state import TrainingState
from outgrow.store import writer
from outgrow.store.source import MemorySource

SMALL = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4}
LARGE = {"hidden_size": 18, "intermediate_size": 31, "num_hidden_layers": 3, "num_attention_heads": 6}
"""Sizes that no number of ranks here shares evenly."""
HEADS = {"num_key_value_heads": 2, "head_dim": 6, "vocab_size": 19, "bos_token_id": 1, "eos_token_id": 2}
HOW: dict[str, Any] = {"width": "pad", "depth": "stack", "seed": 3, "noise": 0.2}
TO = {**LARGE, "num_key_value_heads": 3}
EVEN = {
    **LARGE,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
"""Sizes that two slices share."""


def tell(fact: str, value: Any) -> None:
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(json.dumps({"fact": fact, "value": value}), flush=True)


def shard(model: nn.Module) -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.model.layers:  # type: ignore[union-attr]
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def shard_inside(model: nn.Module) -> None:
    """Two slices of every layer, and on four ranks two shards of each: what a user writes on PyTorch's own functions."""
    mesh = init_device_mesh("cpu", (dist.get_world_size() // 2, 2), mesh_dim_names=("shard", "tensor"))
    rows, columns = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"), ("o_proj", "down_proj")
    for layer in model.model.layers:  # type: ignore[union-attr]
        names = {name.rpartition(".")[2]: name for name, _ in layer.named_modules()}
        plan: dict[str, Any] = {names[name]: ColwiseParallel() for name in rows}
        plan |= {names[name]: RowwiseParallel() for name in columns}
        parallelize_module(layer, mesh["tensor"], plan, src_data_rank=None)
    if mesh["shard"].size() > 1:
        for unit in (*model.model.layers, model):  # type: ignore[union-attr]
            fully_shard(unit, mesh=mesh["shard"])


Cut = Callable[[nn.Module], None]


def trained(shard: Cut = shard) -> tuple[Any, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMALL, **HEADS, tie_word_embeddings=shard is shard_inside))
    shard(model)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        groups, lr=1e-2, foreach=shard is not shard_inside
    )  # no kernel takes two meshes
    for step in range(2):
        tokens = torch.randint(3, 19, (2, 9), generator=torch.Generator().manual_seed(step))
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def whole(tensor: Tensor) -> Tensor:
    plain = tensor.detach()
    if not isinstance(plain, DTensor):
        return plain
    places = list(plain.placements)
    for dim in range(len(places)):  # shards first: they were cut inside of the slices
        places[dim] = Replicate()
        plain = plain.redistribute(placements=places)
    return plain.to_local()


def gathered(model: Any, optimizer: torch.optim.Optimizer) -> TrainingState:
    """The same state in one process's memory."""
    state = TrainingState.from_model(model, optimizer)
    named = dict(model.named_parameters())
    tensors = {"weight": {name: whole(one) for name, one in named.items()}}
    for slot in ("exp_avg", "exp_avg_sq"):
        tensors[slot] = {name: whole(optimizer.state[one][slot]) for name, one in named.items()}
    return TrainingState(**{**vars(state), "source": MemorySource(tensors)})


def differing(state: TrainingState, model: Any, optimizer: torch.optim.Optimizer) -> list[str]:
    """Tensors of a live sharded model whose bits are not those of a state."""
    found = []
    for name, parameter in model.named_parameters():
        live = {"weight": parameter, **{s: optimizer.state[parameter][s] for s in ("exp_avg", "exp_avg_sq")}}
        for slot, tensor in live.items():
            one, other = whole(tensor), state.source.read(name, slot)
            if not torch.equal(one.view(torch.int32), other.view(torch.int32)):
                found.append(f"{slot} of {name}")
    return found


def refusal(model: Any) -> str:
    """What GrowAt says of a model that FSDP2 has cut, when a Trainer would begin."""
    args: Any = SimpleNamespace(parallel_mode=SimpleNamespace(value="distributed"), fsdp=[], deepspeed=None)
    state: Any = None
    try:
        outgrow.GrowAt(steps=1, to=TO).on_train_begin(args, state, state, model=model)
    except outgrow.OutgrowError as error:
        return str(error)
    return "nothing"


def grow_live(name: str, shard: Cut, to: dict[str, int]) -> None:
    start_ranks()
    model, optimizer = trained(shard)
    tell("a trainer", refusal(model))
    alone = outgrow.grow(gathered(model, optimizer), to=to, **HOW)
    large, other, plan = outgrow.grow_model(model, optimizer, to=to, shard=shard, **HOW)
    assert other is not None
    tell(f"grown live {name}", differing(alone, large, other))
    steps = {float(other.state[p]["step"]) for p in large.parameters()}
    tell(f"steps {name}", sorted(steps))
    tokens = torch.randint(3, 19, (2, 9), generator=torch.Generator().manual_seed(7))
    loss = large(input_ids=tokens, labels=tokens).loss
    loss.backward()
    other.step()
    tell(f"trains on {name}", [plan.large.layers, float(loss.detach())])


LIVE: dict[str, tuple[int, Cut, dict[str, int]]] = {
    "two shards": (2, shard, TO),
    "three shards": (3, shard, TO),
    "two slices": (2, shard_inside, EVEN),
    "two slices of two shards": (4, shard_inside, EVEN),
}


def foreign(folder: Path) -> None:
    """Accelerate's own helpers write; outgrow reads, grows and writes; the helpers load what it wrote."""
    ranks = start_ranks()
    fsdp_utils.logger = logging.getLogger("accelerate")  # its own wants an Accelerator
    model, optimizer = trained()
    state = gathered(model, optimizer)
    accelerator = SimpleNamespace(
        process_index=ranks.rank,
        num_processes=ranks.world,
        is_fsdp2=True,
        is_main_process=ranks.leads,
        wait_for_everyone=dist.barrier,
    )
    for kind in ("SHARDED", "FULL"):
        plugin = SimpleNamespace(
            fsdp_version=2,
            state_dict_type=getattr(StateDictType, f"{kind}_STATE_DICT"),
            state_dict_config=SimpleNamespace(offload_to_cpu=False, rank0_only=False),
            optim_state_dict_config=None,
        )
        out = folder / kind
        fsdp_utils.save_fsdp_model(plugin, accelerator, model, out)
        fsdp_utils.save_fsdp_optimizer(plugin, accelerator, optimizer, model, out)
        ranks.first(lambda out=out: (out / "config.json").write_text(json.dumps(state.config)) and None)
        back = TrainingState.from_pretrained(out, ranks=ranks)
        tell(f"accelerate {kind}", differing(back, model, optimizer))
        if kind == "SHARDED":
            grown = outgrow.grow(back, to=TO, **HOW)
            grown.save_pretrained(folder / "grown", format="accelerate", ranks=ranks)
            large = LlamaForCausalLM(LlamaConfig.from_pretrained(folder / "grown"))
            shard(large)
            matrices = [p for p in large.parameters() if p.ndim > 1]
            vectors = [p for p in large.parameters() if p.ndim < 2]
            other = torch.optim.AdamW([{"params": matrices}, {"params": vectors}], lr=1.0)
            for group in other.param_groups:
                group["initial_lr"] = 1.0  # a scheduler adds it
            fsdp_utils.load_fsdp_model(plugin, accelerator, large, folder / "grown")
            fsdp_utils.load_fsdp_optimizer(plugin, accelerator, other, large, folder / "grown")
            tell("accelerate loads what was grown", differing(grown, large, other))
            tell("its options", [[g["lr"], g["weight_decay"]] for g in other.param_groups])
    both = {"model": model.state_dict(), "optimizer": {"state": {}}}
    dcp.save(both, checkpoint_id=folder / "plain")


def write_together(folder: Path) -> None:
    ranks = start_ranks()
    writer.BLOCK_BYTES = 600
    state = TrainingState.from_pretrained(folder / "small", ranks=ranks)
    outgrow.grow(state, to=TO, **HOW).save_pretrained(folder / f"by-{ranks.world}", ranks=ranks)


def write_and_die(folder: Path) -> None:
    ranks = start_ranks()
    state = TrainingState.from_pretrained(folder / "small", ranks=ranks)

    def progress(done: int, total: int) -> None:
        if ranks.rank == 1 and done:
            os.kill(os.getpid(), signal.SIGKILL)

    outgrow.grow(state, to=TO, **HOW).save_pretrained(folder / "killed", ranks=ranks, progress=progress)


def save_small(target: Path) -> None:
    """A model after one step of AdamW."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMALL, **HEADS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    ones = torch.ones(1, 4, dtype=torch.int64)
    model(input_ids=ones, labels=ones).loss.backward()
    optimizer.step()
    TrainingState.from_model(model, optimizer).save_pretrained(target)


def main(folder: Path) -> None:
    for name, (world, cut, to) in LIVE.items():
        forks.run(world, partial(grow_live, name, cut, to))
    forks.run(2, lambda: foreign(folder))
    forks.run(1, lambda: save_small(folder / "small"))
    for world in (1, 2, 3):
        forks.run(world, lambda: write_together(folder))
    before = {path.name: path.read_bytes() for path in (folder / "small").iterdir()}
    statuses = forks.wait(forks.start(2, lambda: write_and_die(folder)))
    same = before == {path.name: path.read_bytes() for path in (folder / "small").iterdir()}
    tell("killed", [any(status == signal.SIGKILL for status in statuses), (folder / "killed").exists(), same])
    example = Path(__file__).parents[2] / "examples" / "fsdp2_loop.py"
    forks.run(2, lambda: tell("example", runpy.run_path(str(example))["main"](6)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
