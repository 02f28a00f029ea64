"""Growth by many processes: what is read for a byte that is needed, and the time of all processes.

    python benchmarks/distributed.py plan                 every operator, 1 to 1024 ranks, files and shards; no tensor is made
    python benchmarks/distributed.py files [--width 384]  one state grown by 1, 2, 4 processes against a synced copy by as many

Rows are JSON, one a line. Two cores measure no speed-up of four processes: CPU seconds per rank stand beside wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "head_dim": 64,
    "vocab_size": 32000,
    "num_hidden_layers": 16,
}
SMALL = {
    **LLAMA,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
WIDER = {
    "hidden_size": 4096,
    "intermediate_size": 11264,
    "num_attention_heads": 64,
    "num_key_value_heads": 16,
}
KEEPS_HEADS = {name: SMALL[name] for name in ("num_attention_heads", "num_key_value_heads")}


def say(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def plan_rows() -> None:
    """Amplification of every operator, by ranks and placement."""
    from outgrow.errors import GrowthError
    from outgrow.growth.plan import plan
    from outgrow.growth.rank_costs import rank_costs
    from outgrow.methods.build import DEPTH, WIDTH, build
    from outgrow.models.architecture import resolve
    from outgrow.models.library import config_dict, config_object

    small = resolve(config_dict(config_object(SMALL)))
    cases = [("width", name, WIDER | (KEEPS_HEADS if name == "sparkling" else {})) for name in WIDTH]
    cases += [("depth", name, {"num_hidden_layers": 32}) for name in DEPTH]
    for kind, name, to in cases:
        try:
            made = plan(build(small, to, **{"width": "duplicate", kind: name}, noise=0.1))
        except GrowthError as error:
            say(kind=kind, operator=name, refused=str(error).splitlines()[0])
            continue
        for placement in ("files", "shards"):
            amplification = {
                ranks: round(rank_costs(made, ranks, placement).amplification, 3)
                for ranks in (1, 8, 64, 1024)
            }
            say(kind=kind, operator=name, placement=placement, amplification=amplification)


def file_rows(width: int) -> None:
    """Wall and CPU seconds, imports included, of a growth to twice the width and depth, and of a copy of the result."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from outgrow.state.training_state import TrainingState

    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 8, "vocab_size": 8000}
    heads = {"num_attention_heads": width // 64, "num_key_value_heads": width // 64, "head_dim": 64}
    with tempfile.TemporaryDirectory(dir=os.environ.get("OUT")) as folder:
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**sizes, **heads))
        optimizer = torch.optim.AdamW(model.parameters())
        model(
            input_ids=torch.ones(1, 4, dtype=torch.int64), labels=torch.ones(1, 4, dtype=torch.int64)
        ).loss.backward()
        optimizer.step()
        TrainingState.from_model(model, optimizer).save_pretrained(f"{folder}/small")
        del model, optimizer
        doubled = {
            name: 2 * sizes[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")
        }
        doubled |= {"num_attention_heads": width // 32, "num_key_value_heads": width // 32}
        to = [word for name, size in doubled.items() for word in ("--to", f"{name}={size}")]
        for ranks in (1, 2, 4):
            launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)] if ranks > 1 else []
            grow = [
                "-m",
                "outgrow",
                "grow",
                f"{folder}/small",
                f"{folder}/large-{ranks}",
                *to,
                "--width",
                "isometric",
            ]
            growth = _timed([sys.executable, *launch, *grow])
            copy = [sys.executable, __file__, "copy", f"{folder}/large-{ranks}", f"{folder}/copy", str(ranks)]
            copied = _timed(copy)
            size = sum(path.stat().st_size for path in Path(f"{folder}/large-{ranks}").iterdir())
            say(ranks=ranks, megabytes=size >> 20, growth=growth, copy=copied)
            subprocess.run(["rm", "-r", f"{folder}/copy"], check=True)


def _timed(command: list[str]) -> dict[str, float]:
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": round(time.monotonic() - start, 1), "cpu": round(cpu, 1)}


def copy_together(source: Path, target: Path, processes: int) -> None:
    """A plain synced copy, file by file, bytes in equal stretches."""
    target.mkdir()
    for path in source.iterdir():
        with open(target / path.name, "wb") as file:
            file.truncate(path.stat().st_size)
    children = []
    for number in range(processes):
        child = os.fork()
        if child == 0:
            for path in source.iterdir():
                size = path.stat().st_size
                at, end = size * number // processes, size * (number + 1) // processes
                with open(path, "rb") as one, open(target / path.name, "r+b") as other:
                    one.seek(at)
                    other.seek(at)
                    while at < end:
                        block = one.read(min(16 << 20, end - at))
                        other.write(block)
                        at += len(block)
                    other.flush()
                    os.fsync(other.fileno())
            os._exit(0)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("plan", "files", "copy"))
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--width", type=int, default=384)
    asked = parser.parse_args()
    if asked.what == "plan":
        plan_rows()
    elif asked.what == "files":
        file_rows(asked.width)
    else:
        copy_together(Path(asked.rest[0]), Path(asked.rest[1]), int(asked.rest[2]))


if __name__ == "__main__":
    main()
