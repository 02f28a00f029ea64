"""Batches for the fit of a learned operator: text in the checkpoint's own tokens, or images, as its objective wants them.

    causal   input_ids, labels = input_ids                (transformers shifts them)
    masked   input_ids with hidden tokens, labels         (see data/masked.py)
    denoising input_ids without spans, labels            (see data/spans.py)
    image    pixel_values, labels                         (see data/images.py)

Order, masks, flips and crops are pure functions of (seed, step).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from outgrow.data import objectives
from outgrow.data.corpus import open_corpus
from outgrow.data.images import load_images
from outgrow.data.masked import check_tokens
from outgrow.data.opening import as_learned
from outgrow.data.tokenizer import TextTokenizer, find_tokenizer
from outgrow.data.windows import Data, TrainingData, Windows, encoded
from outgrow.errors import ConfigError
from outgrow.files.reading import check_regular, expanded
from outgrow.models.architecture import architecture_of, longest_sequence
from outgrow.models.forward import ModelInputs
from outgrow.run.config import DataConfig
from outgrow.run.learn_options import LENGTH, SEQUENCES


@dataclass(frozen=True)
class LearnData:
    """Items to fit an operator on, and a few held-out ones."""

    data: Data
    objective: str
    sequences: int
    seed: int = 0

    def batch(self, step: int) -> ModelInputs:
        """The batch of one step of the fit."""
        return forward_batch(self.objective, self.data.batch(self.seed, step, self.sequences))

    def evaluation(self, count: int = 4) -> list[ModelInputs]:
        """Held-out batches, always the same."""
        pieces = self.data.validation_batches(count * self.sequences, self.sequences)
        return [forward_batch(self.objective, piece) for piece in pieces]

    @property
    def record(self) -> dict[str, Any]:
        """What identifies the data."""
        return {**self.data.record, "sequences": self.sequences, "seed": self.seed}


def forward_batch(objective: str, batch: objectives.Batch) -> ModelInputs:
    """Inputs and targets of training as what the model's own forward takes.

    >>> import torch
    >>> forward_batch("image", (torch.zeros(1, 3, 4, 4), torch.tensor([2])))["labels"]
    tensor([2])
    """
    inputs, targets = batch
    if objective == "image":
        return {"pixel_values": inputs, "labels": targets}
    return {"input_ids": inputs, "labels": inputs if objective == "causal" else targets}


def learn_data(
    config: Mapping[str, Any], folder: Path, source: str, *, sequences: int, length: int, seed: int
) -> LearnData:
    """Text or images, by what the model of this config learns. Raises ConfigError where they do not fit it."""
    check_learn_data(config, folder, source)
    if _objective(config) == "image":
        return image_data(config, source, sequences=sequences, seed=seed)
    return text_data(config, folder, source, sequences=sequences, length=length, seed=seed)


def check_learn_data(config: Mapping[str, Any], folder: Path, source: str) -> None:
    """What can be refused before anything but a tokenizer is read: another kind of data, none, no tokens for it."""
    objective = _objective(config)
    if (objective == "image") != source.endswith(".npz"):
        raise ConfigError(
            f"a {config['model_type']} model learns from {'images' if objective == 'image' else 'text'}",
            got=f"--data {source}",
            expected="an .npz file of images and labels" if objective == "image" else "text",
        )
    if objective == "image":
        if not check_regular(expanded(source)).is_file():
            raise ConfigError(f"--data finds no images: {source}", fix="check the path")
    else:
        _tokenizer(config, folder)
        open_corpus(source, place="--data")


def image_data(
    config: Mapping[str, Any], source: str, *, sequences: int = SEQUENCES, seed: int = 0
) -> LearnData:
    """The images of an `.npz` file (`data/images.py` says its forms), the last 2 % held out.

    Raises ConfigError where their side, channels or classes are not the model's.
    """
    images = load_images(DataConfig(images=source))
    images.needs.check(config)
    return LearnData(images, "image", sequences, seed)


def text_data(
    config: Mapping[str, Any],
    folder: Path,
    source: str,
    *,
    sequences: int = SEQUENCES,
    length: int = LENGTH,
    seed: int = 0,
    limit_bytes: int | None = None,
    validation_share: float = 0.02,
) -> LearnData:
    """The text of `source` in the tokens of the checkpoint in `folder`, in windows that its positions allow.

    Raises ConfigError where the tokenizer is missing, or the model has no row for one of its tokens.
    """
    objective, tokenizer = _objective(config), _tokenizer(config, folder)
    length = min(length, longest_sequence(config) or length)
    found = encoded(open_corpus(source, limit_bytes=limit_bytes, place="--data"), tokenizer)
    tokens = found.tokens
    cut = len(tokens) - max(round(len(tokens) * validation_share), length + 1)
    train, held_out = Windows(tokens[: max(cut, 0)], length), Windows(tokens[max(cut, 0) :], length)
    if not len(train) or not len(held_out):
        raise ConfigError(
            "the text is too short to fit an operator on",
            got=f"{len(tokens)} tokens",
            expected=f"at least {2 * length + 2}",
            fix="give more text, or a smaller --length",
        )
    _check_tokens(train, int(config["vocab_size"]))
    text = TrainingData(train, held_out, tokenizer, source, found.notes)
    return LearnData(as_learned(text, objective), objective, sequences, seed)


def _tokenizer(config: Mapping[str, Any], folder: Path) -> TextTokenizer:
    """The tokenizer of a checkpoint. Raises ConfigError where it is missing, or no tokenizer of this model."""
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(
            f"{folder} has no tokenizer.json, so text cannot become the model's tokens",
            fix="copy the tokenizer that the model was trained with into the folder",
        )
    tokenizer = find_tokenizer(folder)
    if tokenizer.vocab_size > int(config["vocab_size"]):
        raise ConfigError(
            "the tokenizer has more tokens than the model has vocabulary rows",
            got=f"{tokenizer.vocab_size} tokens",
            expected=f"at most vocab_size = {config['vocab_size']}",
            fix="give the checkpoint the tokenizer that it was trained with",
        )
    if _objective(config) == "masked":
        check_tokens(tokenizer)
    return tokenizer


def _objective(config: Mapping[str, Any]) -> str:
    """What a model learns. Raises ArchitectureError where outgrow trains none like it."""
    objectives.objective_of(config)
    return architecture_of(config).objective


def _check_tokens(windows: Windows, rows: int) -> None:
    highest = int(np.max(windows.tokens))
    if highest >= rows:
        raise ConfigError(
            "the text has tokens that the model has no vocabulary row for",
            got=f"token {highest}",
            expected=f"below vocab_size = {rows}",
        )
