"""Try an installed outgrow as a stranger does: data files are there, a model made here grows, the proof passes.

make wheel     builds the wheel, installs it in a fresh environment, and runs this there, outside the repository
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import outgrow
from outgrow.models.architecture import load_architecture


def run(*words: str, cwd: Path) -> str:
    """`outgrow words...` of this environment; its output."""
    program = Path(sys.executable).with_name("outgrow")
    return subprocess.run([program, *words], cwd=cwd, check=True, capture_output=True, text=True).stdout


def main(repository: Path) -> None:
    home = Path(outgrow.__file__).resolve().parent
    source = repository.resolve() / "src" / "outgrow"
    assert home != source, f"this is the source tree, no installed wheel: {home}"
    for path in sorted(
        path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ):
        name = path.relative_to(source)
        assert (home / name).read_bytes() == path.read_bytes(), f"the wheel lacks {name}"
    for path in (files("outgrow") / "architectures").iterdir():
        if path.name.endswith(".yaml"):
            load_architecture(path.name.removesuffix(".yaml"))
    with tempfile.TemporaryDirectory() as temporary:
        here = Path(temporary)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=67,
            hidden_size=16,
            intermediate_size=20,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=1,
            eos_token_id=2,
        )
        LlamaForCausalLM(config).save_pretrained(here / "small")
        sizes = ["--to", "hidden_size=24", "--to", "num_hidden_layers=3"]
        print(run("grow", "small", "large", *sizes, "--depth", "identity", cwd=here))
        proof = run("verify", "small", "large", "--steps", "2", cwd=here).splitlines()
        print(next(line for line in proof if "same function" in line))
        assert "isometric" in run("operators", cwd=here)
        assert "quickstart" in run("--help", cwd=here)
        tiny = "model={model_type: llama, hidden_size: 8, intermediate_size: 12, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2}"
        larger = "stages.1.grow.to={hidden_size: 16, num_attention_heads: 4, num_key_value_heads: 4, num_hidden_layers: 2}"
        short = [
            "data.limit_bytes=200k",
            "data.tokenizer={vocab_size: 300}",
            "stages.0.tokens=8k",
            "stages.1.tokens=4k",
        ]
        words = [
            word
            for one in (tiny, larger, *short, "evaluation={every_tokens: 2k, sequences: 4}")
            for word in ("--set", one)
        ]
        print(
            run("quickstart", *words, "--set", "schedule.warmup_tokens=2k", cwd=here).strip().splitlines()[0]
        )
        assert (here / "runs" / "quickstart" / "compare.html").is_file()
    print(f"outgrow {outgrow.__version__} works from its wheel")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
