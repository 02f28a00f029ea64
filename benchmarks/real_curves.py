"""Does a plan made from small runs hold for a large one? Real curves, held-out sizes, the plan run, and the trigger.

    python benchmarks/real_curves.py --data ../shared/data --work runs/real-curves
    (about 1.3 hours on two cores: start it twice, the processes share the runs; every run can be killed and resumed)

1. Two ladders of Llama-like sizes are trained at a constant rate. On each a law is fitted to four sizes and predicts the fifth
   and largest one. `law` goes from 0.33 M to 2.65 M parameters without embeddings; at 20 tokens per parameter its largest size would
   take 20 core-hours a run, so it stops long before. `plan` goes from 0.02 M to 0.23 M, and its largest size gets 16.
2. On `plan`, from the law of the four and the cost of a growth measured between two of them, the schedule for the largest is planned.
   It is run with three seeds, and so is the largest from scratch.
3. Saving, predicted and measured:  1 - C_staged(L) / C_scratch(L), read off the runs of the same seed at the loss of the plan.
4. The planned run once more, its early stages ended by the efficiency trigger instead of the planned tokens.

Writes real_curves.json and real_curves.svg into the work folder.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from outgrow.curves import law_parameters
from outgrow.laws.power import Array
from outgrow.planning.config import FitLaw
from outgrow.planning.laws import SizeLaw, fitted_law
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

VOCABULARY, LENGTH = 1024, 128
MODEL = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "max_position_embeddings": LENGTH,
    "tie_word_embeddings": True,
}
GROW = {"width": "pad", "depth": "stack"}
MARGIN = (
    1.12  # the last stage of a planned run goes on a little, so that the loss of the plan can be read off it
)
PILOT_GROWTH = (1_000_000, 2_000_000)  # tokens of the second and of the largest pilot: what a growth costs


@dataclass(frozen=True)
class Size:
    """Hidden size, layers and the size of a head; an MLP of 8/3."""

    hidden: int
    layers: int
    head: int

    def __str__(self) -> str:
        return f"{self.hidden}x{self.layers}"

    @property
    def fields(self) -> dict[str, int]:
        heads = self.hidden // self.head
        return {
            "hidden_size": self.hidden,
            "intermediate_size": self.hidden * 8 // 3 // 8 * 8,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
        }

    @property
    def rate(self) -> float:
        """The learning rate falls with the width, as in muP: 4e-3 was the best of 2, 4, 8 and 16e-3 at width 64."""
        return 4e-3 * 64 / self.hidden


@dataclass(frozen=True)
class Ladder:
    """Sizes in order, the last one held out, and tokens: of the small ones, of the last one, and where the law is asked about it."""

    name: str
    sizes: tuple[Size, ...]
    small_tokens: int
    large_tokens: int
    asked_tokens: int
    seeds: tuple[int, ...]

    @property
    def pilots(self) -> tuple[Size, ...]:
        return self.sizes[:-1]


LAW = Ladder(
    name="law",
    sizes=(Size(96, 3, 32), Size(128, 3, 32), Size(128, 5, 32), Size(160, 5, 32), Size(192, 6, 32)),
    small_tokens=2_500_000,
    large_tokens=2_240_000,
    asked_tokens=2_000_000,
    seeds=(0,),
)
PLAN = Ladder(
    name="plan",
    sizes=(Size(32, 2, 16), Size(48, 2, 16), Size(64, 2, 16), Size(64, 3, 16), Size(80, 3, 16)),
    small_tokens=4_000_000,
    large_tokens=4_000_000,
    asked_tokens=3_600_000,
    seeds=(0, 1, 2),
)


@dataclass(frozen=True)
class Place:
    """Where the text is, and where the runs go."""

    data: str
    work: Path

    def folder(self, ladder: Ladder, name: str) -> Path:
        return self.work / ladder.name / name

    def common(self, first: Size) -> dict[str, Any]:
        """What all runs share, with the learning rate of their first size."""
        return {
            "device": "cpu",
            "data": {
                "source": f"{self.data}/lm/wiki_train_0*.txt.xz",
                "validation_source": f"{self.data}/lm/wiki_valid.txt.xz",
                "limit_bytes": 60_000_000,
                "tokenizer": {"vocab_size": VOCABULARY},
                "sequence_length": LENGTH,
            },
            "optimizer": {"learning_rate": first.rate, "weight_decay": 0.1, "gradient_clip": 1.0},
            "schedule": {"kind": "constant", "warmup_tokens": 100_000},
            "batch": {"sequences": 16},
            "evaluation": {"sequences": 256, "every_tokens": 100_000},
        }

    def scratch(self, ladder: Ladder, size: Size, seed: int) -> dict[str, Any]:
        """A size trained from scratch."""
        tokens = ladder.small_tokens if size in ladder.pilots else ladder.large_tokens
        return {
            **self.common(size),
            "output": str(self.folder(ladder, f"scratch-{size}-{seed}")),
            "seed": seed,
            "model": {**MODEL, **size.fields},
            "stages": [{"name": str(size), "tokens": tokens}],
        }

    def pilot_growth(self, ladder: Ladder) -> dict[str, Any]:
        """From the second pilot to the largest."""
        small, large = ladder.pilots[1], ladder.pilots[-1]
        grow = {"grow": {"to": large.fields, **GROW}, "reentry": {"peak": "mup"}}
        before, after = PILOT_GROWTH
        return {
            **self.common(small),
            "output": str(self.folder(ladder, "grown")),
            "seed": 0,
            "model": {**MODEL, **small.fields},
            "stages": [{"name": str(small), "tokens": before}, {"name": str(large), "tokens": after, **grow}],
        }

    def first_runs(self) -> list[dict[str, Any]]:
        """All that needs no plan; what the plan needs comes first."""
        found = [self.scratch(PLAN, size, 0) for size in reversed(PLAN.pilots)] + [self.pilot_growth(PLAN)]
        found += [self.scratch(PLAN, PLAN.sizes[-1], seed) for seed in PLAN.seeds]
        return [*found, *(self.scratch(LAW, size, 0) for size in LAW.sizes)]

    def plan_file(self, ladder: Ladder) -> dict[str, Any]:
        """plan.yaml for the largest size of a ladder, from its pilots alone."""
        grown, whole = (self.folder(ladder, name) for name in ("grown", f"scratch-{ladder.pilots[-1]}-0"))
        curves = [{"path": str(self.folder(ladder, f"scratch-{size}-0"))} for size in ladder.pilots]
        return {
            "target": {"size": str(ladder.sizes[-1]), "tokens": ladder.asked_tokens},
            "model": MODEL,
            "candidates": [{"name": str(size), "sizes": size.fields} for size in ladder.sizes],
            "law": {"kind": "fit", "count": "without_embeddings", "from_tokens": 1_000_000, "curves": curves},
            "operators": {"both": {"measured": {"grown": str(grown), "scratch": str(whole)}}},
            "grow": GROW,
            "reentry": {"peak": "mup"},
            "run": {**self.common(ladder.sizes[0]), "output": str(self.folder(ladder, "planned"))},
        }


def planned_runs(place: Place, plan: Study) -> list[dict[str, Any]]:
    """The plan with every seed, and once with the trigger in place of the planned tokens."""
    assert len(plan.path.sizes) > 1, "the plan grows nothing"
    run = planned_run(plan).model_dump(mode="json", by_alias=True, exclude_unset=True)
    run["optimizer"]["learning_rate"] = PLAN.sizes[plan.path.sizes[0]].rate
    *early, last = run["stages"]
    last = {**last, "tokens": round(last["tokens"] * MARGIN)}
    found = [
        {**run, "stages": [*early, last], "seed": seed, "output": str(place.folder(PLAN, f"planned-{seed}"))}
        for seed in PLAN.seeds
    ]
    watched = [
        {**stage, "tokens": 3 * stage["tokens"], "until": until(plan, k)} for k, stage in enumerate(early)
    ]
    return [
        *found,
        {**run, "stages": [*watched, last], "seed": 0, "output": str(place.folder(PLAN, "trigger"))},
    ]


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


def saving_at(place: Place, name: str, seed: int, loss: float) -> float:
    """The saving of a staged run at a loss; both runs interpolated, nothing extrapolated."""
    size = PLAN.sizes[-1]
    own, scratch = (
        curve(place.folder(PLAN, name), str(size)),
        curve(place.folder(PLAN, f"scratch-{size}-{seed}")),
    )
    return 1 - flops_at(own, loss) / flops_at(scratch, loss)


def switches(folder: Path) -> list[dict[str, Any]]:
    """Where the stages of a run ended, and the loss before and after each growth."""
    return [
        {key: row[key] for key in ("stage", "tokens", "flops", "loss_before", "loss_after")}
        for row in read_metrics(folder / "metrics.jsonl")
        if row["kind"] == "growth"
    ]


def report(place: Place, plan: Study, law: SizeLaw) -> dict[str, Any]:
    """All numbers, as plain data."""
    target = plan.path.losses[-1]
    trigger = switches(place.folder(PLAN, "trigger"))
    ends = [row["tokens"] for row in trigger]
    early = [end - start for end, start in zip(ends, [0, *ends], strict=False)]
    return {
        "machine": machine(),
        "held_out": {"law": held_out(place, LAW, law), "plan": held_out(place, PLAN, plan.law)},
        "law": law_summary(law),
        "plan": summary(plan),
        "predicted_saving": plan.saving(plan.chosen),
        "measured_saving": spread([saving_at(place, f"planned-{seed}", seed, target) for seed in PLAN.seeds]),
        "planned_switches": [switches(place.folder(PLAN, f"planned-{seed}")) for seed in PLAN.seeds],
        "trigger": {
            "switches": trigger,
            "compute_over_plan_by_law": replay(plan.problem, plan.path.sizes, early, target).total_flops
            / plan.path.total_flops,
            "saving": saving_at(place, "trigger", 0, target),
        },
    }


def draw(place: Place, plan: Study, law: SizeLaw, found: dict[str, Any]) -> None:
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
        for seed in ladder.seeds if unseen else (0,):
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


def _draw_runs(axes: Axes, place: Place, plan: Study, found: dict[str, Any]) -> None:
    runs = {"from scratch": (INK, [f"scratch-{PLAN.sizes[-1]}-{seed}" for seed in PLAN.seeds])}
    runs["as planned"] = (COLORS[0], [f"planned-{seed}" for seed in PLAN.seeds])
    runs["by trigger"] = (COLORS[1], ["trigger"])
    for label, (color, names) in runs.items():
        for name in names:
            folder = place.folder(PLAN, name)
            run = curve(folder)
            axes.plot(run["flops"], run["val_loss"], color=color, linewidth=1.2, alpha=0.85)
            for switch in switches(folder):
                axes.plot(switch["flops"], switch["loss_before"], "v", color=color, markersize=6)
        axes.plot(
            [],
            [],
            color=color,
            label=f"{label}, seeds {', '.join(name[-1] for name in names)}" if len(names) > 1 else label,
        )
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
    plan = study(parse_plan(place.plan_file(PLAN)))
    do(planned_runs(place, plan))
    law = fitted_law(FitLaw.model_validate(place.plan_file(LAW)["law"]))
    found = report(place, plan, law)
    write_json_atomic(options.work / "real_curves.json", found)
    draw(place, plan, law, found)
    print(
        json.dumps(
            {key: found[key] for key in ("held_out", "predicted_saving", "measured_saving", "trigger")},
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
