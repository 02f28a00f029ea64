"""Documents of a little grammar that a tiny model learns in a few steps."""

from __future__ import annotations

import random
from pathlib import Path

WORDS = [
    "grow",
    "train",
    "stage",
    "width",
    "depth",
    "moment",
    "token",
    "layer",
    "head",
    "norm",
    "model",
    "small",
    "large",
    "loss",
    "step",
    "axis",
    "map",
    "fold",
]


def write_corpus(path: Path, documents: int = 60, seed: int = 0) -> Path:
    """Write so many documents of twenty lines `word word word end`."""
    generator = random.Random(seed)
    texts = []
    for _ in range(documents):
        lines = [" ".join([generator.choice(WORDS)] * 3 + ["end"]) for _ in range(20)]
        texts.append("\n".join(lines) + "\n")
    path.write_text("<|endoftext|>\n".join(texts))
    return path
