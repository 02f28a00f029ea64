"""Span corruption (arXiv 1910.10683, 3.1.4): the encoder sees a text without some of its spans, and the decoder writes those.

    text      Thank you for inviting me to your party last week
    encoder   Thank you <0> me to your party <1>
    decoder   <0> for inviting <1> last week <2>

Kept and hidden spans take turns, a kept one first, as in the authors' code; their lengths are drawn so that every way to divide the
tokens is as likely. Which spans is a pure function of (seed, step), so a resumed run hides the same; for validation they
are always the same, with a share of 15 %. `cost/spans.py` says how many and how long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from outgrow.cost.spans import MASK_SHARE, span_lengths
from outgrow.data.hidden_text import HiddenText, Hider
from outgrow.data.needs import TextNeeds
from outgrow.data.objectives import Batch
from outgrow.data.tokenizer import TextTokenizer
from outgrow.data.windows import TrainingData
from outgrow.errors import ConfigError


def sentinel_tokens(longest: int, share: float) -> dict[str, str]:
    """What a tokenizer that is trained for this needs besides, for texts of up to `longest` tokens."""
    count = max(span_lengths(longest, one).spans + 1 for one in (share, MASK_SHARE))
    return {"pad_token": "[PAD]", **{f"extra_id_{place}": f"<extra_id_{place}>" for place in range(count)}}


@dataclass(frozen=True)
class Corruption(Hider):
    """The tokens that stand for hidden spans, in their order, and the share of a text that is hidden."""

    sentinels: tuple[int, ...]
    share: float = MASK_SHARE

    @property
    def objective(self) -> str:
        return "denoising"

    def at(self, share: float) -> Corruption:
        return replace(self, share=share)

    def needs(self, text: TrainingData) -> TextNeeds:
        return replace(text.needs, pad=text.tokenizer.pad, begins=text.tokenizer.pad)

    def apply(self, tokens: torch.Tensor, key: Sequence[int]) -> Batch:
        """What the encoder reads and what the decoder writes of every text; int64 (sequences, length).

        >>> read, written = Corruption((90, 91, 92)).apply(torch.arange(7).view(1, 7), (0, 0))
        >>> read.tolist(), written.tolist()
        ([[0, 1, 2, 3, 4, 5, 90]], [[90, 6, 91]])
        """
        values: NDArray[np.int64] = tokens.numpy()
        rows, length = values.shape
        made = span_lengths(length, self.share)
        random = np.random.Generator(np.random.PCG64(list(key)))
        kept = _divided(random, rows, length - made.hidden, made.spans)
        turns = np.stack([kept, _divided(random, rows, made.hidden, made.spans)], axis=2).reshape(-1)
        turn = np.repeat(np.tile(np.arange(2 * made.spans), rows), turns).reshape(rows, length)
        hidden = turn % 2 == 1
        begins = hidden & (np.diff(turn, axis=1, prepend=-1) > 0)
        sentinels = np.asarray(self.sentinels)[turn // 2]
        read = np.where(begins, sentinels, values)[begins | ~hidden].reshape(rows, made.encoder)
        both = np.stack([sentinels, values], axis=2)[np.stack([begins, hidden], axis=2)]
        last = np.full((rows, 1), self.sentinels[made.spans])
        written = np.concatenate([both.reshape(rows, made.decoder - 1), last], axis=1)
        return torch.from_numpy(read), torch.from_numpy(written)


def _divided(random: np.random.Generator, rows: int, total: int, parts: int) -> NDArray[np.int64]:
    """(rows, parts): positive whole numbers with the sum `total`, every way to divide it as likely."""
    order = random.random((rows, total - 1)).argsort(axis=1)[:, : parts - 1]
    ends = np.sort(order + 1, axis=1)
    return np.diff(ends, axis=1, prepend=0, append=total)


def corrupt(text: TrainingData, share: float = MASK_SHARE) -> HiddenText:
    """Text for a model that writes hidden spans; raises ConfigError where its tokenizer has too few sentinels."""
    longest = max(text.train.length, text.validation.length)
    tokenizer = check_sentinels(text.tokenizer, longest, share)
    return HiddenText(text, Corruption(tokenizer.sentinels, share))


def check_sentinels(tokenizer: TextTokenizer, longest: int, share: float) -> TextTokenizer:
    """The same tokenizer; ConfigError where texts of `longest` tokens have more spans than it has tokens to stand for them."""
    needed = len(sentinel_tokens(longest, share)) - 1
    if tokenizer.pad is None or len(tokenizer.sentinels) < needed:
        raise ConfigError(
            f"sequences of {longest} tokens have {needed - 1} hidden spans, and each needs a token that stands for it",
            got=f"{len(tokenizer.sentinels)} tokens <extra_id_0>, <extra_id_1>, ..., padding {tokenizer.pad}",
            expected=f"{needed}, and a padding token",
            fix="use the model's own tokenizer, data.tokenizer.vocab_size to train one, or a smaller data.sequence_length",
        )
    return tokenizer
