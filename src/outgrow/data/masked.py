"""Masked language modelling (arXiv 1810.04805, 3.1): some tokens are hidden and the model is to find them.

    of every sequence 15 % of the places are chosen; there the input is 80 % [MASK], 10 % another token, 10 % the token itself

Training may choose another share (40 % served large models better: arXiv 2202.08005); validation keeps 15 %, so that losses compare.
Which places is a pure function of (seed, step), so a step of a resumed run hides the same tokens; for validation they are
always the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outgrow.cost.flops import hidden_places
from outgrow.cost.spans import MASK_SHARE
from outgrow.data.needs import TextNeeds
from outgrow.data.objectives import IGNORED, Batch
from outgrow.data.tokenizer import TextTokenizer
from outgrow.data.windows import Data, Stretch, TrainingData
from outgrow.errors import ConfigError
from outgrow.store.assets import Asset

HIDDEN, REPLACED = 0.8, 0.1
SPECIAL_TOKENS = {"mask_token": "[MASK]", "pad_token": "[PAD]"}
"""What a tokenizer that is trained for this needs besides."""
_TRAINING, _VALIDATION = 0, 1


@dataclass(frozen=True)
class Hiding:
    """The tokens that hide, that are never hidden, and those that may stand in for a hidden one."""

    mask: int
    special: frozenset[int]
    vocab_size: int
    share: float = MASK_SHARE
    """Of the places of a sequence that are chosen."""

    def apply(self, tokens: Tensor, key: Sequence[int]) -> Batch:
        """Inputs with hidden tokens, and targets that are -100 elsewhere; int64 (sequences, length).

        Special tokens are chosen only where a sequence has nothing else.

        >>> inputs, targets = Hiding(9, frozenset({0}), 9).apply(torch.arange(1, 9).view(1, 8), (0, 0))
        >>> int((targets != IGNORED).sum())
        1
        """
        random = np.random.Generator(np.random.PCG64(list(key)))
        values: NDArray[np.int64] = tokens.numpy()
        order = random.random(values.shape) + np.isin(values, list(self.special))
        count = hidden_places(values.shape[1], self.share)
        chosen = np.zeros(values.shape, dtype=bool)
        np.put_along_axis(chosen, np.argpartition(order, count - 1, axis=1)[:, :count], True, axis=1)
        fate = random.random(values.shape)
        ordinary = np.setdiff1d(np.arange(self.vocab_size), [self.mask, *self.special])
        others = ordinary[random.integers(len(ordinary), size=values.shape)]
        inputs = np.where(chosen & (fate < HIDDEN), self.mask, values)
        inputs = np.where(chosen & (fate >= HIDDEN) & (fate < HIDDEN + REPLACED), others, inputs)
        targets = np.where(chosen, values, IGNORED)
        return torch.from_numpy(inputs), torch.from_numpy(targets)


@dataclass(frozen=True)
class MaskedText(Data):
    """The same windows of text as for a causal model, with tokens hidden."""

    text: TrainingData
    hiding: Hiding

    @property
    def needs(self) -> TextNeeds:
        return replace(self.text.needs, pad=self.text.tokenizer.pad, mask=self.hiding.mask)

    @property
    def files(self) -> tuple[Asset, ...]:
        return self.text.files

    @property
    def summary(self) -> str:
        return self.text.summary

    @property
    def record(self) -> dict[str, Any]:
        return {**self.text.record, "objective": "masked"}

    def batch(self, seed: int, step: int, sequences: int, *, stretch: Stretch | None = None) -> Batch:
        inputs, _ = self.text.batch(seed, step, sequences, stretch=stretch)
        return self.hiding.apply(inputs, (_TRAINING, seed, step))

    def validation_batches(self, sequences: int, micro_batch: int) -> list[Batch]:
        (whole,) = self.text.validation_batches(sequences, sequences)
        inputs, targets = replace(self.hiding, share=MASK_SHARE).apply(whole[0], (_VALIDATION,))
        return [
            (inputs[start : start + micro_batch], targets[start : start + micro_batch])
            for start in range(0, len(inputs), micro_batch)
        ]


def hide(text: TrainingData, share: float = MASK_SHARE) -> MaskedText:
    """Text for a masked model; raises ConfigError where its tokenizer has no token to hide behind."""
    tokenizer = check_tokens(text.tokenizer)
    assert tokenizer.mask is not None
    found = (tokenizer.mask, tokenizer.pad, tokenizer.separator)
    special = frozenset(token for token in found if token is not None)
    return MaskedText(text, Hiding(tokenizer.mask, special, tokenizer.vocab_size, share))


def check_tokens(tokenizer: TextTokenizer) -> TextTokenizer:
    """The same tokenizer; ConfigError where it has no mask or no padding token."""
    if tokenizer.mask is None or tokenizer.pad is None:
        raise ConfigError(
            "masked training needs a tokenizer with a mask and a padding token",
            got=f"mask {tokenizer.mask}, padding {tokenizer.pad}",
            fix="use the model's own tokenizer, or data.tokenizer.vocab_size to train one",
        )
    return tokenizer
