"""What a step of a LiGO fit costs: against a plain training step of the target, in time and in peak memory.

GPT-2, 6 layers of 256 to 12 layers of 384, a batch of 16 x 256 tokens, vocabulary 8192 (GPT-2's own 50,257 rows would
mostly measure the head, which both steps share), float32, one thread. A plain step is forward, backward and AdamW on all
weights. Steps are interleaved, and the ratio is the median over rounds; memory is the peak of a process of its own.

    python benchmarks/learned.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from outgrow.engine.step import Device
from outgrow.growth.plan import plan
from outgrow.growth.target import target
from outgrow.learning.fit import fit_step
from outgrow.learning.grown_model import GrownModel
from outgrow.methods.build import build
from outgrow.methods.learned.ligo import Ligo, initial
from outgrow.methods.learned.ligo_start import exact_start
from outgrow.methods.learned.mango import Mango, ring_start
from outgrow.models.architecture import resolve
from outgrow.models.library import build_model, config_dict
from outgrow.run.learn_options import LearnOptions

VOCAB, SEQUENCES, LENGTH = 8192, 16, 256
TO = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12}
KINDS = ("plain", "ligo published", "ligo free", "mango")


def small_config() -> dict[str, object]:
    config = transformers.GPT2Config(
        n_embd=256, n_layer=6, n_head=4, n_positions=LENGTH, vocab_size=VOCAB, bos_token_id=0, eos_token_id=0
    )
    return config_dict(config) | {"architectures": ["GPT2LMHeadModel"]}


def make(kind: str) -> Callable[[], float]:
    """A function that does one step of a kind."""
    torch.manual_seed(0)
    config = small_config()
    small = resolve(config)
    tokens = torch.randint(0, VOCAB, (SEQUENCES, LENGTH))
    batch = {"input_ids": tokens, "labels": tokens}
    if kind == "plain":
        model = build_model(target(small, TO).config).eval()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

        def step() -> float:
            optimizer.zero_grad(set_to_none=True)
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            return float(loss.detach())

        return step
    if kind == "ligo published":
        form = Ligo(small, target(small, TO))
        start = initial(form)
    elif kind == "ligo free":
        form, start = exact_start(build(small, {**TO}, width="pad", depth="identity"))
    else:
        form = Mango(small, target(small, TO))
        start = ring_start(form)
    weights = {name: value.detach() for name, value in build_model(config).named_parameters()}
    values = {name: value.requires_grad_() for name, value in start.items()}
    grown = GrownModel(form, values, weights, plan(form.growth(start), "reset").config)
    optimizer = torch.optim.AdamW(list(values.values()), lr=1e-3, weight_decay=0.0)
    return lambda: fit_step(grown, optimizer, batch, LearnOptions(), 50, Device("cpu", False))


def peak(kind: str) -> int:
    """Peak memory of a process that does two steps, in bytes (VmHWM: getrusage would begin at the parent's peak)."""
    step = make(kind)
    step(), step()
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", choices=KINDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if arguments.peak:
        print(peak(arguments.peak))
        return
    memory = {
        kind: int(subprocess.check_output([sys.executable, __file__, "--peak", kind])) for kind in KINDS
    }
    steps = {kind: make(kind) for kind in KINDS}
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for round_ in range(arguments.rounds + 1):
        for kind, step in steps.items():
            began = time.process_time()
            step()
            if round_:  # the first warms up
                seconds[kind].append(time.process_time() - began)
    print(
        "| step | CPU seconds (median) | time / plain (median of rounds) | peak memory, MB | memory / plain |"
    )
    print("|---|---|---|---|---|")
    for kind in KINDS:
        ratio = statistics.median(a / b for a, b in zip(seconds[kind], seconds["plain"], strict=True))
        print(
            f"| {kind} | {statistics.median(seconds[kind]):.2f} | {ratio:.2f} | {memory[kind] / 1e6:.0f} | "
            f"{memory[kind] / memory['plain']:.2f} |"
        )
    print(json.dumps({kind: [round(one, 2) for one in found] for kind, found in seconds.items()}))


if __name__ == "__main__":
    main()
