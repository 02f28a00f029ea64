"""Text of which a part is hidden, for models that find it again: BERT's tokens (`masked.py`), T5's spans (`spans.py`).

Which part is a pure function of (seed, step), so a step of a resumed run hides the same. For validation it is always the same
part, 15 %, so that losses compare.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from outgrow.cost.spans import MASK_SHARE
from outgrow.data.needs import TextNeeds
from outgrow.data.objectives import Batch
from outgrow.data.windows import Data, Stretch, TrainingData
from outgrow.store.assets import Asset

_TRAINING, _VALIDATION = 0, 1


class Hider(ABC):
    """What hides a share of a text. Final: Hiding, Corruption."""

    @property
    @abstractmethod
    def objective(self) -> str:
        """Of the models that find it."""

    @abstractmethod
    def at(self, share: float) -> Hider:
        """The same, with another share of a text."""

    @abstractmethod
    def needs(self, text: TrainingData) -> TextNeeds:
        """What a model must have to take it."""

    @abstractmethod
    def apply(self, tokens: Tensor, key: Sequence[int]) -> Batch:
        """Inputs and targets of texts, int64 (sequences, length); the same for the same key."""


@dataclass(frozen=True)
class HiddenText(Data):
    """The same windows of text as for a causal model, with a part hidden."""

    text: TrainingData
    hider: Hider

    @property
    def needs(self) -> TextNeeds:
        return self.hider.needs(self.text)

    @property
    def files(self) -> tuple[Asset, ...]:
        return self.text.files

    @property
    def summary(self) -> str:
        return self.text.summary

    @property
    def record(self) -> dict[str, Any]:
        return {**self.text.record, "objective": self.hider.objective}

    def batch(self, seed: int, step: int, sequences: int, *, stretch: Stretch | None = None) -> Batch:
        tokens, _ = self.text.batch(seed, step, sequences, stretch=stretch)
        return self.hider.apply(tokens, (_TRAINING, seed, step))

    def validation_batches(self, sequences: int, micro_batch: int) -> list[Batch]:
        (whole,) = self.text.validation_batches(sequences, sequences)
        inputs, targets = self.hider.at(MASK_SHARE).apply(whole[0], (_VALIDATION,))
        places = range(0, len(inputs), micro_batch)
        return [
            (inputs[place : place + micro_batch], targets[place : place + micro_batch]) for place in places
        ]
