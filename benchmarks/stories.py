"""Growing a model that nobody here trained: stories260K, a real pretrained Llama of 260,032 parameters.

Width 64 -> 96 (not a multiple), 8 heads -> 12, 4 key/value heads -> 6, 5 layers -> 8, padded width and identity depth (both exact). Shows three things: the loss on TinyStories is the same to 1e-4 nats, greedy text is the same, and after 200 more
training steps on the same tokens the grown model is better than the small one, each at the best of the same learning rates.

    python benchmarks/stories.py [--data DIR] [--seeds 3] [--steps 200]
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from outgrow import TrainingState, grow
from outgrow.models.library import build_model
from outgrow.run.run_file import parse_run
from outgrow.training import train_run
from outgrow.training.result import StageResult

TO = {"hidden_size": 96, "num_attention_heads": 12, "num_key_value_heads": 6, "num_hidden_layers": 8}
PROMPTS = ("Once upon a time", "Lily and Tom went to the park", "The dog was sad because")


def same_text(small: torch.nn.Module, large: torch.nn.Module, folder: Path) -> list[bool]:
    """Whether 60 greedy tokens agree, prompt by prompt."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for prompt in PROMPTS:
        tokens = tokenizer(prompt, return_tensors="pt").input_ids
        texts = [
            tokenizer.decode(model.generate(tokens, max_new_tokens=60, do_sample=False)[0])
            for model in (small, large)
        ]
        print(f"  {texts[0]!r}")
        found.append(texts[0] == texts[1])
    return found


def run(
    checkpoint: Path,
    text: Path,
    output: Path,
    seed: int,
    steps: int,
    rate: float,
    growth: dict[str, object] | None,
) -> StageResult:
    """Train `steps` steps of 64 x 128 tokens from the checkpoint, grown first or not."""
    batch, length = 64, 128
    stage: dict[str, object] = {"name": "run", "from": str(checkpoint), "tokens": steps * batch * length}
    if growth:
        stage["grow"] = growth
    config = {
        "output": str(output),
        "seed": seed,
        "data": {"source": str(text), "sequence_length": length, "validation_share": 0.1, "separator": "<s>"},
        "optimizer": {"learning_rate": rate, "weight_decay": 0.0},
        "schedule": {"kind": "wsd", "warmup_tokens": 20 * batch * length, "decay_share": 0.5},
        "batch": {"sequences": batch},
        "stages": [stage],
        "evaluation": {"sequences": 192},
        "checkpoint": {"every_steps": steps, "keep": 1},
    }
    return train_run(parse_run(config), progress=False).stages[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4])
    parser.add_argument("--width", default="pad")
    parser.add_argument("--folder", type=Path, default=Path("runs/stories-benchmark"))
    arguments = parser.parse_args()
    checkpoint = arguments.data / "ckpt" / "stories260K"
    text = arguments.data / "lm" / "tinystories_sample.txt.xz"
    shutil.rmtree(arguments.folder, ignore_errors=True)

    state = TrainingState.from_pretrained(checkpoint)
    small = build_model(state.config).eval()
    state.load_into(small)
    grown = grow(state, to=TO, width=arguments.width, depth="identity")
    folder = grown.save_pretrained(arguments.folder / "grown", format="hub")
    from transformers import AutoModelForCausalLM

    large = AutoModelForCausalLM.from_pretrained(folder).eval()  # what a user would open
    print("greedy text:")
    print("same text:", same_text(small, large, checkpoint), flush=True)
    growth = {"to": TO, "width": arguments.width, "depth": "identity"}
    for seed in range(arguments.seeds):
        ends: dict[str, list[float]] = {"small": [], "grown": []}
        for rate in arguments.rates:
            for arm, how in (("small", None), ("grown", growth)):
                output = arguments.folder / f"{arm}-{seed}-{rate:g}"
                row = run(checkpoint, text, output, seed, arguments.steps, rate, how)
                assert row.final_loss is not None
                ends[arm].append(row.final_loss)
                print(f"  seed {seed}, {arm}, learning rate {rate:g}: {row.final_loss:.4f}", flush=True)
                if how is not None:
                    assert row.loss_before_growth is not None
                    assert row.loss_after_growth is not None
                    gap = abs(row.loss_after_growth - row.loss_before_growth)
                    print(
                        f"  loss {row.loss_before_growth:.6f} before and {row.loss_after_growth:.6f} after growth: gap {gap:.1e} nats"
                    )
        print(
            f"seed {seed}: after {arguments.steps} steps, best rate of each: small {min(ends['small']):.4f}, grown {min(ends['grown']):.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
