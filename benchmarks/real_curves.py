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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from outgrow.planning.plan_file import parse_plan
from outgrow.planning.run import planned_run
from outgrow.planning.study import Study, study
from outgrow.train import train
from outgrow.train.files import RunBusyError, locked
from outgrow.train.folder import RunFolder
from outgrow.train.run_file import parse_run

SIZES = {"xs": (96, 3), "s": (128, 3), "m": (128, 5), "l": (160, 5), "xl": (192, 6)}  # hidden size, layers
LARGEST = "xl"
PILOTS = [name for name in SIZES if name != LARGEST]
SEEDS = (0, 1, 2)
TOKENS = 2_500_000
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
    tokens = round(TOKENS * MARGIN) if name == LARGEST else TOKENS
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


def planned_runs(options: argparse.Namespace, plan: Study) -> list[dict[str, Any]]:
    """The plan with every seed, and once with the trigger."""
    raise NotImplementedError


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--work", type=Path, default=Path("runs/real-curves"))
    options = parser.parse_args()
    do(first_runs(options))


if __name__ == "__main__":
    main()
