"""Does the efficiency trigger fire where growing is cheapest? Two sizes trained from scratch, the trigger replayed on the small one.

    python benchmarks/trigger.py ../shared/data/lm/tinystories_sample.txt.xz --work runs/trigger      (about 5 minutes on one core)

If a grown model goes on along the large model's own curve from the loss at the growth (arXiv 2203.06211), a switch at loss L costs
C_small(L) + C_large(L_end) - C_large(L). Each curve is smoothed by its own fit E + A t^-b, b free; the cheapest L is found by trying all.
One seed, and the curve that is judged is the curve that is fitted: this checks the rule, not a growth.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outgrow.run.config import DataConfig
from outgrow.run.run_file import parse_run
from outgrow.run.until import UntilEfficiency, threshold
from outgrow.training import train_run
from outgrow.training.folder import read_metrics
from outgrow.training.stage_plans import growth_factors
from outgrow.training.trigger import Monitor

SIZES = {32: 2_400_000, 64: 1_600_000}  # hidden size: tokens
WARMUP, LENGTH = 40_000, 64


def scratch(text: str, work: Path, hidden: int) -> tuple[NDArray[Any], NDArray[Any], dict[str, Any]]:
    """Tokens and losses of the log, and the model's config; a run that is there already is only read."""
    run = {
        "output": str(work / f"scratch-{hidden}"),
        "seed": 1,
        "device": "cpu",
        "data": {"source": text, "tokenizer": {"vocab_size": 512}, "sequence_length": LENGTH},
        "model": {
            "model_type": "llama",
            "hidden_size": hidden,
            "intermediate_size": hidden * 8 // 3,
            "num_hidden_layers": 2,
            "num_attention_heads": hidden // 16,
            "max_position_embeddings": LENGTH,
            "tie_word_embeddings": True,
        },
        "optimizer": {"learning_rate": 6e-3},
        "schedule": {"kind": "constant", "warmup_tokens": WARMUP},
        "batch": {"sequences": 32},
        "stages": [{"name": "only", "tokens": SIZES[hidden]}],
        "evaluation": {"sequences": 64, "every_tokens": 50_000},
        "checkpoint": {"every_steps": None},
        "log_every_steps": 2,
    }
    train_run(parse_run(run))
    rows = read_metrics(work / f"scratch-{hidden}" / "metrics.jsonl")
    steps = [row for row in rows if row["kind"] == "train"]
    (stage,) = [row for row in rows if row["kind"] == "stage"]
    return (
        np.array([row["tokens"] for row in steps]),
        np.array([row["loss"] for row in steps]),
        stage["config"],
    )


def fitted(tokens: NDArray[Any], losses: NDArray[Any]) -> tuple[float, float, float]:
    """E, A, b of E + A (t / 1M)^-b after the first 150k tokens, by least squares; b from a grid."""
    late = tokens > 150_000
    found = []
    for b in np.linspace(0.1, 1.5, 141):
        columns = np.vstack([np.ones(late.sum()), (tokens[late] / 1e6) ** -b]).T
        (e, a), squares, *_ = np.linalg.lstsq(columns, losses[late], rcond=None)
        found.append((float(squares[0]), float(e), float(a), float(b)))
    return min(found)[1:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text")
    parser.add_argument("--work", type=Path, default=Path("runs/trigger"))
    options = parser.parse_args()

    small, large = (scratch(options.text, options.work, hidden) for hidden in SIZES)
    data = DataConfig(sequence_length=LENGTH)
    factors = growth_factors(small[2], large[2], data, data)
    curves = [fitted(*one[:2]) for one in (small, large)]
    for name, (e, a, b) in zip(("small", "large"), curves, strict=True):
        print(f"{name}: L = {e:.3f} + {a:.3f} (t / 1M)^-{b:.2f}")

    def tokens_at(curve: tuple[float, float, float], loss: Any) -> Any:
        e, a, b = curve
        return 1e6 * ((loss - e) / a) ** (-1 / b)

    e, a, b = curves[1]
    end = e + a * (SIZES[64] / 1e6) ** -b
    losses = np.linspace(max(end, curves[0][0]) + 0.01, 4.5, 20_001)
    costs = tokens_at(curves[0], losses) + factors.flops * (SIZES[64] - tokens_at(curves[1], losses))
    place = int(np.argmin(costs))
    best = float(tokens_at(curves[0], losses[place]))
    saving = 1 - costs[place] / (factors.flops * SIZES[64])
    print(f"{factors}; to loss {end:.3f}")
    print(f"cheapest switch: {best:,.0f} tokens at loss {losses[place]:.3f}, saves {saving:.1%} of compute")

    for name, until in {
        "law, Kaplan's exponents": UntilEfficiency(trigger="efficiency"),
        "published slope": UntilEfficiency(trigger="efficiency", threshold="published"),
    }.items():
        monitor = Monitor(until, threshold(until, factors, name), position=0, first=WARMUP, total=SIZES[32])
        print(f"{name}: {_replayed(monitor, small, best)}")


def _replayed(monitor: Monitor, curve: tuple[NDArray[Any], NDArray[Any], Any], best: float) -> str:
    decision = None
    for reached, loss in zip(curve[0].tolist(), curve[1].tolist(), strict=True):
        decision = monitor.see(reached, loss) or decision
        if decision is not None and decision.verdict == "end":
            return f"ends at {reached:,} tokens, {reached / best - 1:+.1%}: {decision.reason}"
    return f"never ends in {SIZES[32]:,} tokens: {decision.reason if decision else 'no decision'}"


if __name__ == "__main__":
    main()
