"""Fine-tuning of an encoder under a new head, with the same settings for every arm: AdamW, 10 % warm-up, then linear to zero.

The pre-training had no other special tokens between texts, so the separator stands where BERT has [CLS] and [SEP]. Token types
stay 0. What is learned, and what a head's scores mean, say `classify.py` and `answering.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from outgrow.comparing.study import FinetuningConfig
from outgrow.data.objectives import Batch
from outgrow.data.tokenizer import TextTokenizer
from outgrow.data.windows import places
from outgrow.engine.optimizers import build_optimizer
from outgrow.engine.step import Device, optimizer_step, predict
from outgrow.errors import ConfigError, TrainingError
from outgrow.run.optimizer_config import AdamWConfig

_WARMUP = 0.1


class Padded(nn.Module):
    """A model under a head that does not look at padding, called as the model it was made from."""

    def __init__(self, model: nn.Module, pad: int) -> None:
        super().__init__()
        self.model, self.pad = model, pad

    @property
    def config(self) -> Any:
        """Of the model inside."""
        return self.model.config

    def forward(self, input_ids: Tensor) -> Any:
        """Logits (items, classes), or (items, length, classes) of a head on every token."""
        return self.model(input_ids=input_ids, attention_mask=(input_ids != self.pad).long())


def open_under_head(kind: Any, state: Path, tokenizer: TextTokenizer, seed: int) -> Padded:
    """A saved encoder in an auto class of transformers, under a new head of two classes, whose weights are drawn from the seed."""
    assert tokenizer.pad is not None, "a masked model was trained with a padding token"
    return Padded(new_head(kind, state, 2, seed), tokenizer.pad)


def new_head(kind: Any, state: Path, classes: int, seed: int) -> nn.Module:
    """A saved model in an auto class of transformers, under a new head of so many classes, whose weights are drawn from the seed."""
    torch.manual_seed(seed)
    with _without_notes():  # that the head is new is the point
        model: nn.Module = kind.from_pretrained(
            state,
            num_labels=classes,
            dtype=torch.float32,
            local_files_only=True,
            ignore_mismatched_sizes=True,
        )
    return model


def finetune(
    model: nn.Module,
    batch_of: Callable[[NDArray[Any]], Batch],
    count: int,
    settings: FinetuningConfig,
    device: Device,
    seed: int,
    name: str,
) -> None:
    """Train a model on `count` items, every one once an epoch; `batch_of` makes some of them a batch.

    Raises TrainingError where the loss is no number.
    """
    optimizer = build_optimizer(model, AdamWConfig(learning_rate=settings.learning_rate, weight_decay=0.01))
    steps = settings.epochs * math.ceil(count / settings.batch)
    for step in range(steps):
        done = optimizer_step(
            model,
            optimizer,
            batch_of(places(seed, step * settings.batch, (step + 1) * settings.batch, count)),
            learning_rate=settings.learning_rate * _factor((step + 0.5) / steps),
            micro_batch=settings.batch,
            clip=1.0,
            device=device,
            seed=(seed, step),
        )
        if not math.isfinite(done.loss):
            raise TrainingError(
                f"fine-tuning on {name} diverged at step {step + 1}",
                fix="lower its learning_rate in downstream",
            )


def head_scores(
    model: nn.Module, batches: Sequence[Callable[[], Batch]], device: Device
) -> Iterator[tuple[Tensor, Batch]]:
    """Logits of every batch without gradients, on the processor, and the batch."""
    model.eval()
    for make in batches:
        batch = make()
        with torch.no_grad():
            logits, _ = predict(model, batch, device)
        yield logits.float().cpu(), batch


def padded_rows(rows: Sequence[Sequence[int]], tokenizer: TextTokenizer) -> Tensor:
    """Token ids of several rows, (rows, longest), filled up with padding."""
    assert tokenizer.pad is not None, "a masked model was trained with a padding token"
    inputs = torch.full((len(rows), max(map(len, rows))), tokenizer.pad)
    for place, row in enumerate(rows):
        inputs[place, : len(row)] = torch.tensor(row)
    return inputs


def separator_of(tokenizer: TextTokenizer) -> int:
    """The token that stands between texts. Raises ConfigError where the tokenizer has none."""
    if tokenizer.separator is None:
        raise ConfigError(
            "fine-tuning puts the separator between texts, and this tokenizer has none",
            fix="leave data.separator at auto",
        )
    return tokenizer.separator


def over_seeds(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of every score over the seeds of a fine-tuning, and `..._spread` between them.

    >>> over_seeds([{"f1": 1.0}, {"f1": 3.0}])
    {'f1': 2.0, 'f1_spread': 1.4142135623730951}
    """
    scores: dict[str, float] = {}
    for key in found[0]:
        values = [one[key] for one in found]
        scores |= {key: fmean(values)} | ({f"{key}_spread": stdev(values)} if len(values) > 1 else {})
    return scores


def _factor(share: float) -> float:
    """Of the learning rate after a share of the steps."""
    return min(share / _WARMUP, (1 - share) / (1 - _WARMUP))


@contextmanager
def _without_notes() -> Iterator[None]:
    from transformers.utils import logging as notes

    level, bars = notes.get_verbosity(), notes.is_progress_bar_enabled()
    notes.set_verbosity_error()
    notes.disable_progress_bar()
    try:
        yield
    finally:
        notes.set_verbosity(level)
        if bars:
            notes.enable_progress_bar()
