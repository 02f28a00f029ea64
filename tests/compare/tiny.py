"""Studies of each kind that take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SMALL = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
GROW = {"to": {"num_hidden_layers": 2}}


def text_study(corpus: Path, output: Path, **replace: Any) -> dict[str, Any]:
    """Two depth operators against scratch."""
    return {
        "output": str(output),
        "title": "tiny",
        "common": {
            "device": "cpu",
            "data": {
                "source": str(corpus),
                "tokenizer": {"vocab_size": 300},
                "sequence_length": 16,
                "validation_share": 0.1,
            },
            "batch": {"sequences": 4},
            "evaluation": {"sequences": 8},
        },
        "arms": {
            "scratch": {"model": {**SMALL, "num_hidden_layers": 2}},
            "stack": {"model": SMALL, "stages": [{"tokens": 256}, {"grow": {**GROW, "depth": "stack"}}]},
            "identity": {
                "model": SMALL,
                "stages": [{"tokens": 256}, {"grow": {**GROW, "depth": "identity"}}],
            },
        },
        "baseline": "scratch",
        "budgets": [320, 640],
        "seeds": [0, 1],
        "tuning": {"rates": [1e-2], "seeds": [0]},
        "timing": {"rounds": 2, "steps": 1},
        **replace,
    }


def other_study(output: Path, model_type: str, data: dict[str, Any], **replace: Any) -> dict[str, Any]:
    """An encoder or an image model, stacked against scratch, one seed."""
    small = {**SMALL, "model_type": model_type, **({"patch_size": 4} if model_type == "vit" else {})}
    step = 4 if "images" in data else 64
    return {
        "output": str(output),
        "common": {"device": "cpu", "data": data, "batch": {"sequences": 4}, "evaluation": {"sequences": 8}},
        "arms": {
            "scratch": {"model": {**small, "num_hidden_layers": 2}},
            "stack": {"model": small, "stages": [{"tokens": 2 * step}, {"grow": {**GROW, "depth": "stack"}}]},
        },
        "baseline": "scratch",
        "budgets": [3 * step, 6 * step],
        "seeds": [0],
        "tuning": {"rates": [1e-2]},
        "timing": {"rounds": 1, "steps": 1},
        **replace,
    }
