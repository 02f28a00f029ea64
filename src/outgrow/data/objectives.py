"""What a model learns: how it is called and what counts as right. The loss is always

    loss = Σ over targets that count of -log softmax(logits)[target]        in nats; targets of -100 do not count

`causal`: the next token. `masked`: the hidden tokens (arXiv 1810.04805). `denoising`: the hidden spans (1910.10683).
`image`: the class of an image.
The architecture file says which one a model has. Scores are made where a target counts: a masked model's head, a large part
of a small model, is computed at the hidden places alone (as BERT's own code gathers them before its head).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.cost.flops import asked_places
from outgrow.cost.spans import span_lengths
from outgrow.errors import ArchitectureError
from outgrow.models.architecture import architecture_of, head_module, load_architecture, own_config

IGNORED = -100
"""A target that does not count."""
Batch = tuple[Tensor, Tensor]
"""Inputs (items, ...) and int64 targets (items,) or (items, length)."""


class Objective(ABC):
    """How one kind of model is trained. Final: Causal, Masked, Denoising, Image."""

    @property
    @abstractmethod
    def metrics(self) -> tuple[str, ...]:
        """What a validation reports: `loss` in nats per target, `accuracy` as a share."""

    @abstractmethod
    def scores(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Batch:
        """Scores of every class, and the targets they are held against: (items, classes) or (items, length, classes).

        Inputs are on the model's device, targets may be elsewhere and stay there.
        """

    @abstractmethod
    def example(self, config: Mapping[str, Any], items: int, length: int, mask_share: float) -> Batch:
        """Random inputs and targets, to measure speed with."""


class Causal(Objective):
    """Predict the next token."""

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("loss",)

    def scores(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Batch:
        return model(input_ids=inputs, use_cache=False).logits, targets

    def example(self, config: Mapping[str, Any], items: int, length: int, mask_share: float) -> Batch:
        tokens = torch.randint(own_config(config)["vocab_size"], (items, length))
        return tokens, tokens


class Masked(Objective):
    """Predict the tokens that were hidden; all others have the target -100."""

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("loss",)

    def scores(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Batch:
        if targets.shape != inputs.shape:  # fine-tuning: a class, or the places of an answer, per text
            return model(input_ids=inputs).logits, targets
        with head_where_asked(model, targets) as asked:
            return model(input_ids=inputs).logits, asked

    def example(self, config: Mapping[str, Any], items: int, length: int, mask_share: float) -> Batch:
        tokens = torch.randint(own_config(config)["vocab_size"], (items, length))
        asked = torch.arange(length) < asked_places(config, length, mask_share)
        return tokens, torch.where(asked, tokens, IGNORED)


class Denoising(Objective):
    """Write the spans that the encoder does not see; the decoder sees those before, behind the token that it begins with."""

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("loss",)

    def scores(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Batch:
        config: Any = model.config
        begins = getattr(config, "decoder_start_token_id", None)
        if begins is None:  # T5 begins with padding
            begins = config.pad_token_id
        before = torch.cat([torch.full_like(targets[:, :1], begins), targets[:, :-1]], dim=1)
        found = model(input_ids=inputs, decoder_input_ids=before.to(inputs.device), use_cache=False)
        return found.logits, targets

    def example(self, config: Mapping[str, Any], items: int, length: int, mask_share: float) -> Batch:
        lengths = span_lengths(length, mask_share)
        tokens = torch.randint(own_config(config)["vocab_size"], (items, lengths.encoder + lengths.decoder))
        return tokens[:, : lengths.encoder], tokens[:, lengths.encoder :]


class Image(Objective):
    """Predict the class of an image."""

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("loss", "accuracy")

    def scores(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Batch:
        output = model(inputs)
        return getattr(output, "logits", output), targets

    def example(self, config: Mapping[str, Any], items: int, length: int, mask_share: float) -> Batch:
        side = config["image_size"]
        return torch.randn(items, config["num_channels"], side, side), torch.zeros(items, dtype=torch.int64)


def is_masked(model: nn.Module) -> bool:
    """Whether a live model is trained to find hidden tokens."""
    config: Any = getattr(model, "config", None)
    return config is not None and load_architecture(str(config.model_type)).objective == "masked"


@contextmanager
def head_where_asked(model: nn.Module, targets: Tensor) -> Iterator[Tensor]:
    """Inside, the head of a masked model sees the places alone whose targets count, (places, hidden) for (items, length, hidden).

    Yields their targets, (places,).
    """
    config: Any = model.config
    head = head_module(config.model_type)
    assert head is not None, "a masked model scores tokens"
    flat = targets.flatten()
    places = (flat != IGNORED).nonzero().flatten()

    def gather(module: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        (hidden,) = arguments
        return (hidden.flatten(0, 1).index_select(0, places.to(hidden.device)),)

    hook = model.get_submodule(head).register_forward_pre_hook(
        gather, prepend=True
    )  # before a cut head's own
    try:
        yield flat[places]
    finally:
        hook.remove()


OBJECTIVES: dict[str, Objective] = {
    "causal": Causal(),
    "masked": Masked(),
    "denoising": Denoising(),
    "image": Image(),
}


def objective_of(config: Mapping[str, Any]) -> Objective:
    """The objective of a model, by its `config.json`; ArchitectureError for a model type that has no file, or that only grows.

    >>> objective_of({"model_type": "bert"}).metrics
    ('loss',)
    """
    spec = architecture_of(config)
    if spec.objective not in OBJECTIVES:
        raise ArchitectureError(
            f"{spec.model_type} ({spec.class_}, {spec.objective}) can be grown, not trained here",
            expected=f"a model that is trained to predict: {', '.join(OBJECTIVES)}",
            fix="grow it with `outgrow grow`, and train it with a loop of your own or of transformers",
        )
    return OBJECTIVES[spec.objective]


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy in nats over the targets that count.

    >>> summed_loss(torch.zeros(1, 2, 4), torch.tensor([[3, IGNORED]])).exp()
    tensor(4.)
    """
    return nn.functional.cross_entropy(
        logits.float().flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
