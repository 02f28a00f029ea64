"""What `test_tensor.py` looks at, done once: `tensor_worker.py FOLDER`. One line of JSON on standard output per fact."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import transformers.models.qwen3.modeling_qwen3  # noqa: F401  (imported once, before the forks)
from torch.distributed.tensor import DTensor

from distributed import forks
from distributed.tensor_types import compared, config_of_type
from distributed.worker import (
    WAYS,
    answer,
    differing,
    killed,
    logged,
    losses,
    rows,
    steps,
    tell,
    tiny,
    trained,
)
from outgrow.engine.optimizers import build_optimizer
from outgrow.engine.step import build_for_training, choose_device, optimizer_step
from outgrow.parallel.pieces import local
from outgrow.parallel.ranks import ALONE, start_ranks
from outgrow.parallel.tensor import check_tensor
from outgrow.run.run_file import parse_run
from outgrow.state.training_state import TrainingState
from train.tiny_corpus import write_corpus

SMALL = {
    "model_type": "qwen3",
    "hidden_size": 16,
    "intermediate_size": 22,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "attention_bias": True,
    "tie_word_embeddings": True,
}
"""Norms of single heads, biases, tied embeddings: every rule of a plan but one."""
LARGE = {
    "hidden_size": 28,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 34,
}
STEPS = 3
MESHES = {
    "tensor": (2, {"tensor": 2}),
    "tensor and shard": (4, {"tensor": 2}),
    "tensor and replicate": (4, {"tensor": 2, "replicate": 2}),
}


def sliced(folder: Path, output: str, parallel: dict[str, Any], **replace: Any) -> dict[str, Any]:
    """A short staged run without dropout, at sizes that two ranks share."""
    run = tiny(folder, output, model=SMALL, parallel=parallel, **replace)
    small, large = run["stages"]
    return run | {
        "batch": {"sequences": 4, "micro_batch": 2},
        "stages": [{**small, "tokens": 64 * STEPS}, {**large, "tokens": 64 * STEPS, "grow": {"to": LARGE}}],
        "evaluation": {"every_tokens": 64 * STEPS, "sequences": 4},
    }


def runs(folder: Path) -> None:
    """The same run on one rank and on slices of shards; and on slices, then on shards, then on slices again, each killed."""
    forks.run(1, partial(trained, sliced(folder, "alone", {})))
    asynchronous = {"every_steps": 2, "asynchronous": True}
    both = sliced(folder, "tensor and shard", MESHES["tensor and shard"][1], checkpoint=asynchronous)
    forks.run(4, partial(trained, both))
    root, run = folder / "moved", partial(sliced, folder, "moved", checkpoint={"every_steps": 1})
    for parallel, done in (({"tensor": 2}, STEPS + 1), ({"activation_checkpointing": True}, STEPS + 2)):
        killed(2, run(parallel), partial(logged, root, done))
    forks.run(2, partial(trained, run({"tensor": 2, "activation_checkpointing": True})))
    tell("ranks moved", [row["device"] for row in rows(root) if row["kind"] == "machine"])
    for name in ("alone", "tensor and shard", "moved"):
        tell(f"losses {name}", losses(folder / name))
        tell(f"norms {name}", [row["grad_norm"] for row in rows(folder / name) if row["kind"] == "train"])


def grown(folder: Path, name: str, ways: Sequence[dict[str, str]]) -> None:
    """A state that slices saved, grown into the parts of a larger model."""
    ranks = start_ranks()
    state = TrainingState.from_pretrained(folder / f"moved/stages/1-small/step-{STEPS:08d}")
    run = sliced(folder, "unused", MESHES[name][1])
    answer(f"grown {name}", differing(state, run, ranks, {**LARGE, "vocab_size": 312}, ways))


def copies(folder: Path) -> None:
    """Steps with a large rate: what every slice holds whole, here a vocabulary too, keeps the same bits on all of them."""
    ranks = start_ranks()
    run = parse_run(sliced(folder, "unused", MESHES["tensor"][1]))
    device = choose_device(run, ranks)
    config = {**TrainingState.from_pretrained(folder / "alone/final").config, "vocab_size": 301}
    torch.manual_seed(0)
    drawn = TrainingState.from_model(build_for_training(config))
    model = device.build(config)
    drawn.load_into(model)
    optimizer = build_optimizer(model, run.optimizer)
    for step in range(4):
        tokens = torch.randint(config["vocab_size"], (8, 16), generator=torch.Generator().manual_seed(step))
        options: dict[str, Any] = {"learning_rate": 3e-2, "micro_batch": 8, "clip": 0.5}
        optimizer_step(model, optimizer, (tokens, tokens), device=device, seed=(0, step), **options)
    whole = {
        name: hashlib.sha256(local(one).contiguous().numpy().tobytes()).hexdigest()
        for name, one in model.named_parameters()
        if isinstance(one, DTensor)
        and all(
            place.is_replicate() or one.device_mesh.size(dim) == 1 for dim, place in enumerate(one.placements)
        )
    }
    first, second = ranks.gather(whole)
    if ranks.leads:
        tell("copies", sorted(whole))
        tell("copies that differ", [name for name in whole if first[name] != second[name]])


def held_whole() -> None:
    """A step on slices against one process where embedding and head stay whole, and with dropout of whole activations."""
    ranks = start_ranks()
    tied = {**config_of_type("gpt_neox"), "tie_word_embeddings": True, "hidden_dropout": 0.2}
    odd = {**SMALL, "vocab_size": 301, "pad_token_id": 0, "architectures": ["Qwen3ForCausalLM"]}
    for name, config in {"tied in two ways": tied, "a vocabulary that slices cannot share": odd}.items():
        check_tensor(config, ranks.world, name)
        off = ranks.gather(compared(config, ranks))
        if ranks.leads:
            tell(f"off {name}", off)


def stepped(folder: Path) -> None:
    """Losses and norms of steps with Muon on slices of shards beside those of one process."""
    ranks = start_ranks()
    state = TrainingState.from_pretrained(folder / f"moved/stages/1-small/step-{STEPS:08d}")
    muon = {"optimizer": {"name": "muon", "learning_rate": 1e-3}}
    for name, among in (("alone", ALONE), ("tensor and shard", ranks)):
        run = sliced(folder, "unused", MESHES[name][1] if among is ranks else {}, **muon)
        found = steps(state.config, state, parse_run(run), among)
        if ranks.leads:
            tell(f"muon {name}", found)


def main(folder: Path) -> None:
    os.environ["OUTGROW_CACHE"] = str(folder / "cache")
    write_corpus(folder / "text.txt")
    runs(folder)
    for name, (world, _) in MESHES.items():
        forks.run(world, partial(grown, folder, name, WAYS if name == "tensor" else WAYS[:1]))
    forks.run(2, partial(copies, folder))
    forks.run(2, held_whole)
    forks.run(4, partial(stepped, folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
