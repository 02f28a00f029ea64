"""Masked language modelling (arXiv 1810.04805, 3.1): some tokens are hidden and the model is to find them.

    of every sequence 15 % of the places are chosen; there the input is 80 % [MASK], 10 % another token, 10 % the token itself

Training may choose another share (40 % served large models better: arXiv 2202.08005); validation keeps 15 %, so that losses compare.
Which places is a pure function of (seed, step), so a step of a resumed run hides the same tokens; for validation they are
always the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outgrow.cost.flops import hidden_places
from outgrow.cost.spans import MASK_SHARE
from outgrow.data.hidden_text import HiddenText, Hider
from outgrow.data.needs import TextNeeds
from outgrow.data.objectives import IGNORED, Batch
from outgrow.data.tokenizer import TextTokenizer
from outgrow.data.windows import TrainingData
from outgrow.errors import ConfigError

HIDDEN, REPLACED = 0.8, 0.1
SPECIAL_TOKENS = {"mask_token": "[MASK]", "pad_token": "[PAD]"}
"""What a tokenizer that is trained for this needs besides."""


@dataclass(frozen=True)
class Hiding(Hider):
    """The tokens that hide, that are never hidden, and those that may stand in for a hidden one."""

    mask: int
    special: frozenset[int]
    vocab_size: int
    share: float = MASK_SHARE
    """Of the places of a sequence that are chosen."""

    @property
    def objective(self) -> str:
        return "masked"

    def at(self, share: float) -> Hiding:
        return replace(self, share=share)

    def needs(self, text: TrainingData) -> TextNeeds:
        return replace(text.needs, pad=text.tokenizer.pad, mask=self.mask)

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


def hide(text: TrainingData, share: float = MASK_SHARE) -> HiddenText:
    """Text for a masked model; raises ConfigError where its tokenizer has no token to hide behind."""
    tokenizer = check_tokens(text.tokenizer)
    assert tokenizer.mask is not None
    found = (tokenizer.mask, tokenizer.pad, tokenizer.separator)
    special = frozenset(token for token in found if token is not None)
    return HiddenText(text, Hiding(tokenizer.mask, special, tokenizer.vocab_size, share))


def check_tokens(tokenizer: TextTokenizer) -> TextTokenizer:
    """The same tokenizer; ConfigError where it has no mask or no padding token."""
    if tokenizer.mask is None or tokenizer.pad is None:
        raise ConfigError(
            "masked training needs a tokenizer with a mask and a padding token",
            got=f"mask {tokenizer.mask}, padding {tokenizer.pad}",
            fix="use the model's own tokenizer, or data.tokenizer.vocab_size to train one",
        )
    return tokenizer
