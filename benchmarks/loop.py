"""Is a step of `outgrow train` as fast as a bare PyTorch loop around the same model?

A Llama of 6 layers × 192, batch 16 × 128, AdamW and clipping, in turn: `optimizer_step` with and without deterministic
kernels, and the bare loop. Prints the median CPU seconds of a step (fair on a shared machine) and the ratio to the bare one.

    python benchmarks/loop.py [--rounds 3] [--steps 8] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from outgrow.data.objectives import objective_of
from outgrow.engine.optimizers import build_optimizer
from outgrow.engine.step import Device, build_for_training, optimizer_step
from outgrow.models.library import config_dict, config_object
from outgrow.run.optimizer_config import AdamWConfig

FIELDS = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 2048,
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
SEQUENCES, LENGTH = 16, 128


def config() -> dict[str, Any]:
    return config_dict(config_object(FIELDS)) | {"architectures": FIELDS["architectures"]}


def median(step: Callable[[int], object], steps: int) -> float:
    """CPU seconds of a step; the first two warm up."""
    seconds = []
    for number in range(steps + 2):
        began = time.process_time()
        step(number)
        seconds.append(time.process_time() - began)
    return statistics.median(seconds[2:])


def ours(steps: int, *, deterministic: bool) -> float:
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    full = config()
    model = build_for_training(full)
    optimizer = build_optimizer(model, AdamWConfig(learning_rate=1e-3))
    batch = objective_of(full).example(full, SEQUENCES, LENGTH, None)
    how = {"learning_rate": 1e-3, "micro_batch": SEQUENCES, "clip": 1.0, "device": Device("cpu", False)}
    return median(lambda number: optimizer_step(model, optimizer, batch, seed=(0, number), **how), steps)  # type: ignore[arg-type]


def bare(steps: int) -> float:
    torch.use_deterministic_algorithms(False)
    full = config()
    model = build_for_training(full).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    inputs, targets = objective_of(full).example(full, SEQUENCES, LENGTH, None)

    def step(number: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        logits = model(input_ids=inputs).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return median(step, steps)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for number in range(arguments.rounds):
        exact, free, plain = (
            ours(arguments.steps, deterministic=True),
            ours(arguments.steps, deterministic=False),
            bare(arguments.steps),
        )
        print(
            f"round {number + 1}: outgrow {exact:.3f} s, without deterministic kernels {free:.3f} s, bare {plain:.3f} s; "
            f"speed {plain / exact:.2f} and {plain / free:.2f} of the bare loop",
            flush=True,
        )


if __name__ == "__main__":
    main()
