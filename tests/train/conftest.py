"""A tiny corpus and a tiny run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from train.tiny_corpus import write_corpus


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """A training switches torch to deterministic kernels: switch back."""
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of 60 documents."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text.txt")


@pytest.fixture
def tiny(corpus: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A whole run of two stages, in a few seconds; keyword arguments replace top-level keys."""

    def make(**replace: Any) -> dict[str, Any]:
        run: dict[str, Any] = {
            "output": str(tmp_path / "run"),
            "device": "cpu",
            "model": {
                "model_type": "llama",
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "attention_dropout": 0.1,
            },
            "data": {
                "source": str(corpus),
                "tokenizer": {"vocab_size": 300},
                "sequence_length": 16,
                "validation_share": 0.1,
            },
            "optimizer": {"learning_rate": 1e-2},
            "schedule": {"kind": "wsd", "warmup_tokens": 128, "decay_share": 0.3},
            "batch": {"sequences": 4, "micro_batch": 2},
            "stages": [
                {"name": "small", "tokens": 64 * 12},
                {
                    "name": "large",
                    "tokens": 64 * 12,
                    "reentry": {"rewarm_tokens": 128},
                    "grow": {
                        "to": {
                            "hidden_size": 24,
                            "num_attention_heads": 3,
                            "num_key_value_heads": 3,
                            "num_hidden_layers": 2,
                        }
                    },
                },
            ],
            "evaluation": {"every_tokens": 256, "sequences": 8},
            "checkpoint": {"every_steps": 3, "keep": 1},
            "log_every_steps": 2,
        }
        return run | replace

    return make
