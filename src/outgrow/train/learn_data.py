"""Batches for the fit of a learned operator: the text, in the checkpoint's own tokens, as its objective wants it.

    causal   labels = inputs                          (transformers shifts them)
    masked   15 % of the tokens: 80 % masked, 10 % random, 10 % kept; all other labels -100  (BERT, arXiv 1810.04805)

The order and the masks are pure functions of (seed, step).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from outgrow.architectures import load
from outgrow.errors import ConfigError
from outgrow.proof import Batch
from outgrow.train.corpus import open_corpus
from outgrow.train.data import TrainingData, Windows, encoded
from outgrow.train.tokenizer import TextTokenizer, find_tokenizer

IGNORED = -100
_MASKS = ("[MASK]", "<mask>", "<MASK>")


@dataclass(frozen=True)
class LearnData:
    """Text to fit an operator on, and a few held-out windows."""

    data: TrainingData
    objective: str
    sequences: int
    seed: int = 0
    mask_token: int | None = None

    def batch(self, step: int) -> Batch:
        """The batch of one step of the fit."""
        inputs, _ = self.data.batch(self.seed, step, self.sequences)
        return self._labelled(inputs, step)

    def evaluation(self, count: int = 4) -> list[Batch]:
        """Held-out batches, always the same."""
        pieces = self.data.validation_batches(count * self.sequences, self.sequences)
        return [self._labelled(inputs, -1 - place) for place, (inputs, _) in enumerate(pieces)]

    def _labelled(self, inputs: Tensor, step: int) -> Batch:
        if self.objective == "causal":
            return {"input_ids": inputs, "labels": inputs}
        assert self.mask_token is not None
        return mask_tokens(inputs, self.mask_token, self.data.tokenizer.vocab_size, (self.seed, step))

    @property
    def record(self) -> dict[str, Any]:
        """What identifies the data."""
        return {**self.data.record, "sequences": self.sequences, "seed": self.seed}


def mask_tokens(inputs: Tensor, mask_token: int, vocab_size: int, address: tuple[int, int]) -> Batch:
    """A masked-LM batch, drawn from (seed, step).

    >>> batch = mask_tokens(torch.arange(40).view(2, 20), 99, 50, (0, 1))
    >>> bool((batch["input_ids"] == 99).any()), int((batch["labels"] >= 0).sum()) > 0
    (True, True)
    """
    seed, step = address
    generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
    chosen = torch.rand(inputs.shape, generator=generator) < 0.15
    kind = torch.rand(inputs.shape, generator=generator)
    random = torch.randint(0, vocab_size, inputs.shape, generator=generator)
    masked = torch.where(chosen & (kind < 0.8), mask_token, inputs)
    masked = torch.where(chosen & (kind >= 0.8) & (kind < 0.9), random, masked)
    return {"input_ids": masked, "labels": torch.where(chosen, inputs, IGNORED)}


def text_data(
    config: Mapping[str, Any],
    folder: Path,
    source: str,
    *,
    sequences: int = 16,
    length: int = 256,
    seed: int = 0,
    limit_bytes: int | None = None,
    validation_share: float = 0.02,
) -> LearnData:
    """The text of `source` in the tokens of the checkpoint in `folder`, in windows that its positions allow.

    Raises ConfigError where the tokenizer is missing, or the model has no row for one of its tokens.
    """
    objective = load(str(config["model_type"])).objective
    if objective not in ("causal", "masked"):
        raise ConfigError(
            f"text is no data for a model that learns '{objective}'",
            fix="fit it from Python, with batches of your own",
        )
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
    mask = _mask_token(tokenizer) if objective == "masked" else None
    length = min(length, _positions(config) or length)
    tokens, _ = encoded(open_corpus(source, limit_bytes=limit_bytes), tokenizer)
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
    return LearnData(TrainingData(train, held_out, tokenizer, source), objective, sequences, seed, mask)


def _check_tokens(windows: Windows, rows: int) -> None:
    highest = int(np.max(windows.tokens))
    if highest >= rows:
        raise ConfigError(
            "the text has tokens that the model has no vocabulary row for",
            got=f"token {highest}",
            expected=f"below vocab_size = {rows}",
        )


def _positions(config: Mapping[str, Any]) -> int | None:
    """Longest sequence; RoBERTa's positions start behind its padding index."""
    found = config.get("max_position_embeddings", config.get("n_positions"))
    if found is None:
        return None
    behind = int(config.get("pad_token_id") or 0) + 1 if config.get("model_type") == "roberta" else 0
    return int(found) - behind


def _mask_token(tokenizer: TextTokenizer) -> int:
    for word in _MASKS:
        number = tokenizer.tokenizer.token_to_id(word)
        if number is not None:
            return int(number)
    raise ConfigError(
        "the tokenizer has no mask token, which a masked model learns from", expected=" or ".join(_MASKS[:2])
    )
