"""Growing a model that nobody here trained: stories260K, a real pretrained Llama of 260,032 parameters.

Width 64 -> 96 (not a multiple), 8 heads -> 12, 4 key/value heads -> 6, 5 layers -> 8, with isometric width and identity
depth. Shows three things: the loss on TinyStories is the same to 1e-4 nats, greedy text is the same, and after 200 more
training steps on the same tokens the grown model is better than the small one. Several seeds; both at the same settings.

    python benchmarks/stories.py [--data DIR] [--seeds 3] [--steps 200]
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from outgrow import TrainingState, grow
from outgrow.store.models import build_model
from outgrow.train import train
from outgrow.train.config import parse_run

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
    checkpoint: Path, text: Path, output: Path, seed: int, steps: int, growth: dict[str, object] | None
) -> tuple[float, float]:
    """Validation loss before and after `steps` steps."""
    batch, length = 16, 256
    stage: dict[str, object] = {"name": "run", "from": str(checkpoint), "tokens": steps * batch * length}
    if growth:
        stage["grow"] = growth
    config = {
        "output": str(output),
        "seed": seed,
        "data": {"source": str(text), "sequence_length": length, "validation_share": 0.1},
        "optimizer": {"learning_rate": 1e-3, "weight_decay": 0.0},
        "schedule": {"kind": "wsd", "warmup_tokens": 20 * batch * length, "decay_share": 0.3},
        "batch": {"sequences": batch},
        "stages": [stage],
        "evaluation": {"every_tokens": 50 * batch * length, "sequences": 128},
        "checkpoint": {"every_steps": steps, "keep": 1},
    }
    result = train(parse_run(config), progress=False)
    row = result.stages[0]
    return float(row.loss_after_growth if growth else row.loss_start), float(row.final_loss)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path("runs/stories"))
    arguments = parser.parse_args()
    checkpoint = arguments.data / "ckpt" / "stories260K"
    text = arguments.data / "lm" / "tinystories_sample.txt.xz"
    shutil.rmtree(arguments.folder, ignore_errors=True)

    state = TrainingState.from_pretrained(checkpoint)
    small = build_model(state.config).eval()
    state.load_into(small)
    folder = grow(state, to=TO, depth="identity").save_pretrained(arguments.folder / "grown", format="hub")
    from transformers import AutoModelForCausalLM

    large = AutoModelForCausalLM.from_pretrained(folder).eval()  # what a user would open
    print("greedy text:")
    print("same text:", same_text(small, large, checkpoint))
    growth = {"to": TO, "width": "isometric", "depth": "identity"}
    for seed in range(arguments.seeds):
        before, ours = run(
            checkpoint, text, arguments.folder / f"grown-{seed}", seed, arguments.steps, growth
        )
        start, base = run(checkpoint, text, arguments.folder / f"small-{seed}", seed, arguments.steps, None)
        print(
            f"seed {seed}: loss {start:.6f} small, {before:.6f} grown (gap {abs(before - start):.1e} nats); after "
            f"{arguments.steps} steps {base:.4f} small, {ours:.4f} grown"
        )


if __name__ == "__main__":
    main()
