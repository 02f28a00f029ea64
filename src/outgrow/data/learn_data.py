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
from outgrow.data.corpus import Corpus, open_corpus
from outgrow.data.images import load_images
from outgrow.data.masked import check_tokens
from outgrow.data.opening import as_learned
from outgrow.data.tokenizer import TextTokenizer, find_tokenizer
from outgrow.data.windows import Data, TrainingData, Windows, encoded
from outgrow.errors import ConfigError
from outgrow.files.reading import check_regular, expanded
from outgrow.models.architecture import architecture_of, longest_sequence, own_config
from outgrow.models.forward import ModelInputs
from outgrow.run.config import DataConfig
from outgrow.run.learn_options import LENGTH, SEQUENCES

_HELD_OUT = 0.02
"""Share of a text, its end, that no step of a fit reads."""


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


@dataclass(frozen=True)
class LearnSource:
    """Data of the kind that a model learns, found and not yet read: images, or text with the model's tokenizer."""

    config: Mapping[str, Any]
    source: str
    text: tuple[TextTokenizer, Corpus] | None
    """Of images None."""

    def read(self, *, sequences: int = SEQUENCES, length: int = LENGTH, seed: int = 0) -> LearnData:
        """The images, or the text in windows that the model's positions allow; the last of them held out.

        Raises ConfigError where images are not of the model's side, channels or classes (`data/images.py` says the forms),
        where text is too short, or where the model has no row for one of its tokens.
        """
        objective = _objective(self.config)
        if self.text is None:
            images = load_images(DataConfig(images=self.source))
            images.needs.check(self.config)
            return LearnData(images, objective, sequences, seed)
        tokenizer, corpus = self.text
        length = min(length, longest_sequence(self.config) or length)
        found = encoded(corpus, tokenizer)
        tokens = found.tokens
        cut = len(tokens) - max(round(len(tokens) * _HELD_OUT), length + 1)
        train, held_out = Windows(tokens[: max(cut, 0)], length), Windows(tokens[max(cut, 0) :], length)
        if not len(train) or not len(held_out):
            raise ConfigError(
                "the text is too short to fit an operator on",
                got=f"{len(tokens)} tokens",
                expected=f"at least {2 * length + 2}",
                fix="give more text, or a smaller --length",
            )
        _check_tokens(train, int(own_config(self.config)["vocab_size"]))
        text = TrainingData(train, held_out, tokenizer, self.source, found.notes)
        return LearnData(as_learned(text, objective), objective, sequences, seed)


def learn_source(
    config: Mapping[str, Any], folder: Path, source: str, *, limit_bytes: int | None = None
) -> LearnSource:
    """The data that a model of this config, with its tokenizer in `folder`, can be fitted on.

    Raises ConfigError for what can be refused before anything but a tokenizer is read: another kind of data, none, no
    tokens for it.
    """
    objective = _objective(config)
    if (objective == "image") != source.endswith(".npz"):
        raise ConfigError(
            f"a {config['model_type']} model learns from {'images' if objective == 'image' else 'text'}",
            got=f"--data {source}",
            expected="an .npz file of images and labels" if objective == "image" else "text",
        )
    if objective != "image":
        tokenizer = _tokenizer(config, folder)
        corpus = open_corpus(source, limit_bytes=limit_bytes, place="--data")
        return LearnSource(config, source, (tokenizer, corpus))
    if not check_regular(expanded(source)).is_file():
        raise ConfigError(f"--data finds no images: {source}", fix="check the path")
    return LearnSource(config, source, None)


def _tokenizer(config: Mapping[str, Any], folder: Path) -> TextTokenizer:
    """The tokenizer of a checkpoint. Raises ConfigError where it is missing, or no tokenizer of this model."""
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(
            f"{folder} has no tokenizer.json, so text cannot become the model's tokens",
            fix="copy the tokenizer that the model was trained with into the folder",
        )
    tokenizer = find_tokenizer(folder)
    if tokenizer.vocab_size > int(own_config(config)["vocab_size"]):
        raise ConfigError(
            "the tokenizer has more tokens than the model has vocabulary rows",
            got=f"{tokenizer.vocab_size} tokens",
            expected=f"at most vocab_size = {own_config(config)['vocab_size']}",
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
