"""Learning-rate schedules as pure functions of tokens, so that a growth or a new batch size cannot shift them.

    learning rate = peak * schedule.factor(tokens, total) * rewarm(tokens since the growth)

`tokens` counts the whole run, all stages together: a growth keeps the position unless the stage says otherwise.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from outgrow.files.section import Section, TokenCount


class _Schedule(Section):
    warmup_tokens: TokenCount = 0
    """Tokens over which the factor rises linearly from 0 to 1."""

    def factor(self, tokens: float, total_tokens: float) -> float:
        """The share of the peak learning rate, in [0, 1], after `tokens` of `total_tokens`."""
        if tokens < self.warmup_tokens:
            return tokens / self.warmup_tokens
        return self._after_warmup(tokens, total_tokens)

    def _after_warmup(self, tokens: float, total_tokens: float) -> float:
        raise NotImplementedError

    def _progress(self, tokens: float, total_tokens: float) -> float:
        """0 at the end of the warm-up, 1 at the end of the run."""
        return min(1.0, (tokens - self.warmup_tokens) / max(1.0, total_tokens - self.warmup_tokens))


class Constant(_Schedule):
    """Warm-up, then the peak for ever.

    >>> Constant(warmup_tokens=100).factor(50, 1000), Constant().factor(900, 1000)
    (0.5, 1.0)
    """

    kind: Literal["constant"] = "constant"

    def _after_warmup(self, tokens: float, total_tokens: float) -> float:
        return 1.0


class Linear(_Schedule):
    """Warm-up, then a straight line from the peak to `final` at the end of the run.

    >>> Linear(final=0.0).factor(250, 1000)
    0.75
    """

    kind: Literal["linear"] = "linear"
    final: float = Field(0.0, ge=0, le=1)

    def _after_warmup(self, tokens: float, total_tokens: float) -> float:
        return 1.0 - (1.0 - self.final) * self._progress(tokens, total_tokens)


class Cosine(_Schedule):
    """Warm-up, then half a cosine from the peak to `final` at the end of the run (arXiv 1608.03983).

    >>> round(Cosine(final=0.1).factor(500, 1000), 6)
    0.55
    """

    kind: Literal["cosine"] = "cosine"
    final: float = Field(0.1, ge=0, le=1)

    def _after_warmup(self, tokens: float, total_tokens: float) -> float:
        wave = 0.5 * (1.0 + math.cos(math.pi * self._progress(tokens, total_tokens)))
        return self.final + (1.0 - self.final) * wave


class WSD(_Schedule):
    """Warm-up, stable, decay: the peak until the last `decay_share` of the run, then down to `final` (arXiv 2404.06395).

    The stable part does not depend on the length of the run, so a growth in it needs no new schedule.

    >>> wsd = WSD(decay_share=0.2)
    >>> wsd.factor(700, 1000), round(wsd.factor(900, 1000), 6), wsd.factor(1000, 1000)
    (1.0, 0.5, 0.0)
    """

    kind: Literal["wsd"] = "wsd"
    decay_share: float = Field(0.2, ge=0, le=1)
    decay: Literal["linear", "cosine", "sqrt"] = "linear"
    final: float = Field(0.0, ge=0, le=1)

    def _after_warmup(self, tokens: float, total_tokens: float) -> float:
        length = self.decay_share * total_tokens
        done = min(1.0, (tokens - (total_tokens - length)) / length) if length > 0 else 0.0
        if done <= 0:
            return 1.0
        if self.decay == "linear":
            shape = 1.0 - done
        elif self.decay == "cosine":
            shape = 0.5 * (1.0 + math.cos(math.pi * done))
        else:  # 1 - sqrt, the best of the shapes tried in arXiv 2405.18392
            shape = 1.0 - math.sqrt(done)
        return self.final + (1.0 - self.final) * shape


Schedule = Annotated[Constant | Linear | Cosine | WSD, Field(discriminator="kind")]


def learning_rate(
    schedule: Constant | Linear | Cosine | WSD,
    peak: float,
    tokens: float,
    total_tokens: float,
    *,
    stage_start: float = 0,
    rewarm_tokens: float = 0,
) -> float:
    """The learning rate after `tokens` of the whole run, in a stage that began at `stage_start`.

    With `rewarm_tokens` the stage rises linearly from 0 to the schedule's own value once more.

    >>> learning_rate(Constant(), 1e-3, tokens=150, total_tokens=1000, stage_start=100, rewarm_tokens=100)
    0.0005
    """
    rewarm = min(1.0, (tokens - stage_start) / rewarm_tokens) if rewarm_tokens > 0 else 1.0
    return peak * schedule.factor(tokens, total_tokens) * rewarm
