"""Span corruption (arXiv 1910.10683, 3.1.4): of a sequence of text some spans are hidden, and the model writes them.

    hidden    share · length tokens (15 %), in spans of 3 on average
    encoder   the text, a sentinel in the place of every span               length - hidden + spans
    decoder   every span behind its sentinel, and one more sentinel         hidden + spans + 1

Both lengths are the same for all sequences of a length, so a batch is whole without padding.
"""

from __future__ import annotations

from dataclasses import dataclass

from outgrow.errors import ConfigError

MASK_SHARE = 0.15
"""Of a sequence's places, those that BERT hides (arXiv 1810.04805), and T5."""
MEAN_SPAN = 3


@dataclass(frozen=True)
class SpanLengths:
    """Of one sequence of text: hidden tokens and spans, and what each stack sees."""

    text: int
    hidden: int
    spans: int

    @property
    def encoder(self) -> int:
        """Tokens that the encoder reads."""
        return self.text - self.hidden + self.spans

    @property
    def decoder(self) -> int:
        """Tokens that the decoder writes."""
        return self.hidden + self.spans + 1


def span_lengths(length: int, share: float = MASK_SHARE) -> SpanLengths:
    """How a text of `length` tokens is divided; ConfigError where there is nothing left to read beside what is hidden.

    >>> made = span_lengths(512)
    >>> made.hidden, made.spans, made.encoder, made.decoder
    (77, 26, 461, 104)
    """
    if length < 2:
        raise ConfigError(
            "a text of one token has no span to hide",
            got=f"sequences of {length}",
            fix="give a data.sequence_length of at least 2",
        )
    hidden = min(max(1, round(share * length)), length - 1)
    return SpanLengths(length, hidden, min(max(1, round(hidden / MEAN_SPAN)), length - hidden))
