"""How much can growth save at most? Growths that cost nothing, any sizes: by the law of real_curves.py and by published ones.

    python benchmarks/saving_limit.py --work runs/real-curves        (where real_curves.py has run)

The planner chooses among 60 sizes below the target's, a geometric series, with 2, 3 and 8 stages. The target is trained from scratch to so many tokens
per parameter; no growth has a loss gap or loses tokens. `*`: the law is asked beyond its data.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from real_curves_runs import PLAN, Place

from outgrow.planning.config import FitLaw
from outgrow.planning.plan_file import parse_plan
from outgrow.planning.plan_law import fitted_law
from outgrow.planning.worked import work_out

STAGES = (2, 3, 8)


def savings(law: dict[str, Any], parameters: float, ratio: float) -> list[float]:
    """The best saving with so many stages, against the target's size from scratch."""
    sizes = np.geomspace(parameters / 60, parameters, 60).round().astype(int).tolist()
    plan = work_out(
        parse_plan(
            {
                "target": {"size": "59", "tokens": round(ratio * parameters)},
                "candidates": [{"name": str(k), "parameters": size} for k, size in enumerate(sizes)],
                "law": law,
                "stages": max(STAGES),
                "worth": 0.0,
            }
        )
    )
    found = {len(path.sizes): plan.saving(place) for place, path in enumerate(plan.paths)}
    return [found[stages] for stages in STAGES]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("runs/real-curves"))
    fitted = fitted_law(
        FitLaw.model_validate(Place("", parser.parse_args().work).plan_file(PLAN)["law"])
    ).fitted[0]
    own = {"kind": "chinchilla", "constants": vars(fitted.law)}
    print("law | parameters | tokens per parameter |", " | ".join(f"{stages} stages" for stages in STAGES))
    for parameters in (152e3, 1e6, 1e7):
        for ratio in (10, 20, 40, 80):
            beyond = "*" if fitted.beyond(parameters=parameters, tokens=ratio * parameters) else ""
            _line(f"own{beyond}", own, parameters, ratio)
    for ratio in (20, 80):
        _line("Chinchilla, replicated", {"kind": "chinchilla", "version": "replicated"}, 1e9, ratio)
    _line("Kaplan", {"kind": "kaplan", "batch_tokens": 500_000}, 1e9, 20)


def _line(name: str, law: dict[str, Any], parameters: float, ratio: float) -> None:
    values = " | ".join(f"{100 * saving:.1f}" for saving in savings(law, parameters, ratio))
    print(f"{name} | {parameters / 1e6:g} M | {ratio} | {values}", flush=True)


if __name__ == "__main__":
    main()
