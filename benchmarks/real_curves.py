"""Does a plan made from small runs hold for a large one? Real curves, held-out sizes, the plan run, and the trigger.

    python benchmarks/real_curves.py --data ../shared/data --work runs/real-curves
    (about 1.2 hours on two idle cores: start it twice, the processes share the runs; every run can be killed and resumed)

1. Two ladders of Llama-like sizes are trained at a constant rate. On each a law is fitted to four sizes and predicts the fifth
   and largest one. `law` goes from 0.33 M to 2.65 M parameters without embeddings; at 20 tokens per parameter its largest size would
   take about 6 core-hours a run, so it stops long before. `plan` goes from 0.02 M to 0.23 M, and its largest size gets 16.
2. On `plan`, from the law of the four and the cost of a growth measured between two of them, the schedule for the largest is planned.
   It is run with three seeds, and so is the largest from scratch.
3. Saving, predicted and measured:  1 - C_staged(L) / C_scratch(L), read off the runs of the same seed at the loss of the plan.
4. The planned runs once more, their early stages ended by the efficiency trigger instead of the planned tokens.

Writes real_curves.json and real_curves.svg into the work folder.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from real_curves_runs import LAW, MODEL, PLAN, Ladder, Place, do, planned_runs

from outgrow.comparing.frontier import compute_at
from outgrow.files.atomic import write_json_atomic
from outgrow.planning.config import FitLaw
from outgrow.planning.curves import law_parameters
from outgrow.planning.laws.power import Array
from outgrow.planning.plan_file import parse_plan
from outgrow.planning.plan_law import SizeLaw, fitted_law
from outgrow.planning.stages import replay_path
from outgrow.planning.summary import law_summary, summary
from outgrow.planning.worked import WorkedPlan, work_out
from outgrow.report.plot import COLORS, FAINT, INK, STYLE, quiet_axes
from outgrow.training.folder import read_metrics
from outgrow.training.result import machine


def curve(folder: Path, stage: str | None = None) -> dict[str, Array]:
    """Tokens, FLOPs (both from the run's start) and validation loss of a run, or of one of its stages."""
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "validation"]
    rows = [row for row in rows if stage is None or row["stage"] == stage]
    return {key: np.array([row[key] for row in rows]) for key in ("tokens", "flops", "val_loss")}


def spread(values: list[float]) -> dict[str, Any]:
    """The mean over three seeds with Student's 90 % interval; one seed has none."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return {"mean": mean, "low": None, "high": None, "seeds": values}
    reach = 2.920 * float(np.std(values, ddof=1)) / 3**0.5
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "seeds": values}


def held_out(place: Place, ladder: Ladder, law: SizeLaw) -> list[dict[str, Any]]:
    """The largest size's loss as the law of the smaller ones predicts it, beside what its seeds had."""
    size = ladder.sizes[-1]
    runs = [curve(place.folder(ladder, f"scratch-{size}-{seed}")) for seed in ladder.seeds]
    parameters = law_parameters({**MODEL, **size.fields}, "without_embeddings")
    found = []
    for share in (0.5, 0.75, 1.0):
        row = int(np.argmin(abs(runs[0]["tokens"] - share * ladder.asked_tokens)))
        tokens = float(runs[0]["tokens"][row])
        predicted = law.fitted[0].predict(parameters=parameters, tokens=tokens).loss
        seen = [float(run["val_loss"][row]) for run in runs]
        error = predicted.value / float(np.mean(seen)) - 1
        found.append(
            {"tokens": tokens, "predicted": asdict(predicted), "measured": spread(seen), "error": error}
        )
    return found


def saving_at(place: Place, name: str, seed: int, loss: float) -> float | None:
    """The saving of a staged run at a loss that its last size reaches, read as in a study; None outside of either run."""
    size = PLAN.sizes[-1]
    runs = (
        curve(place.folder(PLAN, name), str(size)),
        curve(place.folder(PLAN, f"scratch-{size}-{seed}")),
    )
    own, scratch = (compute_at(run["flops"].tolist(), run["val_loss"], loss)[0] for run in runs)
    return None if own is None or scratch is None else 1 - own / scratch


def switches(folder: Path) -> list[dict[str, Any]]:
    """Where the stages of a run ended, and the loss before and after each growth."""
    return [
        {key: row[key] for key in ("stage", "tokens", "flops", "loss_before", "loss_after")}
        for row in read_metrics(folder / "metrics.jsonl")
        if row["kind"] == "growth"
    ]


def triggered(place: Place, plan: WorkedPlan, seed: int) -> dict[str, Any]:
    """Where the trigger ended the stages of a seed, and what that costs: by the law over the plan, and as a saving measured."""
    target = plan.path.losses[-1]
    found = switches(place.folder(PLAN, f"trigger-{seed}"))
    ends = [row["tokens"] for row in found]
    early = [end - start for end, start in zip(ends, [0, *ends], strict=False)]
    whole = replay_path(plan.problem, plan.path.sizes, early, target).total_flops
    return {
        "switches": found,
        "compute_over_plan_by_law": whole / plan.path.total_flops,
        "saving": saving_at(place, f"trigger-{seed}", seed, target),
    }


def report(place: Place, plan: WorkedPlan, law: SizeLaw) -> dict[str, Any]:
    """All numbers, as plain data."""
    target = plan.path.losses[-1]
    read = [saving_at(place, f"planned-{seed}", seed, target) for seed in PLAN.seeds]
    planned = [saving for saving in read if saving is not None]
    assert len(planned) == len(read), "a planned run never reaches the plan's loss: give it more tokens"
    return {
        "machine": machine(),
        "held_out": {"law": held_out(place, LAW, law), "plan": held_out(place, PLAN, plan.law)},
        "law": law_summary(law),
        "plan": summary(plan),
        "predicted_saving": plan.saving(plan.chosen),
        "measured_saving": spread(planned),
        "planned_switches": [switches(place.folder(PLAN, f"planned-{seed}")) for seed in PLAN.seeds],
        "triggers": [triggered(place, plan, seed) for seed in PLAN.seeds],
    }


def draw(place: Place, plan: WorkedPlan, law: SizeLaw, found: dict[str, Any]) -> None:
    """Left and middle: curves, laws, and the sizes that they never saw. Right: the largest, from scratch and staged."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(14.0, 4.6), dpi=150, layout="constrained")
        axes = figure.subplots(1, 3)
        for one, ladder, fitted in ((axes[0], LAW, law), (axes[1], PLAN, plan.law)):
            _draw_law(one, place, ladder, fitted, found["held_out"][ladder.name][-1])
        _draw_runs(axes[2], place, plan, found)
        for one in axes:
            quiet_axes(one)
        for kind in ("svg", "png"):
            figure.savefig(place.work / f"real_curves.{kind}")


def _draw_law(axes: Axes, place: Place, ladder: Ladder, law: SizeLaw, last: dict[str, Any]) -> None:
    for number, size in enumerate(ladder.sizes):
        parameters = law_parameters({**MODEL, **size.fields}, "without_embeddings")
        color, unseen = COLORS[number % len(COLORS)], size == ladder.sizes[-1]
        for seed in ladder.seeds:
            run = curve(place.folder(ladder, f"scratch-{size}-{seed}"))
            axes.plot(run["tokens"], run["val_loss"], "o", color=color, markersize=2.2, alpha=0.7)
        tokens = np.geomspace(1e6, run["tokens"][-1], 100)
        label = f"{parameters / 1e6:.2g} M" + (", predicted" if unseen else "")
        dashes = (0, (4, 2)) if unseen else "solid"
        axes.plot(tokens, law.best(parameters).loss(tokens), color=color, linestyle=dashes, label=label)
        if unseen:
            draws = [one(parameters).loss(tokens) for one in law.draws]
            axes.fill_between(
                tokens, *np.quantile(draws, (0.05, 0.95), axis=0), color=color, alpha=0.2, linewidth=0
            )
    axes.set(
        xscale="log", xlabel="tokens", ylabel="validation loss (nats)", xlim=(3e5, None), ylim=(None, 5.2)
    )
    ticks = [t for t in (5e5, 1e6, 2e6, 4e6) if t < axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{t / 1e6:g} M" for t in ticks])
    axes.set_xticks([], minor=True)
    axes.set_title(
        f"held out: off by {last['error']:+.1%} at the end", loc="left", fontsize=11.5, fontweight="bold"
    )
    axes.legend(frameon=False, title="parameters", fontsize=9)


def _draw_runs(axes: Axes, place: Place, plan: WorkedPlan, found: dict[str, Any]) -> None:
    runs = {"from scratch": (INK, [f"scratch-{PLAN.sizes[-1]}-{seed}" for seed in PLAN.seeds])}
    runs["as planned"] = (COLORS[0], [f"planned-{seed}" for seed in PLAN.seeds])
    runs["by trigger"] = (COLORS[1], [f"trigger-{seed}" for seed in PLAN.seeds])
    for label, (color, names) in runs.items():
        for name in names:
            folder = place.folder(PLAN, name)
            run = curve(folder)
            axes.plot(run["flops"], run["val_loss"], color=color, linewidth=1.2, alpha=0.85)
            for switch in switches(folder):
                axes.plot(switch["flops"], switch["loss_before"], "v", color=color, markersize=6)
        axes.plot([], [], color=color, label=label)
    target, saving = plan.path.losses[-1], found["measured_saving"]
    axes.axhline(target, color=FAINT, linewidth=1.0)
    axes.set(xscale="log", xlabel="training FLOPs", xlim=(6e11, None), ylim=(target - 0.1, target + 0.9))
    title = f"saving: {found['predicted_saving']:.1%} predicted, {saving['mean']:.1%} measured"
    axes.set_title(title, loc="left", fontsize=11.5, fontweight="bold")
    axes.legend(frameon=False, fontsize=9)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--work", type=Path, default=Path("runs/real-curves"))
    options = parser.parse_args()
    place = Place(options.data, options.work)
    do(place.first_runs())
    plan = work_out(parse_plan(place.plan_file(PLAN)))
    do(planned_runs(place, plan))
    law = fitted_law(FitLaw.model_validate(place.plan_file(LAW)["law"]))
    found = report(place, plan, law)
    write_json_atomic(options.work / "real_curves.json", found)
    draw(place, plan, law, found)
    print(
        json.dumps(
            {key: found[key] for key in ("held_out", "predicted_saving", "measured_saving", "triggers")},
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
