"""Every growth operator on one source and one target: what training makes of it after the same tokens.

A Llama-like model is trained on Wikipedia text, its width and depth are doubled by every operator of the registry, and it is
trained on: same tokens, same learning rate, same decay at the end, three seeds (of the growth and of the order of the data). `--scale`:
small (0.2 M to 1 M parameters, 256 K tokens of continuation), large (1 M to 7 M, 102 K tokens), gpu (29 M to 120 M, 20 M tokens, bf16). Moments as the operator's paper keeps them. Reported: validation loss (nats per
token) right after the growth, after 1 %, 10 % and 100 % of the continuation; escape (share of the weights outside the
small model's subspace at the end); seconds of the growth. Two arms without growth stand beside: the source trained on,
and the target from random weights.

    python benchmarks/operators.py --source            train the source (a few minutes on one core)
    python benchmarks/operators.py [--shard 0/2]       run every arm that has no result yet; several at once with --shard
    python benchmarks/operators.py --report docs       the table and the picture from the results that are there
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outgrow import TrainingState, plan_growth
from outgrow.operators import DEPTH, WIDTH
from outgrow.plan import plan
from outgrow.proof import outside
from outgrow.store.models import build_model
from outgrow.train import train
from outgrow.train.folder import RunFolder, read_metrics
from outgrow.train.run_file import parse_run


@dataclass(frozen=True)
class Scale:
    """Sizes, tokens and learning rate of one comparison."""

    width: int
    layers: int
    vocabulary: int
    rate: float
    sequences: int
    length: int
    source_tokens: int
    tokens: int

    @property
    def source(self) -> dict[str, Any]:
        """The source's config."""
        return {
            "model_type": "llama",
            "head_dim": 32,
            "max_position_embeddings": self.length,
            "tie_word_embeddings": True,
            **self.sizes(1),
        }

    @property
    def target(self) -> dict[str, int]:
        """What grows: width and depth doubled."""
        return self.sizes(2)

    def sizes(self, factor: int) -> dict[str, int]:
        """Every size times a factor."""
        width = self.width * factor
        return {
            "hidden_size": width,
            "intermediate_size": (width * 43) // 16,
            "num_hidden_layers": self.layers * factor,
            "num_attention_heads": width // 32,
            "num_key_value_heads": width // 32,
        }


SCALES = {
    "small": Scale(64, 2, 2048, 3e-3, 8, 128, 2_048_000, 256_000),
    "large": Scale(128, 4, 2048, 2e-3, 8, 128, 4_096_000, 102_400),
    "gpu": Scale(384, 6, 16384, 1e-3, 64, 512, 400_000_000, 20_000_000),
}


@dataclass(frozen=True)
class Arm:
    """One way to begin the continuation."""

    name: str
    kind: str
    grow: dict[str, Any] | None = None
    stage: dict[str, Any] | None = None


def arms() -> list[Arm]:
    """Every width operator over stacked layers, every depth operator under isometric width, and two without growth."""
    found = [Arm("source, not grown", "none"), Arm("target, from random weights", "none")]
    for name, operator in WIDTH.items():
        if name != "auto":
            how = {"width": name, "depth": "stack", "moments": operator.published_moments, "noise": 0.0}
            found.append(Arm(f"{name} + stack", "width", how))
    for name in DEPTH:
        if name not in ("auto", "stack"):
            how = {"width": "isometric", "depth": name, "moments": "transport", "noise": 0.0}
            found.append(Arm(f"isometric + {name}", "depth", how))
    for moments in ("keep_zero", "copy", "reset"):
        how = {"width": "isometric", "depth": "stack", "moments": moments, "noise": 0.0}
        found.append(Arm(f"isometric + stack, moments {moments}", "moments", how))
    for noise in (0.1, 1.0):
        how = {"width": "isometric", "depth": "stack", "moments": "transport", "noise": noise}
        found.append(Arm(f"isometric + stack, noise {noise:g}", "noise", how))
    return found


def settings(scale: Scale, data: Path, output: Path, seed: int) -> dict[str, Any]:
    """What all runs share."""
    return {
        "output": str(output),
        "seed": seed,
        "data": {
            "source": str(data / "lm" / "wiki_train_00.txt.xz"),
            "validation_source": str(data / "lm" / "wiki_valid.txt.xz"),
            "sequence_length": scale.length,
            "limit_bytes": 20_000_000,
        },
        "optimizer": {"learning_rate": scale.rate, "weight_decay": 0.1},
        "batch": {"sequences": scale.sequences},
        "evaluation": {"sequences": 64},
        "checkpoint": {"every_steps": 100_000, "keep": 1},
        "log_every_steps": 10,
    }


def train_source(scale: Scale, data: Path, folder: Path) -> Path:
    """The source, in the constant phase of its schedule."""
    config = settings(scale, data, folder / "source", 0)
    config["data"]["tokenizer"] = {"vocab_size": scale.vocabulary}
    config |= {
        "model": scale.source,
        "schedule": {"kind": "wsd", "warmup_tokens": 100_000, "decay_share": 0.0},
        "stages": [{"name": "source", "tokens": scale.source_tokens}],
    }
    train(parse_run(config), progress=True)
    return folder / "source" / "final"


def run_arm(scale: Scale, arm: Arm, seed: int, data: Path, folder: Path) -> dict[str, Any]:
    """One continuation, in three stages so that it is validated after 1 %, 10 % and 100 % of its tokens."""
    source = folder / "source" / "final"
    output = folder / f"{arm.name.replace(' ', '_').replace(',', '').replace(':', '-')}-{seed}"
    result = output / "arm.json"
    if result.is_file():
        return dict(json.loads(result.read_text()))
    config = settings(scale, data, output, seed)
    shares = (0.01, 0.09, 0.9)
    stages: list[dict[str, Any]] = [
        {"name": f"s{place}", "tokens": max(1, round(share * scale.tokens))}
        for place, share in enumerate(shares)
    ]
    warmup = 0
    if arm.name.startswith("target"):
        warmup = scale.tokens // 10
        config["model"] = scale.source | scale.target
        config["data"]["tokenizer"] = {"path": str(source)}
    else:
        stages[0]["from"] = str(source)
    if arm.grow is not None:
        stages[0]["grow"] = {"to": scale.target, "seed": seed, **arm.grow}
    stages[0] |= arm.stage or {}
    config |= {"schedule": {"kind": "wsd", "warmup_tokens": warmup, "decay_share": 0.2}, "stages": stages}
    train(parse_run(config), progress=False)
    rows = read_metrics(RunFolder(output).metrics)
    growth = next((row for row in rows if row["kind"] == "growth"), {})
    found = {
        "arm": arm.name,
        "kind": arm.kind,
        "grow": arm.grow,
        "seed": seed,
        "before": growth.get("loss_before"),
        "after": growth.get("loss_after"),
        "losses": [
            [
                row["val_loss"]
                for row in rows
                if row["kind"] == "validation" and row["stage"] == stage["name"]
            ][-1]
            for stage in stages
        ],
        "train": [[row["tokens"], row["loss"]] for row in rows if row["kind"] == "train"],
        "growth_seconds": growth.get("growth_seconds"),
        "escape": escape(scale, arm, seed, source, output / "final"),
    }
    for checkpoint in output.rglob("*.safetensors"):
        checkpoint.unlink()  # only the numbers are kept
    result.write_text(json.dumps(found))
    return found


def escape(scale: Scale, arm: Arm, seed: int, source: Path, final: Path) -> float | None:
    """Share of the final weights outside the small model's subspace, where the operator's maps define one."""
    if arm.grow is None:
        return None
    config = TrainingState.from_pretrained(source).config
    asked = {**arm.grow, "moments": "transport"}
    growth_plan = plan(plan_growth(config, to=scale.target, seed=seed, **asked).growth)
    state = TrainingState.from_pretrained(final)
    model = build_model(state.config)
    state.load_into(model)
    return outside(growth_plan, dict(model.named_parameters()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, default=Path("runs/operators"))
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="Only arms whose name contains this.")
    parser.add_argument("--shard", default="0/1", help="This process's share of the arms, as 0/2.")
    parser.add_argument("--source", action="store_true")
    arguments = parser.parse_args()
    scale, folder = SCALES[arguments.scale], arguments.folder / arguments.scale
    if arguments.source:
        train_source(scale, arguments.data, folder)
        return
    mine, of = (int(part) for part in arguments.shard.split("/"))
    jobs = [(arm, seed) for seed in range(arguments.seeds) for arm in arms() if arguments.only in arm.name]
    for place, (arm, seed) in enumerate(jobs):
        if place % of != mine:
            continue
        row = run_arm(scale, arm, seed, arguments.data, folder)
        after = "-" if row["after"] is None else f"{row['after']:.4f}"
        losses = " ".join(f"{loss:.4f}" for loss in row["losses"])
        print(
            f"{place + 1}/{len(jobs)} seed {seed} {arm.name}: {after} | {losses} | escape {row['escape']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
