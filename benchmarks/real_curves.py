"""Does a plan made from small runs hold for a large one? Real curves, a held-out size, the plan run, and the trigger.

    python benchmarks/real_curves.py --data ../shared/data --work runs/real-curves
    (1.3 hours on two cores: start it twice, the processes share the runs; every run can be killed and resumed)

1. Four Llama-like sizes are trained at a constant rate; a law is fitted to them and predicts the fifth and largest one.
2. From the same law, and from the cost of a growth measured between two of the four, the schedule for the largest is planned.
   It is run with three seeds, and so is the largest from scratch.
3. Saving, predicted and measured:  1 - C_staged / C_scratch(L), C_scratch(L) read off the scratch run of the same seed.
4. The planned run once more, its first stage ended by the efficiency trigger instead of the planned tokens.

Writes real_curves.json and real_curves.svg into the work folder.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from outgrow.laws.power import Array
from outgrow.planning.plan_file import parse_plan
from outgrow.planning.run import planned_run
from outgrow.planning.study import Study, study
from outgrow.planning.summary import law_summary, summary
from outgrow.report.plot import COLORS, FAINT, INK, STYLE, quiet_axes
from outgrow.stages import replay
from outgrow.store.atomic import write_json_atomic
from outgrow.train import train
from outgrow.train.files import RunBusyError, locked
from outgrow.train.folder import RunFolder, read_metrics
from outgrow.train.result import machine
from outgrow.train.run_file import parse_run

SIZES = {"xs": (96, 3), "s": (128, 3), "m": (128, 5), "l": (160, 5), "xl": (192, 6)}  # hidden size, layers
LARGEST = "xl"
PILOTS = [name for name in SIZES if name != LARGEST]
SEEDS = (0, 1, 2)
PILOT_TOKENS, TOKENS = (
    2_500_000,
    2_000_000,
)  # of the small sizes, and of the large one from scratch: the plan's target
MARGIN = 1.12  # the large scratch runs go on a little, so that every staged loss can be read off them
PILOT_GROWTH = ("xs", "l", 800_000, 1_200_000)  # small, large, tokens of each: what a growth costs
MODEL = {
    "model_type": "llama",
    "vocab_size": 1024,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
GROW = {"width": "pad", "depth": "stack"}


def sizes(name: str) -> dict[str, int]:
    """The config fields of a size: heads of 32, an MLP of 8/3."""
    hidden, layers = SIZES[name]
    inner, heads = hidden * 8 // 3 // 8 * 8, hidden // 32
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
    }


def rate(name: str) -> float:
    """The learning rate falls with the width, as in muP: 4e-3 was the best of 2, 4, 8 and 16e-3 at width 64."""
    return 4e-3 * 64 / SIZES[name][0]


def common(data: str, first: str) -> dict[str, Any]:
    """What all runs share, with the learning rate of their first size."""
    return {
        "device": "cpu",
        "data": {
            "source": f"{data}/lm/wiki_train_0*.txt.xz",
            "validation_source": f"{data}/lm/wiki_valid.txt.xz",
            "limit_bytes": 60_000_000,
            "tokenizer": {"vocab_size": MODEL["vocab_size"]},
            "sequence_length": MODEL["max_position_embeddings"],
        },
        "optimizer": {"learning_rate": rate(first), "weight_decay": 0.1, "gradient_clip": 1.0},
        "schedule": {"kind": "constant", "warmup_tokens": 100_000},
        "batch": {"sequences": 16},
        "evaluation": {"sequences": 256, "every_tokens": 100_000},
    }


def scratch(options: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """A size trained from scratch."""
    tokens = round(TOKENS * MARGIN) if name == LARGEST else PILOT_TOKENS
    return {
        **common(options.data, name),
        "output": str(options.work / f"scratch-{name}-{seed}"),
        "seed": seed,
        "model": {**MODEL, **sizes(name)},
        "stages": [{"name": name, "tokens": tokens}],
    }


def pilot_growth(options: argparse.Namespace) -> dict[str, Any]:
    """A growth between two of the pilot sizes."""
    small, large, before, after = PILOT_GROWTH
    return {
        **common(options.data, small),
        "output": str(options.work / f"grown-{small}-{large}"),
        "seed": 0,
        "model": {**MODEL, **sizes(small)},
        "stages": [
            {"name": small, "tokens": before},
            {
                "name": large,
                "tokens": after,
                "grow": {"to": sizes(large), **GROW},
                "reentry": {"peak": "mup"},
            },
        ],
    }


def first_runs(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All that needs no plan; the pilots first."""
    pilots = [scratch(options, name, 0) for name in reversed(PILOTS)]
    return [*pilots, pilot_growth(options), *(scratch(options, LARGEST, seed) for seed in SEEDS)]


def worked_plan(options: argparse.Namespace) -> Study:
    """The schedule for the largest size, from the pilots alone."""
    small, large, *_ = PILOT_GROWTH
    grown, whole = (
        options.work / name / "metrics.jsonl" for name in (f"grown-{small}-{large}", f"scratch-{large}-0")
    )
    return study(
        parse_plan(
            {
                "target": {"size": LARGEST, "tokens": TOKENS},
                "model": MODEL,
                "candidates": [{"name": name, "sizes": sizes(name)} for name in SIZES],
                "law": {
                    "kind": "fit",
                    "count": "without_embeddings",
                    "curves": [
                        {"path": str(options.work / f"scratch-{name}-0/metrics.jsonl")} for name in PILOTS
                    ],
                },
                "operators": {"both": {"measured": {"grown": str(grown), "scratch": str(whole)}}},
                "grow": GROW,
                "run": {**common(options.data, "xs"), "output": str(options.work / "planned")},
            }
        )
    )


def planned_runs(options: argparse.Namespace, plan: Study) -> dict[str, list[dict[str, Any]]]:
    """The plan with every seed, and once with the trigger in place of the planned tokens."""
    run = planned_run(plan).model_dump(mode="json", by_alias=True, exclude_unset=True)
    run["stages"][-1]["tokens"] = round(run["stages"][-1]["tokens"] * MARGIN)
    planned = [{**run, "seed": seed, "output": str(options.work / f"planned-{seed}")} for seed in SEEDS]
    *early, last = run["stages"]
    watched = [
        {**stage, "tokens": 3 * stage["tokens"], "until": until(plan, place)}
        for place, stage in enumerate(early)
    ]
    trigger = {**run, "seed": SEEDS[0], "output": str(options.work / "trigger"), "stages": [*watched, last]}
    return {"planned": planned, "trigger": [trigger]}


def until(plan: Study, place: int) -> dict[str, Any]:
    """The trigger of a stage with the fitted law's own numbers: its exponent, and how much lower the next size's asymptote is."""
    law = plan.law.fitted[0].law
    small, large = (plan.candidates[plan.path.sizes[k]].parameters for k in (place, place + 1))
    gain = float(law.floor(small) - law.floor(large))
    return {"trigger": "efficiency", "exponent": law.token_exponent, "asymptote_gain": gain}


def is_finished(run: dict[str, Any]) -> bool:
    pointer = RunFolder(Path(run["output"])).pointer()
    return pointer is not None and pointer.finished


def is_held(folder: Path) -> bool:
    """Whether another process trains this run."""
    if not folder.is_dir():
        return False
    try:
        with locked(folder):
            return False
    except RunBusyError:
        return True


def do(runs: list[dict[str, Any]]) -> None:
    """Train what is not there; runs that another process holds are waited for."""
    while waiting := [run for run in runs if not is_finished(run)]:
        free = [run for run in waiting if not is_held(Path(run["output"]))]
        if not free:
            time.sleep(5)
            continue
        try:
            began = time.monotonic()
            train(parse_run(free[0]), progress=False)
            print(f"{free[0]['output']}: {time.monotonic() - began:.0f} s", flush=True)
        except RunBusyError:
            time.sleep(1)


def curve(folder: Path, stage: str | None = None) -> dict[str, Array]:
    """Tokens, FLOPs (both from the run's start) and validation loss of a run, or of one of its stages."""
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "validation"]
    rows = [row for row in rows if stage is None or row["stage"] == stage]
    return {key: np.array([row[key] for row in rows]) for key in ("tokens", "flops", "val_loss")}


def flops_at(one: dict[str, Array], loss: float) -> float:
    """FLOPs at which a run first has a loss, linear in (log C, L); nan outside."""
    best = np.minimum.accumulate(one["val_loss"])
    if not best[-1] <= loss <= best[0]:
        return float("nan")
    return float(np.exp(np.interp(-loss, -best, np.log(one["flops"]))))


def spread(values: list[float]) -> dict[str, Any]:
    """The mean over seeds with Student's 90 % interval."""
    mean, reach = float(np.mean(values)), 2.920 * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "seeds": values}


def held_out(options: argparse.Namespace, plan: Study) -> list[dict[str, Any]]:
    """The largest size's loss as the law of the smaller ones predicts it, beside what three seeds had."""
    runs = [curve(options.work / f"scratch-{LARGEST}-{seed}") for seed in SEEDS]
    size = next(one for one in plan.candidates if one.name == LARGEST)
    found = []
    for share in (0.2, 0.4, 0.6, 0.8, 1.0):
        place = int(np.argmin(abs(runs[0]["tokens"] - share * TOKENS)))
        tokens = float(runs[0]["tokens"][place])
        predicted = plan.law.fitted[0].predict(parameters=size.parameters, tokens=tokens).loss
        seen = [float(run["val_loss"][place]) for run in runs]
        found.append(
            {
                "tokens": tokens,
                "predicted": asdict(predicted),
                "measured": spread(seen),
                "error": predicted.value / float(np.mean(seen)) - 1,
            }
        )
    return found


def savings(options: argparse.Namespace, plan: Study, name: str, seed: int) -> list[dict[str, float]]:
    """Along the last stage of a staged run: the saving at the loss that it has, against scratch of the same seed."""
    scratch = curve(options.work / f"scratch-{LARGEST}-{seed}")
    own = curve(options.work / name, LARGEST)
    return [
        {
            "tokens": float(t),
            "loss": float(loss),
            "flops": float(c),
            "saving": 1 - float(c) / flops_at(scratch, float(loss)),
        }
        for t, c, loss in zip(own["tokens"], own["flops"], own["val_loss"], strict=True)
    ]


def switches(folder: Path) -> list[dict[str, Any]]:
    """Where the stages of a run ended, and the loss before and after each growth."""
    return [
        {key: row[key] for key in ("stage", "tokens", "flops", "loss_before", "loss_after")}
        for row in read_metrics(folder / "metrics.jsonl")
        if row["kind"] == "growth"
    ]


def report(options: argparse.Namespace, plan: Study) -> dict[str, Any]:
    """All numbers, as plain data."""
    target = plan.path.losses[-1]
    planned = [savings(options, plan, f"planned-{seed}", seed) for seed in SEEDS]
    at_target = [saving_at(options, f"planned-{seed}", seed, target) for seed in SEEDS]
    trigger, law = switches(options.work / "trigger"), plan.problem
    early = [row["tokens"] for row in trigger]
    stages = [now - before for now, before in zip(early, [0, *early], strict=False)]
    replayed = replay(law, plan.path.sizes, stages, target).total_flops / plan.path.total_flops
    return {
        "machine": machine(),
        "law": law_summary(plan.law),
        "held_out": held_out(options, plan),
        "plan": summary(plan),
        "predicted_saving": plan.saving(plan.chosen),
        "measured_saving": spread(at_target),
        "along": planned,
        "planned_switches": [switches(options.work / f"planned-{seed}") for seed in SEEDS],
        "trigger": {
            "switches": trigger,
            "compute_against_plan_by_law": replayed,
            "saving": saving_at(options, "trigger", SEEDS[0], target),
        },
    }


def saving_at(options: argparse.Namespace, name: str, seed: int, loss: float) -> float:
    """The saving of a staged run at a loss, both runs interpolated."""
    own, scratch = curve(options.work / name, LARGEST), curve(options.work / f"scratch-{LARGEST}-{seed}")
    return 1 - flops_at(own, loss) / flops_at(scratch, loss)


def draw(options: argparse.Namespace, plan: Study, found: dict[str, Any]) -> None:
    """Left: curves, the law, and the size that it never saw. Right: the largest size from scratch, as planned, by trigger."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 4.8), dpi=150, layout="constrained")
        left, right = figure.subplots(1, 2)
        for place, one in enumerate(plan.candidates):
            color = COLORS[place % len(COLORS)]
            seen = [
                curve(options.work / f"scratch-{one.name}-{seed}")
                for seed in SEEDS
                if one.name == LARGEST or not seed
            ]
            for run in seen:
                left.plot(run["tokens"], run["val_loss"], "o", color=color, markersize=2.5, alpha=0.8)
            tokens = np.geomspace(2e5, seen[0]["tokens"][-1], 200)
            label = f"{one.parameters / 1e6:.2g} M" + (", predicted" if one.name == LARGEST else "")
            dashes = (0, (4, 2)) if one.name == LARGEST else "solid"
            left.plot(
                tokens, plan.law.best(one.parameters).loss(tokens), color=color, linestyle=dashes, label=label
            )
            if one.name == LARGEST:
                draws = np.array([draw(one.parameters).loss(tokens) for draw in plan.law.draws])
                left.fill_between(
                    tokens, *np.quantile(draws, (0.05, 0.95), axis=0), color=color, alpha=0.2, linewidth=0
                )
        left.set(xscale="log", xlabel="tokens", ylabel="validation loss (nats)")
        left.set_title(
            "a law from four sizes, asked about a fifth", loc="left", fontsize=11.5, fontweight="bold"
        )
        left.legend(frameon=False, title="parameters", fontsize=9)
        runs = {"from scratch": (INK, [f"scratch-{LARGEST}-{seed}" for seed in SEEDS])}
        runs["as planned"] = (COLORS[0], [f"planned-{seed}" for seed in SEEDS])
        runs["by trigger"] = (COLORS[1], ["trigger"])
        for label, (color, names) in runs.items():
            for number, name in enumerate(names):
                run = curve(options.work / name)
                right.plot(
                    run["flops"],
                    run["val_loss"],
                    color=color,
                    linewidth=1.4,
                    alpha=0.85,
                    label=label if not number else None,
                )
                for switch in switches(options.work / name):
                    right.plot(switch["flops"], switch["loss_before"], "v", color=color, markersize=6)
        right.axhline(plan.path.losses[-1], color=FAINT, linewidth=1.0)
        right.set(xscale="log", xlabel="training FLOPs", ylabel="validation loss (nats)")
        saving = found["measured_saving"]
        right.set_title(
            f"saving: {found['predicted_saving']:.1%} predicted, {saving['mean']:.1%} measured",
            loc="left",
            fontsize=11.5,
            fontweight="bold",
        )
        right.legend(frameon=False, fontsize=9)
        for axes in (left, right):
            quiet_axes(axes)
        for kind in ("svg", "png"):
            figure.savefig(options.work / f"real_curves.{kind}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--work", type=Path, default=Path("runs/real-curves"))
    options = parser.parse_args()
    do(first_runs(options))
    plan = worked_plan(options)
    do([run for runs in planned_runs(options, plan).values() for run in runs])
    found = report(options, plan)
    write_json_atomic(options.work / "real_curves.json", found)
    draw(options, plan, found)


if __name__ == "__main__":
    main()
