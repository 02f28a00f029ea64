"""What the steps of every stage of a study read and how they compute, and where its pieces may end.

    steps of a stage   = the study's, with the stage's own length, batch, precision and optimizer numbers
    a piece's tokens   = a multiple of lcm(tokens of its own step, tokens of the study's step)

So whatever came before, a piece begins at a whole step of the study's in the order of the data, and all arms share that order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from outgrow.comparing.study import StudyConfig
from outgrow.errors import ConfigError
from outgrow.run.config import RunConfig
from outgrow.run.run_file import parse_run

_PROBE = {"output": "-", "model": {"model_type": "llama"}, "stages": [{"name": "probe", "tokens": 1}]}


def common_run(study: StudyConfig) -> RunConfig:
    """What all runs of a study share, as a run: its batch, optimizer, precision and device."""
    return parse_run({**study.common, **_PROBE}, where="common")


@dataclass(frozen=True)
class StudySteps:
    """What the stages of a study's arms read, worked out once. Raises `ConfigError` where a stage cannot have what it says."""

    study: StudyConfig

    @cached_property
    def common(self) -> RunConfig:
        """What a stage without anything of its own reads."""
        return common_run(self.study)

    @cached_property
    def window(self) -> int:
        """Tokens of the windows in which all arms have the text ordered: the longest sequences that any of them trains on."""
        lengths = [
            self.of(arm, place).data.sequence_length
            for arm, config in self.study.arms.items()
            for place in range(len(config.stages))
        ]
        return max(self.common.data.sequence_length, *lengths)

    def of(self, arm: str, place: int) -> RunConfig:
        """The study's run as the steps of one stage of an arm do it."""
        try:
            return self.common.with_own(self.study.arms[arm].stages[place], f"arms.{arm}.stages[{place}]")
        except ValueError as error:
            raise ConfigError(str(error)) from None

    def unit(self, arm: str, place: int) -> int:
        """Tokens between the places at which a piece of a stage may end."""
        return math.lcm(self.common.tokens_per_step, self.of(arm, place).tokens_per_step)

    def whole(self, arm: str, place: int, tokens: float) -> int:
        """Tokens of a stage, or of a part of it, rounded to such places; at least one of them."""
        unit = self.unit(arm, place)
        return max(1, round(tokens / unit)) * unit

    def window_key(self, arm: str, places: Iterable[int]) -> dict[str, int]:
        """What `data` of a run of these stages says of the windows: nothing where its own sequences are as long."""
        longest = max(self.of(arm, place).data.sequence_length for place in places)
        return {} if longest == self.window else {"window": self.window}
