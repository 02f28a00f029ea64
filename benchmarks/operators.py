"""Every growth operator on one source and one target: what training makes of it after the same tokens.

A Llama-like model is trained on Wikipedia text, its width and depth are doubled by every operator of the registry, and it is
trained on: same tokens, same learning rate, same decay at the end, three seeds (of the growth and of the order of the data). `--scale`:
small (0.3 M to 1.5 M parameters, 192 K tokens of continuation), large (1 M to 7 M, 102 K tokens), gpu (29 M to 120 M, 20 M tokens, bf16). Moments as the operator's paper keeps them. Reported: validation loss (nats per
token) right after the growth, after 1 %, 10 % and 100 % of the continuation; escape (share of the weights outside the
small model's subspace at the end); seconds of the growth. Learned operators are fitted with 100 steps first, which the other arms do not
have. Two arms without growth stand beside: the source trained on,
and the target from random weights.

    python benchmarks/operators.py --source            train the source (a few minutes on one core)
    python benchmarks/operators.py                     run every arm that has no result yet; several processes may do so at once
    python benchmarks/operators.py --report docs/_static  table (operators.json) and picture from the results that are there
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from outgrow import TrainingState, plan_growth
from outgrow.files.locks import RunBusyError
from outgrow.growth.plan import plan
from outgrow.methods.build import DEPTH, WIDTH
from outgrow.models.library import build_model
from outgrow.proof.measures import outside
from outgrow.run.run_file import parse_run
from outgrow.training import train_run
from outgrow.training.folder import RunFolder, read_metrics


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
    "small": Scale(64, 3, 2048, 3e-3, 8, 128, 1_536_000, 192_000),
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

    def to(self, scale: Scale) -> dict[str, int]:
        """Target sizes; SPARKLING leaves the heads as they are, so its target is smaller."""
        same = self.name.startswith("sparkling")
        heads = {"num_attention_heads", "num_key_value_heads"} if same else set()
        return {name: size for name, size in scale.target.items() if name not in heads}


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
    for depth in ("identity", "interleave", "lemon"):
        how = {"width": "pad", "depth": depth, "moments": "keep_zero", "noise": 0.0}
        found.append(Arm(f"pad + {depth}", "depth", how))
    for moments in ("keep_zero", "copy", "reset"):
        how = {"width": "isometric", "depth": "stack", "moments": moments, "noise": 0.0}
        found.append(Arm(f"isometric + stack, moments {moments}", "moments", how))
    how = {"width": "hypercloning:snr=10", "depth": "stack", "moments": "reset", "noise": 0.0}
    found.append(Arm("hypercloning:snr=10 + stack", "width", how))
    boost = {"new_entries": {"multiplier": 1.3, "rise_tokens": 64_000}}
    for init in ("copy", "zero"):
        how = {"width": f"sparkling:fan_in={init}", "depth": "stack", "moments": "keep_zero", "noise": 0.0}
        found.append(Arm(f"sparkling:fan_in={init} + stack, boost", "width", how, boost))
    for method, start in (("ligo", "exact"), ("ligo", "published"), ("mango", "published")):
        how = {"learn": {"method": method, "start": start}}
        found.append(
            Arm(f"{method}, {start} start", "learned", how)
        )  # LESA puts one layer in a gap: no doubling
    for noise in (0.1, 1.0):
        how = {"width": "isometric", "depth": "stack", "moments": "transport", "noise": noise}
        found.append(Arm(f"isometric + stack, noise {noise:g}", "noise", how))
    return found


def distinct(found: list[Arm], scale: Scale, config: dict[str, Any]) -> dict[str, list[str]]:
    """Arm -> the depth operators that are the same growth at these sizes (at a factor of 2, several are); each is run once."""
    same: dict[str, list[str]] = {}
    first: dict[object, str] = {}
    for arm in found:
        key: object = arm.name
        if arm.kind == "depth" or arm.name == "isometric + stack":
            growth = plan_growth(config, to=arm.to(scale), seed=0, **(arm.grow or {})).growth
            if not growth.parts:
                key = (str(arm.grow and arm.grow["width"]), growth.layers)
        name = first.setdefault(key, arm.name)
        same.setdefault(name, [])
        if name != arm.name:
            same[name].append(str(arm.grow and arm.grow["depth"]))
    return same


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
    train_run(parse_run(config), progress=True)
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
        stages[0]["grow"] = {"to": arm.to(scale), "seed": seed, **arm.grow}
    stages[0] |= arm.stage or {}
    config |= {"schedule": {"kind": "wsd", "warmup_tokens": warmup, "decay_share": 0.2}, "stages": stages}
    train_run(parse_run(config), progress=False)
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
    if arm.grow is None or arm.kind == "learned":
        return None
    config = TrainingState.from_pretrained(source).config
    asked = {**arm.grow, "moments": "transport"}
    growth_plan = plan(plan_growth(config, to=arm.to(scale), seed=seed, **asked).growth)
    state = TrainingState.from_pretrained(final)
    model = build_model(state.config)
    state.load_into(model)
    return outside(growth_plan, dict(model.named_parameters()))


# ---- what came of it ------------------------------------------------------------------------------------------------


def collected(folder: Path, scale: Scale) -> dict[str, list[dict[str, Any]]]:
    """Arm -> its results, one per seed, best first; an arm that stands for several operators names them."""
    config = TrainingState.from_pretrained(folder / "source" / "final").config
    names = {name: ", ".join([name, *others]) for name, others in distinct(arms(), scale, config).items()}
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*/arm.json")):
        row = json.loads(path.read_text())
        if row["arm"] in names:
            found.setdefault(names[row["arm"]], []).append(row)
    return dict(sorted(found.items(), key=lambda item: mean(row["losses"][-1] for row in item[1])))


def table(found: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, str]]:
    """Arm -> column -> text; losses are means over the seeds, the last one with its range."""
    rows = {}
    for arm, results in found.items():
        last = [row["losses"][-1] for row in results]
        rows[arm] = {
            "after growth": _number([row["after"] for row in results]),
            "1 %": _number([row["losses"][0] if len(row["losses"]) == 3 else None for row in results]),
            "10 %": _number([row["losses"][1] if len(row["losses"]) == 3 else None for row in results]),
            "100 %": f"{mean(last):.4f}",
            "range": f"{min(last):.4f} to {max(last):.4f}",
            "seeds": str(len(results)),
            "escape": _number([row["escape"] for row in results], digits=3),
            "growth, s": _number([row["growth_seconds"] for row in results], digits=1),
        }
    return rows


def _number(values: list[float | None], digits: int = 4) -> str:
    kept = [value for value in values if value is not None]
    return f"{mean(kept):.{digits}f}" if kept else "-"


def draw(found: dict[str, list[dict[str, Any]]], path: Path, title: str) -> None:
    """Final loss of every arm, best at the top: mean, and a dot per seed."""
    from matplotlib.figure import Figure

    from outgrow.report.plot import COLORS, FAINT, INK

    found = {arm: rows for arm, rows in found.items() if not arm.startswith("target")}
    kinds = {
        "none": COLORS[5],
        "width": COLORS[0],
        "depth": COLORS[1],
        "moments": COLORS[2],
        "noise": COLORS[3],
    }
    kinds["learned"] = COLORS[4]
    figure = Figure(figsize=(9.0, 0.9 + 0.27 * len(found)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for place, rows in enumerate(reversed(found.values())):
        last, color = [row["losses"][-1] for row in rows], kinds[rows[0]["kind"]]
        axes.plot(last, [place] * len(last), linestyle="", marker="o", markersize=4, color=color, alpha=0.45)
        axes.plot([mean(last)], [place], marker="D", markersize=6.5, color=color)
    axes.set_yticks(range(len(found)), list(reversed(found)), fontsize=8.5)
    for kind, color in kinds.items():
        if any(rows[0]["kind"] == kind for rows in found.values()):
            label = "not grown" if kind == "none" else kind
            axes.plot([], [], linestyle="", marker="D", color=color, label=label)
    axes.set_xlabel("validation loss at the end of the continuation (nats per token)", color=INK)
    axes.grid(axis="x", color="#e7eaee", linewidth=0.8)
    axes.grid(axis="y", color="#f2f4f6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, color=FAINT, labelcolor=INK)
    axes.legend(frameon=False, loc="upper right", fontsize=9)
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold", color=INK)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def report(folder: Path, static: Path, scale: str) -> None:
    """Print the table; write operators.json (which docs/reference/operators.md takes in) and the picture."""
    found = collected(folder, SCALES[scale])
    rows = table(found)
    columns = list(next(iter(rows.values())))
    print(f"| arm | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
    for arm, row in rows.items():
        print(f"| {arm} | {' | '.join(row.values())} |")
    (static / "operators.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    draw(found, static / f"operators_{scale}", f"every operator after the same continuation ({scale})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, default=Path("runs/operators"))
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="Only arms whose name contains this.")
    parser.add_argument("--source", action="store_true")
    parser.add_argument("--report", type=Path, help="Folder for operators.json and the picture.")
    arguments = parser.parse_args()
    scale, folder = SCALES[arguments.scale], arguments.folder / arguments.scale
    if arguments.source:
        train_source(scale, arguments.data, folder)
        return
    if arguments.report:
        report(folder, arguments.report, arguments.scale)
        return
    config = TrainingState.from_pretrained(folder / "source" / "final").config
    once = distinct(arms(), scale, config)
    wanted = [arm for arm in arms() if arm.name in once and arguments.only in arm.name]
    jobs = [(arm, seed) for seed in range(arguments.seeds) for arm in wanted]
    for place, (arm, seed) in enumerate(jobs):
        try:
            row = run_arm(scale, arm, seed, arguments.data, folder)
        except RunBusyError:
            continue  # another process is at it
        after = "-" if row["after"] is None else f"{row['after']:.4f}"
        losses = " ".join(f"{loss:.4f}" for loss in row["losses"])
        print(
            f"{place + 1}/{len(jobs)} seed {seed} {arm.name}: {after} | {losses} | escape {row['escape']}",
            flush=True,
        )


if __name__ == "__main__":
    main()
