"""A teacher beside a model that is trained: what its scores add to the loss of a step.

    divergence = T² · Σ over targets that count of KL(softmax(teacher / T) ‖ softmax(student / T))      in nats

The teacher sees the same inputs, without dropout, and learns nothing. Every rank holds all of it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from outgrow.data.objectives import IGNORED, Batch
from outgrow.engine.step import Device, Lesson, build_for_training, predict
from outgrow.run.distil import DistilConfig
from outgrow.state.training_state import TrainingState


class Teacher:
    """A saved state's model, ready to be asked."""

    def __init__(self, state: TrainingState, config: DistilConfig, device: Device) -> None:
        self.config, self._device = config, replace(device, sharding=None, compiled=False)
        self._model: nn.Module = build_for_training(state.config)
        state.load_into(self._model)
        self._model.requires_grad_(False).eval().to(device.name)

    def lesson(self, tokens: float) -> Lesson | None:
        """What it adds to a step after `tokens` of its stage; None where it has no say any more."""
        weight = self.config.at(tokens)
        return Lesson(weight, self._divergence) if weight > 0 else None

    def _divergence(self, batch: Batch, logits: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            taught, _ = predict(self._model, batch, self._device)
        return divergence(logits, taught, targets, self.config.temperature)


def divergence(logits: Tensor, taught: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Summed over the targets that count, times the square of the temperature, so that gradients keep their size.

    `logits` and `taught` are (..., classes), `targets` (...).

    >>> two = torch.tensor([[0.0, 1.0]])
    >>> divergence(two, two, torch.tensor([1]), 2.0)
    tensor(0.)
    """
    own, theirs = (nn.functional.log_softmax(scores.float() / temperature, -1) for scores in (logits, taught))
    each = nn.functional.kl_div(own, theirs, reduction="none", log_target=True).sum(-1)
    summed: Tensor = temperature**2 * each[targets != IGNORED].sum()
    return summed
