"""Our step against a bare FSDP2 loop, in turns, and checkpoints synchronous and asynchronous: on gloo, forks of one host.

    python benchmarks/distributed_training.py [--ranks 2] [--turns 6] [--width 256] [--layers 4]

A turn is three steps of each loop on the same batches. The bare loop is what a user writes: micro-batches, gradients sent
with the last one, clipping, AdamW. Seconds are of the wall, and of the processor over all ranks, which other work disturbs less.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers.models.llama.modeling_llama  # noqa: F401  (imported once, before the forks)
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional

from outgrow.engine.optimizers import build_optimizer
from outgrow.engine.step import Device, build_for_training, optimizer_step
from outgrow.models.architecture import resolve
from outgrow.parallel.mesh import MeshSizes
from outgrow.parallel.ranks import Ranks, start_ranks
from outgrow.parallel.sharding import Sharding, make_mesh
from outgrow.run.optimizer_config import AdamWConfig
from outgrow.state.training_state import TrainingState
from outgrow.training.saves import ShardedSaves

SEQUENCES, MICRO_BATCH, LENGTH, VOCABULARY = 8, 2, 128, 4096
STEPS = 3


def config(width: int, layers: int) -> dict[str, Any]:
    """A llama."""
    from transformers import LlamaConfig

    sizes = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        tie_word_embeddings=False,
    )
    return {**sizes.to_dict(), "architectures": ["LlamaForCausalLM"], "dtype": "float32"}


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and the ones after them."""
    tokens = torch.randint(VOCABULARY, (SEQUENCES, LENGTH + 1), generator=torch.Generator().manual_seed(step))
    return tokens[:, :-1], tokens[:, 1:]


def ours(content: dict[str, Any], ranks: Ranks) -> tuple[nn.Module, Any, Callable[[int], None]]:
    """The step of a run."""
    mesh = make_mesh(MeshSizes(shard=ranks.world), "cpu")
    device = Device("cpu", False, ranks=ranks, sharding=Sharding(mesh))
    model = device.build(content)
    torch.manual_seed(ranks.rank)
    with torch.no_grad():
        for one in model.parameters():
            one.normal_(0, 0.02) if one.dim() > 1 else one.fill_(1.0)
    optimizer = build_optimizer(model, AdamWConfig(learning_rate=1e-3))

    def step(number: int) -> None:
        options: dict[str, Any] = {"learning_rate": 1e-3, "micro_batch": MICRO_BATCH, "clip": 1.0}
        optimizer_step(model, optimizer, batch(number), device=device, seed=(0, number), **options)

    return model, optimizer, step


def bare(content: dict[str, Any], ranks: Ranks) -> Callable[[int], None]:
    """A plain loop on FSDP2."""
    mesh, model = make_mesh(MeshSizes(shard=ranks.world), "cpu"), build_for_training(content)
    for name in resolve(content).layer_modules.values():
        fully_shard(model.get_submodule(name), mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    share = SEQUENCES // ranks.world

    def step(number: int) -> None:
        model.train()
        optimizer.zero_grad()
        inputs, targets = (one[ranks.rank * share : (ranks.rank + 1) * share] for one in batch(number))
        for first in range(0, share, MICRO_BATCH):
            piece = slice(first, first + MICRO_BATCH)
            model.set_requires_gradient_sync(first + MICRO_BATCH >= share)
            logits = model(input_ids=inputs[piece]).logits
            loss = functional.cross_entropy(logits.float().flatten(0, 1), targets[piece].flatten())
            (loss * MICRO_BATCH / share).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def processor() -> float:
    """Seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def timed(work: Callable[[], None], ranks: Ranks) -> tuple[float, float]:
    """Wall seconds of the slowest rank and processor seconds of all."""
    ranks.gather(None)
    began, used = time.monotonic(), processor()
    work()
    found = ranks.gather([time.monotonic() - began, processor() - used])
    return max(wall for wall, _ in found), sum(cpu for _, cpu in found)


def measure(content: dict[str, Any], turns: int) -> None:
    ranks = start_ranks()
    model, optimizer, our_step = ours(content, ranks)
    bare_step = bare(content, ranks)
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "bare": []}
    for turn in range(turns + 1):
        for name, step in (("ours", our_step), ("bare", bare_step))[:: 1 if turn % 2 else -1]:
            first = turn * STEPS
            found = timed(lambda: [step(first + k) for k in range(STEPS)] and None, ranks)  # noqa: B023
            if turn:  # the first one warms up
                times[name].append(found)
    if ranks.leads:
        tokens = SEQUENCES * LENGTH * STEPS
        for name, found in times.items():
            wall, cpu = (statistics.median(column) for column in zip(*found, strict=True))
            print(
                f"{name}: {tokens / wall:8.0f} tokens/s, {cpu / STEPS:.3f} processor s a step over all ranks"
            )
        for place, what in enumerate(("wall", "processor")):
            ratios = [
                theirs[place] / own[place] for own, theirs in zip(times["ours"], times["bare"], strict=True)
            ]
            print(
                f"ours / bare by {what} time: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
            )
    saves(model, optimizer, our_step, ranks)


def saves(model: nn.Module, optimizer: Any, step: Callable[[int], None], ranks: Ranks) -> None:
    folder = Path(os.environ["BENCHMARK_FOLDER"])
    state = TrainingState.from_model(model, optimizer, records={"run": {"step": 0}})  # type: ignore[arg-type]
    for name, asynchronous in (("synchronous", False), ("asynchronous", True)):
        shards = ShardedSaves(ranks, asynchronous)
        target = folder / name
        blocked = timed(lambda: shards.begin(replace(state), target, lambda: None), ranks)  # noqa: B023
        meanwhile = timed(lambda: step(0), ranks)
        whole = timed(lambda: shards.publish(wait=True), ranks)  # noqa: B023
        if ranks.leads:
            size = sum(path.stat().st_size for path in target.iterdir())
            print(
                f"{name} save of {size / 1e6:.0f} MB: blocked {blocked[0]:.2f} s (processor {blocked[1]:.2f} s), then a step of "
                f"{meanwhile[0]:.2f} s, then {whole[0]:.2f} s until it counts"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("ranks", 2), ("turns", 6), ("width", 256), ("layers", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    content = config(asked.width, asked.layers)
    os.environ["BENCHMARK_FOLDER"] = folder = tempfile.mkdtemp()
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    children = []
    for rank in range(asked.ranks):
        child = os.fork()
        if child == 0:
            os.environ.update(
                RANK=str(rank), WORLD_SIZE=str(asked.ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
            )
            try:
                measure(content, asked.turns)
            finally:
                os.sys.stdout.flush()  # type: ignore[attr-defined]
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
