"""Stacking layers from file to file: outgrow beside mergekit's passthrough, in turn, each in a process of its own.

Makes the random Llama of `streaming.py --weights` and doubles its layers. Reports seconds, CPU-seconds and peak resident
memory of each, and the ratio of each round; beside them a plain synced write of as many bytes, which no program can do
without. mergekit is not a dependency: it is looked for where `--mergekit` says.

    pip install --no-deps --target /tmp/mergekit mergekit==0.1.5 immutables accelerate click peft
    python benchmarks/stacking.py --mergekit /tmp/mergekit [--gigabytes 2] [--rounds 3] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml
from streaming import copy_synced, make_source

_PEAK = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Runs its words, and says how they ended and the largest resident memory in KiB."""


def timed(words: list[str], **more: str) -> tuple[float, float, float]:
    """Seconds with the sync of what was written, CPU-seconds, and peak resident bytes of a process."""
    os.sync()
    began = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **more},
    )
    code, memory = done.stdout.split()
    if code != "0":
        raise SystemExit(f"{words[0]} ended with {code}")
    os.sync()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, cpu, int(memory) * 1024


def main() -> None:
    """Rounds in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mergekit", type=Path, required=True, help="folder that it was installed into")
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/stacking"))
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    options.folder.mkdir(parents=True)
    source, out, recipe = (options.folder / name for name in ("source", "out", "recipe.yaml"))
    make_source(source, options.gigabytes, weights=True)
    layers = json.loads((source / "config.json").read_text())["num_hidden_layers"]
    piece = {"sources": [{"model": str(source), "layer_range": [0, layers]}]}
    recipe.write_text(
        yaml.safe_dump({"slices": [piece, piece], "merge_method": "passthrough", "dtype": "bfloat16"})
    )
    print(f"{layers} layers, {(source / 'model.safetensors').stat().st_size / 1e9:.2f} GB", flush=True)
    to = ["--to", f"num_hidden_layers={2 * layers}", "--depth", "gstack", "--format", "hub"]
    ours = [sys.executable, "-m", "outgrow", "grow", str(source), str(out), *to]
    theirs = [sys.executable, "-m", "mergekit.scripts.run_yaml", str(recipe), str(out), "--lazy-unpickle"]
    found_by = {"PYTHONPATH": os.pathsep.join([str(options.mergekit), os.environ.get("PYTHONPATH", "")])}
    for number in range(options.rounds):
        found = {}
        for name, words, more in (("outgrow", ours, {}), ("mergekit", theirs, found_by)):
            found[name] = timed(words, **more)
            written = json.loads((out / "config.json").read_text())["num_hidden_layers"]
            if written != 2 * layers:
                raise SystemExit(f"{name} wrote {written} layers")
            size = sum(path.stat().st_size for path in out.iterdir())
            shutil.rmtree(out)
        os.sync()
        copy = copy_synced(out, size)
        shutil.rmtree(out)
        told = "; ".join(
            f"{name} {seconds:.1f} s, {cpu:.1f} CPU-s, {memory / 1e9:.2f} GB"
            for name, (seconds, cpu, memory) in found.items()
        )
        times, cpus = (found["mergekit"][place] / found["outgrow"][place] for place in (0, 1))
        print(
            f"round {number + 1}: {told}; {times:.1f} times as fast, {cpus:.1f} in CPU time; "
            f"a copy {copy:.1f} s",
            flush=True,
        )
    shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
