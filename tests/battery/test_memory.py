"""What a command says that it needs is what it takes: peak resident memory of a process, on models of three sizes.

The checkpoints are holes (sparse files). A process does all three sizes one after the other and is measured above what it
holds before each. Pages of mapped files count as the command says that it counts them: beside its own.

Every tensor gets pages of its own (`MALLOC_MMAP_THRESHOLD_`). Else a thread's heap keeps what was freed, 25 MB of it in some
runs and none in others: much beside models as small as these.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

WITHIN = 0.2
SIZES = {"tiny": (64, 3, 300), "30M": (384, 10, 16384), "40M": (448, 11, 16384), "60M": (512, 12, 16384)}
"""Hidden size, layers, vocabulary. The first is not measured: it brings imports and tables into the process."""
FITTED_SIZES = {
    "tiny": (64, 3, 300),
    "14M": (256, 10, 12288),
    "20M": (320, 10, 12288),
    "29M": (384, 10, 14336),
}
"""Where steps are done, which take sixteen bytes a weight and more: 300 MB of the smallest. A third of that would drown in what the heap keeps."""
LESA_SIZES = {"tiny": (64, 3, 300), "wide": (320, 8, 300), "deep": (96, 40, 300), "deeper": (128, 48, 300)}
"""Where an SVD needs most, and where the steps do."""
SEQUENCES = {"tiny": 1, "14M": 20, "20M": 6, "29M": 1}
"""Of a training step: where activations are more than gradients, about as many, and less."""
LEARNED = {"14M": ("mango", "published"), "20M": ("ligo", "published"), "29M": ("ligo", "exact")}
"""What is fitted, and from which start."""
COMMANDS = ("grow", "convert", "verify", "train", "shards", "learn", "sums", "lesa")
"""`sums` is a growth by copies with noise, whose numbers are summed in float32. `shards` is what `grow --dry-run --ranks` says of a growth into the memory of ranks: here all of it is one rank's."""


def sizes(command: str) -> dict[str, tuple[int, int, int]]:
    return {"train": FITTED_SIZES, "learn": FITTED_SIZES, "lesa": LESA_SIZES}.get(command, SIZES)


def config(size: str) -> dict[str, Any]:
    hidden, layers, vocab = {**SIZES, **FITTED_SIZES, **LESA_SIZES}[size]
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": hidden * 27 // 10,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 32,
        "num_key_value_heads": hidden // 32,
        "vocab_size": vocab,
        "max_position_embeddings": 16,
        "tie_word_embeddings": False,
    }


def hollow(folder: Path, size: str) -> Path:
    """A model folder in bfloat16 whose weights are holes."""
    import torch

    from outgrow.models.library import config_dict, config_object, model_names
    from outgrow.store.safetensors_file import header_bytes
    from outgrow.store.source import TensorMeta

    full = config_dict(config_object(config(size))) | {"architectures": ["LlamaForCausalLM"]}
    tensors = [(name, TensorMeta(shape, torch.bfloat16)) for name, shape in model_names(full).shapes.items()]
    head, _ = header_bytes(tensors, {"format": "pt"})
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(head)
        file.truncate(len(head) + sum(meta.bytes for _, meta in tensors))
    (folder / "config.json").write_text(json.dumps(full))
    return folder


def train(size: str, dry_run: bool) -> dict[str, Any]:
    """Two optimizer steps, of which the second has moments; or what a dry run says of them."""
    from outgrow.data.objectives import objective_of
    from outgrow.engine.memory import step_memory
    from outgrow.engine.optimizers import build_optimizer
    from outgrow.engine.step import Device, build_for_training, optimizer_step
    from outgrow.run.run_file import parse_run

    sequences, device = SEQUENCES[size], Device("cpu", False)
    run = parse_run(
        {
            "output": "unused",
            "model": config(size),
            "data": {"sequence_length": 16, "tokenizer": {"vocab_size": 300}},
            "batch": {"sequences": sequences},
            "stages": [{"name": "only", "tokens": 10**6}],
        }
    )
    if dry_run:
        return {"memory_bytes": step_memory(run, config(size), device, sequences).total, "mapped_bytes": 0}
    model = build_for_training(config(size))
    optimizer = build_optimizer(model, run.optimizer)
    batch = objective_of(config(size)).example(config(size), sequences, 16, 0.15)
    for step in range(2):
        optimizer_step(
            model,
            optimizer,
            batch,
            learning_rate=1e-3,
            micro_batch=sequences,
            clip=1.0,
            device=device,
            seed=(0, step),
        )
    return {}


def into_shards(small: Path, to: dict[str, int], dry_run: bool) -> dict[str, Any]:
    """A growth into the memory of a model, or what is said of it: all is this one rank's."""
    from outgrow.engine.step import Device
    from outgrow.growth.rank_costs import rank_costs
    from outgrow.state.asked import plan_growth
    from outgrow.state.growing import apply
    from outgrow.state.training_state import TrainingState
    from outgrow.store.config_file import load_config

    plan = plan_growth(load_config(small), to=to)
    if dry_run:
        said = rank_costs(plan, 1, "shards", slots=("weight",)).memory
        return {"memory_bytes": said, "mapped_bytes": (small / "model.safetensors").stat().st_size}
    grown = apply(plan, TrainingState.from_pretrained(small))
    grown.load_into(Device("cpu", False).build(grown.config))
    return {}


def learn(small: Path, size: str, to: dict[str, int], dry_run: bool) -> dict[str, Any]:
    """A step of a fit; or what a dry run says of them."""
    import torch

    from outgrow import TrainingState
    from outgrow.learning.fit_memory import fit_memory
    from outgrow.learning.learn import begin, fit_operator
    from outgrow.models.architecture import resolve
    from outgrow.report.explain import slot_bytes
    from outgrow.run.learn_options import LearnOptions

    state = TrainingState.from_pretrained(small, headers_only=True)
    method, start = LEARNED.get(size, LEARNED["20M"])
    options, sequences = LearnOptions(method, start, steps=1), SEQUENCES[size]
    if dry_run:
        form, values, _ = begin(resolve(state.config), to, options)
        needed = fit_memory(form, values, sequences=sequences, sequence_length=16)
        return {"memory_bytes": needed, "mapped_bytes": slot_bytes(state.source, "weight")}
    ids = torch.zeros(sequences, 16, dtype=torch.int64)
    batch = {"input_ids": ids, "labels": ids}
    fit_operator(state, to, lambda step: batch, [batch], options)
    return {}


def lesa(small: Path, layers: int, dry_run: bool) -> dict[str, Any]:
    """A step of each fit between layers; or what a dry run says of them."""
    from outgrow import TrainingState
    from outgrow.learning.lesa import learn_lesa, lesa_form, lesa_memory
    from outgrow.run.learn_options import LesaOptions

    state = TrainingState.from_pretrained(small, headers_only=True)
    to, options = {"num_hidden_layers": layers}, LesaOptions(steps=1)
    if dry_run:
        memory, mapped = lesa_memory(lesa_form(state.config, to, options), options, state.source)
        return {"memory_bytes": memory, "mapped_bytes": mapped}
    learn_lesa(state, to, options)
    return {}


def work(command: str, folder: Path, size: str, dry_run: bool) -> dict[str, Any]:
    """One command, or what it says before it."""
    import io

    from rich.console import Console

    from outgrow.commands import convert, grow, verify
    from outgrow.commands.options import ConvertCall, GrowCall, VerifyCall

    if command == "train":
        return train(size, dry_run)
    small, large, console = folder / size, folder / f"{size}-large", Console(file=io.StringIO())
    if command == "convert":
        out = folder / "converted"
        found = convert.run(ConvertCall(small, out, "mixtral", overwrite=True, dry_run=dry_run), console)
        return found.to_json()
    if command == "verify":
        return verify.run(VerifyCall(small, large, steps=0, dry_run=dry_run), console).to_json()
    to = {"intermediate_size": config(size)["intermediate_size"] + 64}
    if command == "sums":
        to = {
            name: 2 * config(size)[name]
            for name in ("hidden_size", "num_attention_heads", "num_key_value_heads")
        }
    if command == "shards":
        return into_shards(small, to, dry_run)
    if command == "learn":
        return learn(small, size, {**to, "num_hidden_layers": FITTED_SIZES[size][1] + 2}, dry_run)
    if command == "lesa":
        return lesa(small, LESA_SIZES[size][1] + 2, dry_run)
    asked = [f"{name}={value}" for name, value in to.items()]
    width = "isometric" if command == "sums" else None
    call = GrowCall(small, large, asked, width=width, overwrite=True, dry_run=dry_run)
    return dict(grow.run(call, console).to_json()["costs"])


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def child(folder: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """Bytes that each command says and takes, by size."""
    import ctypes
    import gc

    import torch

    torch.set_num_threads(1)
    found: dict[str, dict[str, tuple[int, int]]] = {command: {} for command in COMMANDS}
    for place in range(len(SIZES)):
        for command in COMMANDS:
            size = list(sizes(command))[place]
            if not (folder / size).exists():
                hollow(folder / size, size)
            said = work(command, folder, size, dry_run=True) if size != "tiny" else {}
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            before = status("VmRSS")
            work(command, folder, size, dry_run=False)
            if size != "tiny":
                found[command][size] = (said["memory_bytes"] + said["mapped_bytes"], status("VmHWM") - before)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, tuple[int, int]]]:
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system does not let a process begin its peak anew")
    script = [sys.executable, __file__, str(tmp_path_factory.mktemp("sizes"))]
    alone = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(script, capture_output=True, text=True, check=False, env=alone)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_takes_the_memory_that_it_says(
    found: dict[str, dict[str, tuple[int, int]]], command: str
) -> None:
    for size, (said, took) in found[command].items():
        assert abs(said - took) <= WITHIN * took, (
            f"{size}: said {said / 1e6:.0f} MB, took {took / 1e6:.0f} MB"
        )
    assert len(found[command]) == len(sizes(command)) - 1


if __name__ == "__main__":
    print(json.dumps(child(Path(sys.argv[1]))))
