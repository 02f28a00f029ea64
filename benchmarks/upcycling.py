"""Does a dense model that becomes a mixture of experts beat one that stays dense, and a mixture from scratch?

A tiny Llama is trained, then goes on for the same FLOPs again in every way below; a mixture from scratch gets the FLOPs of both parts.
Eight experts, two at work (pieces: eight halves, two at work, so that a token costs what it cost before). Every run ends in the same decay.

    dense        goes on as it is
    law          copies, moments m/E and v/E²         cautious   m/E and v/(kE)
    raw          copies, moments copied as they are   reset      no moments
    pieces       four copies in two pieces each, by the law
    drop         copies, half of every expert's inner units drawn anew, by the law
    scratch      a mixture of eight, two at work, from the first token

    python benchmarks/upcycling.py --data ../shared/data/lm/wiki_train_00.txt.xz --valid ../shared/data/lm/wiki_valid.txt.xz --work DIR

Start it again to go on: a run that is finished is not done again. Results: docs/results/upcycling.md; with --out docs/_static its numbers and picture.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from outgrow import TrainingState, grow
from outgrow.cost.flops import training_flops
from outgrow.data.opening import open_data
from outgrow.engine.step import build_for_training
from outgrow.run.run_file import parse_run
from outgrow.training import train_run
from outgrow.training.folder import read_metrics

SMALL = {
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
EXPERTS = {"num_local_experts": 8, "num_experts_per_tok": 2}
LENGTH, SEQUENCES, RATE, BALANCING = 64, 16, 4e-3, 0.01
TOKENS = LENGTH * SEQUENCES
WAYS: dict[str, dict[str, str]] = {
    "law": {"experts": "copy", "moments": "transport"},
    "cautious": {"experts": "copy", "moments": "cautious"},
    "raw": {"experts": "copy", "moments": "copy"},
    "reset": {"experts": "copy", "moments": "reset"},
    "pieces": {"experts": "split:pieces=2", "moments": "transport"},
    "drop": {"experts": "drop:share=0.5", "moments": "transport"},
}
EARLY = 25
"""Steps of the mixture over which the loss after the growth is averaged."""


def settings(work: Path, name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """What every run has in common."""
    return {
        "output": str(work / f"{name}-{seed}"),
        "data": {
            "source": str(options.data),
            "limit_bytes": options.bytes,
            "validation_source": str(options.valid),
            "sequence_length": LENGTH,
        },
        "optimizer": {"learning_rate": RATE},
        "batch": {"sequences": SEQUENCES},
        "evaluation": {"every_tokens": options.steps * TOKENS // 6, "sequences": 256},
        "checkpoint": {"every_steps": None},
        "balancing": BALANCING,
        "device": "cpu",
        "seed": seed,
        "log_every_steps": 5,
    }


def schedule(warmup: int, share: float) -> dict[str, Any]:
    """Warm-up in steps, then constant, then a decay over a share of the run."""
    return {"kind": "wsd", "warmup_tokens": warmup * TOKENS, "decay_share": share}


def dense_run(work: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The dense model: `steps` at a constant rate, and as many again with a decay over two fifths of them."""
    content = settings(work, "dense", seed, options)
    content["data"]["tokenizer"] = {"vocab_size": 512}
    stages = [{"name": name, "tokens": options.steps * TOKENS} for name in ("first", "second")]
    return {**content, "model": SMALL, "schedule": schedule(options.steps // 20, 0.2), "stages": stages}


def sparse_run(
    work: Path, way: str, seed: int, options: argparse.Namespace, dense: Mapping[str, Any]
) -> dict[str, Any]:
    """A mixture that goes on from the dense model's first part, for as many FLOPs as its second."""
    content = settings(work, way, seed, options)
    start = work / f"dense-{seed}" / "stages" / "1-first" / f"step-{options.steps:08d}"
    grow = {"as": "mixtral", "to": EXPERTS, **WAYS[way], "seed": seed}
    tokens = equal_tokens(way, options.steps, dense)
    content["data"]["skip_steps"] = options.steps
    stages = [{"name": way, "tokens": tokens, "from": str(start), "grow": grow}]
    return {**content, "schedule": schedule(0, 0.4), "stages": stages}


def scratch_run(
    work: Path, seed: int, options: argparse.Namespace, dense: Mapping[str, Any]
) -> dict[str, Any]:
    """A mixture from the first token, for the FLOPs of both parts."""
    content = settings(work, "scratch", seed, options)
    content["data"]["tokenizer"] = {"path": str(work / f"dense-{seed}" / "tokenizer")}
    model = {**SMALL, **EXPERTS, "model_type": "mixtral", "rms_norm_eps": dense["rms_norm_eps"]}
    tokens = equal_tokens("scratch", 2 * options.steps, dense)
    return {
        **content,
        "model": model,
        "schedule": schedule(options.steps // 20, 0.2),
        "stages": [{"name": "scratch", "tokens": tokens}],
    }


def equal_tokens(way: str, steps: int, dense: Mapping[str, Any]) -> int:
    """Whole steps of a mixture for the FLOPs of so many steps of the dense model."""
    half = {"intermediate_size": SMALL["intermediate_size"] // 2} if way == "pieces" else {}
    sparse = {**dense, **EXPERTS, **half, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
    share = training_flops(dense, LENGTH)[1] / training_flops(sparse, LENGTH)[1]
    return round(steps * share) * TOKENS


def losses(folder: Path, steps: int) -> dict[str, Any]:
    """What the log of a run says: its last validation, the curve, the loss right after its growth, and the experts' load."""
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] != "machine"]
    validations = [(row["flops"], row["val_loss"]) for row in rows if row["kind"] == "validation"]
    trained = [row for row in rows if row["kind"] == "train"]
    first = trained[0]["step"] if "dense" not in folder.name else steps
    found: dict[str, Any] = {
        "final": validations[-1][1],
        "flops": validations[-1][0],
        "curve": validations,
        "early": fmean(row["loss"] for row in trained if first < row["step"] <= first + EARLY),
    }
    growth = [row for row in rows if row["kind"] == "growth"]
    if growth:
        found |= {"before": growth[0]["loss_before"], "after": growth[0]["loss_after"]}
    if "load_max" in trained[-1]:
        found |= {name: trained[-1][name] for name in ("balance", "load_max", "load_min", "idle")}
    return found


def study(work: Path, seeds: list[int], options: argparse.Namespace) -> dict[str, Any]:
    """Every run of every seed, or what is left of them."""
    found: dict[str, Any] = {}
    for seed in seeds:
        train_run(parse_run(dense_run(work, seed, options)), progress=False)
        folder = work / f"dense-{seed}"
        found[f"dense-{seed}"] = losses(folder, options.steps)
        config = json.loads((folder / "final" / "config.json").read_text())
        runs = {way: sparse_run(work, way, seed, options, config) for way in WAYS}
        for way, content in {**runs, "scratch": scratch_run(work, seed, options, config)}.items():
            train_run(parse_run(content), progress=False)
            found[f"{way}-{seed}"] = losses(work / f"{way}-{seed}", options.steps)
            print(f"{way}-{seed}: {found[f'{way}-{seed}']['final']:.4f}", flush=True)
    return found


def second_moments(work: Path, seed: int, options: argparse.Namespace, batches: int = 40) -> dict[str, float]:
    """E[g_e²] / E[g²] over batches, at the dense model's middle and a mixture copied from it: what v of an expert really is."""
    content = dense_run(work, seed, options)
    run = parse_run(content)
    data = open_data(run, work / f"dense-{seed}" / "tokenizer")
    small = TrainingState.from_pretrained(
        work / f"dense-{seed}" / "stages" / "1-first" / f"step-{options.steps:08d}"
    )
    large = grow(small, to=EXPERTS, as_="mixtral", experts="copy", seed=seed)
    sums: dict[str, list[torch.Tensor]] = {}
    for which, state in (("dense", small), ("sparse", large)):
        model = build_for_training(dict(state.config))
        state.load_into(model)
        for step in range(batches):
            inputs, targets = data.batch(seed, options.steps + step, SEQUENCES)
            model.zero_grad()
            logits = model(input_ids=inputs).logits
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
            for name, parameter in model.named_parameters():
                if name.endswith(("down_proj", "down_proj.weight")) and parameter.grad is not None:
                    found = sums.setdefault(
                        f"{which} {name.split('.')[2]}", [torch.zeros(()), torch.zeros(())]
                    )
                    found[0] = found[0] + parameter.grad.square() / batches
                    found[1] = found[1] + parameter.grad / batches
    ratios = {}
    for layer in range(SMALL["num_hidden_layers"]):
        dense, sparse = sums[f"dense {layer}"], sums[f"sparse {layer}"]
        ratios[f"squares {layer}"] = float(sparse[0].mean() / dense[0].mean())
        ratios[f"sum of means {layer}"] = float((sparse[1].sum(0) - dense[1]).norm() / dense[1].norm())
        ratios[f"noise {layer}"] = float(1 - dense[1].square().mean() / dense[0].mean())
    return ratios


def table(found: Mapping[str, Any], seeds: list[int]) -> str:
    """Final validation losses against continued dense training of the same seed, as markdown."""
    lines = [
        "| way | after growth | first 25 steps | end | against dense | seeds better than dense |",
        "|---|---|---|---|---|---|",
    ]
    for way in ("dense", *WAYS, "scratch"):
        rows = [found[f"{way}-{seed}"] for seed in seeds]
        gaps = [row["final"] - found[f"dense-{seed}"]["final"] for row, seed in zip(rows, seeds, strict=True)]
        after = f"{fmean(row['after'] for row in rows):.3f}" if "after" in rows[0] else ""
        early = "" if way == "scratch" else f"{fmean(row['early'] for row in rows):.3f}"
        spread = f" ± {stdev(gaps):.3f}" if len(gaps) > 1 and way != "dense" else ""
        against = "" if way == "dense" else f"{fmean(gaps):+.3f}{spread}"
        better = "" if way == "dense" else f"{sum(gap < 0 for gap in gaps)} of {len(gaps)}"
        final = fmean(row["final"] for row in rows)
        lines.append(f"| {way} | {after} | {early} | {final:.3f} | {against} | {better} |")
    return "\n".join(lines)


def draw(found: Mapping[str, Any], seed: int, path: Path) -> None:
    """Validation loss against FLOPs, one seed: the dense model's second part and every mixture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    dense = found[f"dense-{seed}"]
    middle = dense["flops"] / 2
    for way in ("dense", *WAYS, "scratch"):
        row = found[f"{way}-{seed}"]
        shift = 0.0 if way in ("dense", "scratch") else middle
        curve = [(flops + shift, loss) for flops, loss in row["curve"]]
        if shift:
            curve = [(middle, row["after"]), *curve]
        shown = [(flops, loss) for flops, loss in curve if flops >= 0.6 * middle]
        style = "k-" if way == "dense" else "k:" if way == "scratch" else "-"
        axes.plot(*zip(*shown, strict=True), style, label=way, linewidth=1.5)
    axes.axvline(middle, color="0.8", linewidth=1, zorder=0)
    axes.set(xlabel="FLOPs", ylabel="validation loss (nats per token)")
    axes.legend(frameon=False, ncols=2)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600, help="steps of each part of the dense model")
    parser.add_argument("--bytes", type=int, default=3_000_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = study(options.work, options.seeds, options)
    found["second moments"] = second_moments(options.work, options.seeds[0], options)
    print(found["second moments"])
    print(table(found, options.seeds))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "upcycling.json").write_text(json.dumps(found, indent=1) + "\n")
        draw(found, options.seeds[0], options.out / "upcycling.svg")


if __name__ == "__main__":
    main()
