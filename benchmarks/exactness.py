"""How exact is exact? The battery's growths as a table: worst loss gap and worst gradient-law error, float64.

    python benchmarks/exactness.py

Models are built by transformers (tests/battery/zoo.py); RMSNorm computes in float32 there, which sets the floor.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from battery import growing, zoo


def main() -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    gaps: dict[tuple[str, str], float] = defaultdict(float)
    laws: dict[tuple[str, str], float] = defaultdict(float)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for (width, family), shapes in growing.EXACT.items():
        for name in (name for name in zoo.CONFIGS if zoo.family(name) == family):
            model = zoo.build(zoo.config(name))
            tokens = zoo.batch()
            loss, gradients = zoo.loss_and_gradients(model, tokens)
            for which in shapes:
                plan = growing.planned(name, growing.shape(name, which), width=width, depth="identity")
                large = growing.grown(plan, model)
                grown_loss, grown_gradients = zoo.loss_and_gradients(large, tokens)
                key = (width, family)
                counts[key] += 1
                gaps[key] = max(gaps[key], abs(grown_loss - loss) / loss)
                if plan.keeps_gradient_law:
                    errors = growing.law_errors(plan, gradients, grown_gradients, floor=1e-6)
                    laws[key] = max(laws[key], *errors.values())
    print(
        "| width operator, with identity depth | family | growths | worst relative loss gap | worst gradient-law error |"
    )
    print("|---|---|---|---|---|")
    for (width, family), count in counts.items():
        law = f"{laws[width, family]:.1e}" if (width, family) in laws else "not promised"
        print(f"| {width} | {family} | {count} | {gaps[width, family]:.1e} | {law} |")


if __name__ == "__main__":
    main()
