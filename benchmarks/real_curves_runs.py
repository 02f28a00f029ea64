"""The runs of real_curves.py: two ladders of sizes, a growth between two of them, and the planned schedule."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outgrow.files.locks import RunBusyError, is_held
from outgrow.planning.planned_run import planned_run
from outgrow.planning.worked import WorkedPlan
from outgrow.run.run_file import parse_run
from outgrow.training import train_run
from outgrow.training.folder import RunFolder

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
    """Of every size: one run in three leaves its early plateau late, and a law of one seed takes that for the size's curve."""

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

    def pilot_growth(self, ladder: Ladder, seed: int) -> dict[str, Any]:
        """From the second pilot to the largest."""
        small, large = ladder.pilots[1], ladder.pilots[-1]
        grow = {"grow": {"to": large.fields, **GROW}, "reentry": {"peak": "mup"}}
        before, after = PILOT_GROWTH
        return {
            **self.common(small),
            "output": str(self.folder(ladder, f"grown-{seed}")),
            "seed": seed,
            "model": {**MODEL, **small.fields},
            "stages": [{"name": str(small), "tokens": before}, {"name": str(large), "tokens": after, **grow}],
        }

    def first_runs(self) -> list[dict[str, Any]]:
        """All that needs no plan; what the plan needs comes first."""
        growths = [self.pilot_growth(PLAN, seed) for seed in PLAN.seeds]
        pilots, large = (
            [self.scratch(PLAN, size, seed) for size in sizes for seed in PLAN.seeds]
            for sizes in (PLAN.pilots[::-1], PLAN.sizes[-1:])
        )
        return [*pilots, *growths, *large, *(self.scratch(LAW, size, 0) for size in LAW.sizes)]

    def plan_file(self, ladder: Ladder) -> dict[str, Any]:
        """plan.yaml for the largest size of a ladder, from its pilots alone."""
        grown, whole = (self.folder(ladder, name) for name in ("grown-*", f"scratch-{ladder.pilots[-1]}-*"))
        curves = [{"path": str(self.folder(ladder, f"scratch-{size}-*"))} for size in ladder.pilots]
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


def planned_runs(place: Place, plan: WorkedPlan) -> list[dict[str, Any]]:
    """The plan with every seed, and with the trigger in place of the planned tokens."""
    assert len(plan.path.sizes) > 1, "the plan grows nothing"
    run = planned_run(plan).model_dump(mode="json", by_alias=True, exclude_unset=True)
    run["optimizer"]["learning_rate"] = PLAN.sizes[plan.path.sizes[0]].rate
    *early, last = run["stages"]
    last = {**last, "tokens": round(last["tokens"] * MARGIN)}
    watched = [
        {**stage, "tokens": 3 * stage["tokens"], "until": until(plan, k)} for k, stage in enumerate(early)
    ]
    return [
        {**run, "stages": [*stages, last], "seed": seed, "output": str(place.folder(PLAN, f"{name}-{seed}"))}
        for name, stages in (("planned", early), ("trigger", watched))
        for seed in PLAN.seeds
    ]


def until(plan: WorkedPlan, place: int) -> dict[str, Any]:
    """The trigger of a stage with the fitted law's own numbers: its exponent, and how much lower the next size's asymptote is."""
    law = plan.law.fitted[0].law
    small, large = (plan.candidates[plan.path.sizes[k]].parameters for k in (place, place + 1))
    gain = float(law.floor(small) - law.floor(large))
    return {"trigger": "efficiency", "exponent": law.token_exponent, "asymptote_gain": gain}


def do(runs: list[dict[str, Any]]) -> None:
    """Train what is not there; runs that another process holds are waited for."""
    while waiting := [run for run in runs if not RunFolder(Path(run["output"])).is_finished]:
        free = [run for run in waiting if not is_held(Path(run["output"]))]
        if not free:
            time.sleep(5)
            continue
        try:
            began = time.monotonic()
            train_run(parse_run(free[0]), progress=False)
            print(f"{free[0]['output']}: {time.monotonic() - began:.0f} s", flush=True)
        except RunBusyError:
            time.sleep(1)
