"""What a stage may do with new and old entries after its growth, as pure functions of its tokens.

    new_entries   their learning rate times 1 .. multiplier .. 1      (SPARKLING, arXiv 2602.02472)
    freeze        tensors that are left alone for a while             (MSLT, arXiv 2011.13635; LLaMA-Pro, 2401.02415)
    masks         new units and layers fade in from 0 to 1            (MSG, arXiv 2305.02869)

`tokens` counts from the beginning of the stage.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from outgrow.files.section import Count, Section, TokenCount


def steps_within(tokens: int, tokens_per_step: int, steps: int) -> int:
    """How many of a stage's steps have their middle token before a number of tokens.

    >>> [steps_within(tokens, 10, 3) for tokens in (5, 6, 15, 16, 100)]
    [0, 1, 1, 2, 3]
    """
    return min(steps, max(0, -((tokens_per_step - 2 * tokens) // (2 * tokens_per_step))))


class NewEntriesConfig(Section):
    """A learning rate of their own for the entries that a growth added, weight decay with it.

    >>> boost = NewEntriesConfig(multiplier=1.5, rise_tokens=100, fall_tokens=200)
    >>> [boost.at(tokens) for tokens in (0, 50, 100, 200, 300, 1000)]
    [1.0, 1.25, 1.5, 1.25, 1.0, 1.0]
    """

    multiplier: Annotated[float, Field(gt=0)] = 1.3
    """The peak, times the schedule's learning rate."""
    rise_tokens: TokenCount = 0
    """Tokens over which it goes from 1 to the peak."""
    fall_tokens: Count | None = None
    """Tokens over which it then goes back to 1; null: it stays until the stage ends."""

    def at(self, tokens: float) -> float:
        """The multiplier after `tokens` of the stage."""
        if tokens < self.rise_tokens:
            share = tokens / self.rise_tokens
        elif self.fall_tokens is None:
            share = 1.0
        else:
            share = max(0.0, 1.0 - (tokens - self.rise_tokens) / self.fall_tokens)
        return 1.0 + (self.multiplier - 1.0) * share


class FreezeConfig(Section):
    """Tensors that get no update: no gradient, no change of moments, no step counted."""

    what: Literal["old"] | tuple[str, ...]
    """`old`: tensors without a new entry; or patterns of names, as `["model.embed_tokens.*"]`."""
    tokens: Count | None = None
    """For how long; null: the whole stage."""

    def at(self, tokens: float) -> bool:
        """Whether they are frozen after `tokens` of the stage."""
        return self.tokens is None or tokens < self.tokens

    def steps(self, tokens_per_step: int, steps: int) -> int:
        """How many of a stage's steps are frozen: those whose middle token is."""
        return steps if self.tokens is None else steps_within(self.tokens, tokens_per_step, steps)


class MasksConfig(Section):
    """New units and layers times a mask that goes from 0 to 1.

    >>> MasksConfig(rise_tokens=100).at(25)
    0.25
    """

    rise_tokens: Count

    def at(self, tokens: float) -> float:
        """The mask's value after `tokens` of the stage."""
        return min(1.0, tokens / self.rise_tokens)
