"""Logs of pilot runs with a known truth: a run that grows, and the grown size from scratch, as `training/loop.py` writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from outgrow.planning.laws import PowerCurve

TOKENS = 100_000
"""Between validations."""
SMALL = PowerCurve(floor_loss=2.6, scale_tokens=3e5, exponent=0.5)
LARGE = PowerCurve(floor_loss=2.0, scale_tokens=8e5, exponent=0.5)
SIZES: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "large": {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6},
}
MODEL = {"model_type": "llama", "vocab_size": 300, "max_position_embeddings": 32, "tie_word_embeddings": True}

Row = dict[str, Any]


def config(name: str) -> dict[str, Any]:
    """The content of a size's `config.json`."""
    return {**MODEL, **SIZES[name], "num_key_value_heads": SIZES[name]["num_attention_heads"]}


def stage(name: str, tokens: int) -> Row:
    """The row that opens a stage."""
    return {
        "kind": "stage",
        "stage": name,
        "tokens": tokens,
        "flops": 0.0,
        "peak": 1e-3,
        "config": config(name),
    }


def points(
    name: str, places: Iterable[int], loss: Callable[[int], float], rate: Callable[[int], float]
) -> list[Row]:
    """A train row and a validation at each number of tokens."""
    rows: list[Row] = []
    for tokens in places:
        here = {"stage": name, "tokens": tokens, "flops": 1.0 * tokens}
        rows.append({"kind": "train", **here, "loss": 5.0, "lr": 1e-3 * rate(tokens)})
        rows.append({"kind": "validation", **here, "val_loss": loss(tokens)})
    return rows


def full(tokens: int) -> float:
    """The learning rate, as a share of its peak: never decayed."""
    return 1.0


def scratch_log(
    *, count: int = 120, noise: float = 0.0, seed: int = 0, rate: Callable[[int], float] = full
) -> list[Row]:
    """The large size from scratch."""
    random = np.random.default_rng((seed, 1))
    places = [TOKENS * k for k in range(1, count + 1)]
    return [
        stage("large", 0),
        *points("large", places, lambda t: float(LARGE.loss(t)) * np.exp(noise * random.normal()), rate),
    ]


def grown_log(
    *,
    gap: float = 0.05,
    lost: Callable[[float], float] = lambda since: 600_000.0,
    before: int = 2_000_000,
    count: int = 60,
    noise: float = 0.0,
    seed: int = 0,
    rate: Callable[[int], float] = full,
) -> list[Row]:
    """A small model grown after `before` tokens; the large one is `lost(tokens since growth)` behind its own curve."""
    random = np.random.default_rng((seed, 2))
    end = float(SMALL.loss(before))
    start = float(LARGE.tokens(end + gap))

    def loss(tokens: int) -> float:
        since = tokens - before
        return float(LARGE.loss(start + max(since - lost(since), 0.0))) * np.exp(noise * random.normal())

    early = points("small", range(TOKENS, before + 1, TOKENS), lambda t: float(SMALL.loss(t)), full)
    growth = {
        "kind": "growth",
        "stage": "large",
        "tokens": before,
        "loss_before": end,
        "loss_after": end + gap,
    }
    late = points("large", range(before + TOKENS, before + TOKENS * count + 1, TOKENS), loss, rate)
    return [stage("small", 0), *early, growth, stage("large", before), *late]


def write(path: Path, rows: Iterable[Row]) -> Path:
    """A `metrics.jsonl` in a folder of its own."""
    path.mkdir(parents=True, exist_ok=True)
    log = path / "metrics.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return log
