"""What a model learns: how it is called and what counts as right. The loss is always

    loss = Σ over targets that count of -log softmax(logits)[target]        in nats; targets of -100 do not count

`causal`: the next token. `masked`: the hidden tokens (arXiv 1810.04805). `image`: the class of an image.
The architecture file says which one a model has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.architectures import load

IGNORED = -100
"""A target that does not count."""
Batch = tuple[Tensor, Tensor]
"""Inputs (items, ...) and int64 targets (items,) or (items, length)."""


class Objective(ABC):
    """How one kind of model is trained. Final: Causal, Masked, Image."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """What a validation reports: `loss` in nats per target, `accuracy` as a share."""

    @abstractmethod
    def logits(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Scores of every class: (items, classes) or (items, length, classes)."""

    @abstractmethod
    def example(self, config: Mapping[str, Any], items: int, length: int) -> Batch:
        """Random inputs and targets, to measure speed with."""


class Causal(Objective):
    """Predict the next token."""

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("loss",)

    def logits(self, model: nn.Module, inputs: Tensor) -> Tensor:
        found: Tensor = model(input_ids=inputs, use_cache=False).logits
        return found

    def example(self, config: Mapping[str, Any], items: int, length: int) -> Batch:
        tokens = torch.randint(config["vocab_size"], (items, length))
        return tokens, tokens


class Masked(Objective):
    """Predict the tokens that were hidden; all others have the target -100."""

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("loss",)

    def logits(self, model: nn.Module, inputs: Tensor) -> Tensor:
        found: Tensor = model(input_ids=inputs).logits
        return found

    def example(self, config: Mapping[str, Any], items: int, length: int) -> Batch:
        tokens = torch.randint(config["vocab_size"], (items, length))
        return tokens, tokens


class Image(Objective):
    """Predict the class of an image."""

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("loss", "accuracy")

    def logits(self, model: nn.Module, inputs: Tensor) -> Tensor:
        found: Tensor = model(pixel_values=inputs).logits
        return found

    def example(self, config: Mapping[str, Any], items: int, length: int) -> Batch:
        side = config["image_size"]
        return torch.randn(items, config["num_channels"], side, side), torch.zeros(items, dtype=torch.int64)


OBJECTIVES: dict[str, Objective] = {"causal": Causal(), "masked": Masked(), "image": Image()}


def objective_of(config: Mapping[str, Any]) -> Objective:
    """The objective of a model, by its `config.json`; ArchitectureError for a model type that has no file.

    >>> objective_of({"model_type": "bert"}).metrics
    ('loss',)
    """
    return OBJECTIVES[load(str(config.get("model_type"))).objective]


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy in nats over the targets that count.

    >>> summed_loss(torch.zeros(1, 2, 4), torch.tensor([[3, IGNORED]])).exp()
    tensor(4.)
    """
    return nn.functional.cross_entropy(
        logits.float().flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
