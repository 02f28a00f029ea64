"""How fast and how lean is growing from file to file?

Makes a random Llama checkpoint with Adam moments (float32, about 4 GB; with `--weights`, a bfloat16 model alone), grows
it 1.5x in width and 2x in depth with the streaming writer, and copies the same number of output bytes with plain synced
writes of a large buffer, in turn, several times. Reports time as a ratio to the copy of the same round, and the peak of
anonymous memory (RssAnon), each growth in a process of its own. `--in-memory` also does it with both models in memory through `save_pretrained`.

    python benchmarks/streaming.py [--gigabytes 4] [--rounds 3] [--weights | --in-memory] [--folder DIR]
    python benchmarks/streaming.py --operators [--dtype bfloat16]

`--operators` needs no disk: it computes every operator's blocks in memory, on one core, and reports numbers of output per
CPU second, of weights (without and with noise that readers cannot see) and of second moments.

Needs about 5.5 times the source on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from outgrow.store.source import TensorSource

TO = {"hidden_size": 1536, "num_attention_heads": 24, "num_key_value_heads": 12, "intermediate_size": 4224}


def config(layers: int) -> dict[str, object]:
    from outgrow.models.library import config_dict, config_object

    fields = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 32000,
        "tie_word_embeddings": True,
        "max_position_embeddings": 2048,
    }
    return config_dict(config_object(fields)) | {"architectures": ["LlamaForCausalLM"]}


def make_source(folder: Path, gigabytes: float, *, weights: bool) -> int:
    """A random training state of about this size, or a bfloat16 model; returns its bytes."""
    from outgrow.models.library import model_names
    from outgrow.state.training_state import TrainingState
    from outgrow.store.contents import OptimizerInfo, ParamGroup
    from outgrow.store.source import MemorySource

    per_layer = sum(
        s[0] * (s[1] if len(s) > 1 else 1) for n, s in model_names(config(1)).shapes.items() if ".0." in n
    )
    rest = 32000 * 1024
    layers = max(1, round((gigabytes * 1e9 / (2 if weights else 12) - rest) / per_layer))
    full = config(layers)
    shapes = model_names(full).shapes
    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if weights else torch.float32
    tensors = {
        slot: {
            name: torch.empty(shape).normal_(0, 0.02, generator=generator).abs_().to(dtype)
            for name, shape in shapes.items()
        }
        for slot in (("weight",) if weights else ("weight", "exp_avg", "exp_avg_sq"))
    }
    if weights:
        TrainingState(full, MemorySource(tensors)).save_pretrained(folder)
        return sum(path.stat().st_size for path in folder.iterdir())
    info = OptimizerInfo(
        "AdamW", (ParamGroup(tuple(shapes), {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8}),)
    )
    state = TrainingState(full, MemorySource(tensors), dict.fromkeys(shapes, 1000.0), info)
    state.save_pretrained(folder)
    return sum(path.stat().st_size for path in folder.iterdir())


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not report RssAnon")


def peak_during(work: object) -> tuple[float, int]:
    """Seconds, and peak anonymous memory above the start, of a call."""
    start, peak, done = anonymous_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, anonymous_bytes() - start)

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.perf_counter()
    work()  # type: ignore[operator]
    seconds = time.perf_counter() - begun
    done.set()
    watcher.join()
    return seconds, peak


def grow_streaming(source: Path, out: Path, layers: int) -> dict[str, float]:
    from outgrow import TrainingState, grow

    state = TrainingState.from_pretrained(
        source, allow_nonfinite=True
    )  # the check of every number is not the growth
    to = TO | {"num_hidden_layers": 2 * layers}
    grown = grow(state, to=to, depth="stack", noise=0.0)
    seconds, peak = peak_during(lambda: grown.save_pretrained(out))
    return {"seconds": seconds, "peak_bytes": peak}


def grow_in_memory(source: Path, out: Path, layers: int) -> dict[str, float]:
    """The same growth with both models and their moments in memory."""
    from outgrow import TrainingState, grow
    from outgrow.models.library import build_model

    def work() -> None:
        state = TrainingState.from_pretrained(source, allow_nonfinite=True)
        small = build_model(state.config)
        small_optimizer = torch.optim.AdamW(list(small.named_parameters()))
        state.load_into(small, small_optimizer)
        grown = grow(
            TrainingState.from_model(small, small_optimizer),
            to=TO | {"num_hidden_layers": 2 * layers},
            noise=0.0,
        )
        large = build_model(grown.config)
        large_optimizer = torch.optim.AdamW(list(large.named_parameters()))
        grown.load_into(large, large_optimizer)
        large.save_pretrained(out)
        torch.save(large_optimizer.state_dict(), out / "optimizer.pt")
        for path in out.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())

    seconds, peak = peak_during(work)
    return {"seconds": seconds, "peak_bytes": peak}


def copy_synced(out: Path, total: int) -> float:
    """Seconds of writing `total` bytes of a buffer in memory in 32 MiB pieces, synced at the end."""
    piece = os.urandom(32 << 20)
    out.mkdir()
    begun = time.perf_counter()
    written, number = 0, 0
    while written < total:
        size = min(5_000_000_000, total - written)
        with (out / f"{number}").open("wb", buffering=0) as file:
            left = size
            while left > 0:
                left -= file.write(memoryview(piece)[: min(left, len(piece))])
            os.fsync(file.fileno())
        written, number = written + size, number + 1
    return time.perf_counter() - begun


def in_child(kind: str, source: Path, out: Path, layers: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", kind, str(source), str(out), str(layers)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(result.stdout.splitlines()[-1]))


def wide_config() -> dict[str, object]:
    from outgrow.models.library import config_dict, config_object

    fields = {
        **config(2),
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "head_dim": 128,
        "vocab_size": 8000,
    }
    return config_dict(config_object(fields)) | {"architectures": ["LlamaForCausalLM"]}


def computed(view: TensorSource, slot: str) -> float:
    """Millions of numbers per CPU second of all blocks of a slot; the best of two."""
    from outgrow.store.check import row_blocks
    from outgrow.store.writer import BLOCK_BYTES

    found = []
    for _ in range(2):
        count, began = 0, time.process_time()
        for names in view.groups(slot):
            for rows in row_blocks(view.meta(names[0], slot), BLOCK_BYTES):
                count += view.read(names[0], slot, rows).numel()
        found.append(count / (time.process_time() - began) / 1e6)
    return max(found)


def operators_table(dtype: torch.dtype) -> None:
    """Every width operator at 1.5 and 2 times, and a stack of layers."""
    from outgrow.errors import GrowthError
    from outgrow.methods.build import WIDTH
    from outgrow.models.library import model_names
    from outgrow.state.asked import plan_growth
    from outgrow.state.grown_view import GrownView
    from outgrow.store.source import MemorySource

    torch.set_num_threads(1)
    full = wide_config()
    generator = torch.Generator().manual_seed(0)
    tensors = {
        slot: {
            name: torch.empty(shape).normal_(0, 0.02, generator=generator).abs_().to(dtype)
            for name, shape in model_names(full).shapes.items()
        }
        for slot in ("weight", "exp_avg_sq")
    }
    sizes = {
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "intermediate_size": 5632,
    }
    cases: list[tuple[str, str | None, dict[str, int]]] = [("stack", None, {"num_hidden_layers": 4})]
    for width in WIDTH:
        for times in (1.5, 2.0):
            grown = {name: int(times * size) for name, size in sizes.items()}
            if width == "sparkling":  # it leaves heads alone
                grown = {name: size for name, size in grown.items() if "heads" not in name}
            cases.append((f"{width} × {times:g}", width, grown))
    print(f"{dtype}: millions of numbers per CPU second, one core")
    print("| operator | weights | weights, noise 0.1 | exp_avg_sq |\n|---|--:|--:|--:|")
    for label, width, to in cases:
        row = []
        for slot, noise in (("weight", 0.0), ("weight", 0.1), ("exp_avg_sq", 0.0)):
            try:
                view = GrownView(plan_growth(full, to=to, width=width, noise=noise), MemorySource(tensors))
            except GrowthError:
                row.append("-")
                continue
            row.append(f"{computed(view, slot):,.0f}")
        print(f"| {label} | {' | '.join(row)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--weights", action="store_true", help="a bfloat16 model without moments")
    what.add_argument("--in-memory", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/streaming"))
    parser.add_argument("--operators", action="store_true")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--child", nargs=4)
    arguments = parser.parse_args()
    if arguments.operators:
        operators_table(getattr(torch, arguments.dtype))
        return
    if arguments.child:
        kind, source, out, layers = arguments.child
        work = grow_streaming if kind == "streaming" else grow_in_memory
        print(json.dumps(work(Path(source), Path(out), int(layers))))
        return
    shutil.rmtree(arguments.folder, ignore_errors=True)
    arguments.folder.mkdir(parents=True)
    source, out = arguments.folder / "source", arguments.folder / "out"
    size = make_source(source, arguments.gigabytes, weights=arguments.weights)
    layers = json.loads((source / "config.json").read_text())["num_hidden_layers"]
    print(f"source: {size / 1e9:.2f} GB, {layers} layers", flush=True)
    copy_synced(out, 4 * size)  # untimed: the first write to a virtual disk pays for making its blocks
    shutil.rmtree(out)
    for number in range(arguments.rounds):
        os.sync()  # neither pays for what was written before it
        grown = in_child("streaming", source, out, layers)
        total = sum(path.stat().st_size for path in out.iterdir())
        shutil.rmtree(out)
        os.sync()
        seconds = copy_synced(out, total)
        shutil.rmtree(out)
        print(
            f"round {number + 1}: output {total / 1e9:.2f} GB; grow {grown['seconds']:.1f} s, copy {seconds:.1f} s, "
            f"ratio {grown['seconds'] / seconds:.2f}; peak RssAnon +{grown['peak_bytes'] / 1e6:.0f} MB",
            flush=True,
        )
    if arguments.in_memory:
        memory = in_child("memory", source, out, layers)
        shutil.rmtree(out)
        print(
            f"in memory: {memory['seconds']:.1f} s, peak RssAnon +{memory['peak_bytes'] / 1e6:.0f} MB",
            flush=True,
        )
    shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
