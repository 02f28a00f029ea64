"""What does planning cost at the sizes it is for?

Makes model folders of real shapes, 1 B to 400 B parameters, whose weights are holes (sparse files: a header and a length),
and does to each, in a process of its own, what is done before any tensor is read: the plan, and `outgrow grow --dry-run`, which
plans once more.
Reports CPU seconds and peak resident memory above the start, imports left out.

    python benchmarks/sizes.py [--shapes 1B 8B 70B 400B] [--width pad] [--folder DIR]

`--check` fails where a shape takes more than 2 CPU seconds or 300 MB. Needs a file system that keeps holes.
`tests/battery/test_hollow_files.py` is the short form, without a clock.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

MOST_SECONDS, MOST_MEMORY = 2.0, 300e6
# hidden, MLP, layers, heads, key/value heads, vocabulary, before and after
SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "1B": ((2048, 8192, 16, 32, 8, 128256), (3072, 8192, 28, 48, 8, 128256)),
    "8B": ((4096, 14336, 32, 32, 8, 128256), (5120, 17920, 40, 40, 8, 131072)),
    "70B": ((8192, 28672, 80, 64, 8, 128256), (16384, 57344, 160, 128, 16, 131072)),
    "400B": ((16384, 53248, 126, 128, 8, 128256), (20480, 65536, 160, 160, 8, 131072)),
}
FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)


def config(shape: str) -> dict[str, Any]:
    from outgrow.models.library import config_dict, config_object

    sizes = dict(zip(FIELDS, SHAPES[shape][0], strict=True))
    kind = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}
    return config_dict(config_object({**kind, **sizes, "head_dim": 128})) | {
        "architectures": ["LlamaForCausalLM"]
    }


def target(shape: str) -> dict[str, int]:
    before, after = SHAPES[shape]
    return {name: new for name, old, new in zip(FIELDS, before, after, strict=True) if old != new}


def make_hollow(folder: Path, shape: str) -> int:
    """A model folder whose weights are holes; returns its parameters."""
    from outgrow.models.library import model_names
    from outgrow.store.safetensors_file import header_bytes
    from outgrow.store.source import TensorMeta

    folder.mkdir(parents=True)
    full = config(shape)
    tensors = [
        (name, TensorMeta(tuple(size), torch.bfloat16)) for name, size in model_names(full).shapes.items()
    ]
    head, _ = header_bytes(tensors, {"format": "pt"})
    data = sum(meta.bytes for _, meta in tensors)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(head)
        file.truncate(len(head) + data)
    (folder / "config.json").write_text(json.dumps(full))
    return data // 2


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measured(work: Any) -> dict[str, float]:
    """CPU seconds and peak memory above the start of a call."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    start, cpu = resident(), time.process_time()
    work()
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    return {"seconds": time.process_time() - cpu, "bytes": max(0, peak - start)}


def child(folder: Path, shape: str, width: str) -> dict[str, Any]:
    """Both measures; a tiny growth first, so that imports are not counted."""
    from rich.console import Console

    from outgrow.commands.grow import run
    from outgrow.commands.options import GrowCall
    from outgrow.state.asked import plan_growth

    torch.set_num_threads(1)
    tiny = {
        **config(shape),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "vocab_size": 50,
    }
    tiny |= {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16}
    plan_growth(tiny, to={"hidden_size": 96}, width=width)
    planning = measured(lambda: plan_growth(config(shape), to=target(shape), width=width))
    to = [f"{name}={size}" for name, size in target(shape).items()]
    call = GrowCall(folder, folder.parent / "out", to, width=width, format="hub", dry_run=True)
    return {"plan": planning, "dry": measured(lambda: run(call, Console(file=io.StringIO())))}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--width", default="pad")
    parser.add_argument("--folder", type=Path, default=Path("runs/sizes"))
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(arguments.folder, arguments.child, arguments.width)))
        return
    print("| shape | parameters | plan: CPU s | MB | dry run: CPU s | MB |\n|---|--:|--:|--:|--:|--:|")
    too_much = []
    for shape in arguments.shapes:
        folder = arguments.folder / shape
        shutil.rmtree(folder, ignore_errors=True)
        parameters = make_hollow(folder, shape)
        command = [
            sys.executable,
            __file__,
            "--child",
            shape,
            "--folder",
            str(folder),
            "--width",
            arguments.width,
        ]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = json.loads(output.splitlines()[-1])
        shutil.rmtree(folder)
        row = [f"{found[kind]['seconds']:.2f} | {found[kind]['bytes'] / 1e6:.0f}" for kind in ("plan", "dry")]
        print(f"| {shape} | {parameters / 1e9:.1f} B | {row[0]} | {row[1]} |", flush=True)
        if any(one["seconds"] > MOST_SECONDS or one["bytes"] > MOST_MEMORY for one in found.values()):
            too_much.append(shape)
    if arguments.check and too_much:
        sys.exit(f"more than {MOST_SECONDS} CPU seconds or {MOST_MEMORY / 1e6:.0f} MB: {', '.join(too_much)}")


if __name__ == "__main__":
    main()
