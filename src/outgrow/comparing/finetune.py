"""Fine-tuning of an encoder on a task, with the same settings for every arm: AdamW, 10 % warm-up, then linear to zero.

    input = separator, sentence, separator[, second sentence, separator]

The class is read off where transformers' classifier of the model reads it: BERT's off the first place, EuroBERT's off the mean
of all. The pre-training had no other special tokens between texts, so the separator stands where BERT has [CLS] and [SEP]. Token types stay 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from outgrow.comparing.study import TasksConfig
from outgrow.comparing.tasks import TASKS, Example, read_task
from outgrow.data.objectives import Batch
from outgrow.data.tokenizer import TextTokenizer, open_tokenizer
from outgrow.data.windows import places
from outgrow.engine.optimizers import build_optimizer
from outgrow.engine.step import be_repeatable, choose_device, optimizer_step, predict
from outgrow.errors import ConfigError, TrainingError
from outgrow.files.reading import expanded
from outgrow.run.config import RunConfig
from outgrow.run.optimizer_config import AdamWConfig

_WARMUP = 0.1


def finetuned(state: Path, run: RunConfig, tasks: TasksConfig, name: str) -> dict[str, float]:
    """`<task>_<metric>` on the task's dev part, mean over the seeds of the fine-tuning, and `..._spread` between them."""
    be_repeatable()
    folder = expanded(tasks.folder)
    train, dev = read_task(folder, name, "train", tasks.examples), read_task(folder, name, "dev")
    values = [_once(state, run, tasks, name, train, dev, seed) for seed in tasks.seeds]
    key = f"{name}_{TASKS[name].metric}"
    spread = {f"{key}_spread": stdev(values)} if len(values) > 1 else {}
    return {key: fmean(values), **spread}


def _once(
    state: Path,
    run: RunConfig,
    tasks: TasksConfig,
    name: str,
    train: Sequence[Example],
    dev: Sequence[Example],
    seed: int,
) -> float:
    tokenizer, device = open_tokenizer(state, run.data.separator), choose_device(run)
    model = open_classifier(state, tokenizer, seed).to(device.name)
    optimizer = build_optimizer(model, AdamWConfig(learning_rate=tasks.learning_rate, weight_decay=0.01))
    steps = tasks.epochs * math.ceil(len(train) / tasks.batch)
    coded = [encode(example, tokenizer, run.data.sequence_length) for example in train]
    for step in range(steps):
        chosen = places(seed, step * tasks.batch, (step + 1) * tasks.batch, len(train))
        batch = _batch(
            [coded[place] for place in chosen], [train[place].label for place in chosen], tokenizer
        )
        done = optimizer_step(
            model,
            optimizer,
            batch,
            learning_rate=tasks.learning_rate * _factor((step + 0.5) / steps),
            micro_batch=tasks.batch,
            clip=1.0,
            device=device,
            seed=(seed, step),
        )
        if not math.isfinite(done.loss):
            raise TrainingError(
                f"fine-tuning on {name} diverged at step {step + 1}",
                fix="lower downstream.tasks.learning_rate",
            )
    found: list[int] = []
    model.eval()
    with torch.no_grad():
        for start in range(0, len(dev), tasks.batch):
            part = dev[start : start + tasks.batch]
            rows = [encode(example, tokenizer, run.data.sequence_length) for example in part]
            logits, _ = predict(model, _batch(rows, [example.label for example in part], tokenizer), device)
            found += logits.argmax(-1).tolist()
    return TASKS[name].score(np.array(found), np.array([example.label for example in dev]))


def _factor(share: float) -> float:
    """Of the learning rate after a share of the steps."""
    return min(share / _WARMUP, (1 - share) / (1 - _WARMUP))


def encode(example: Example, tokenizer: TextTokenizer, length: int) -> list[int]:
    """Tokens of an example, the longer sentence cut until all of it fits.

    Raises ConfigError where the tokenizer has no separator.
    """
    if tokenizer.separator is None:
        raise ConfigError(
            "fine-tuning puts the separator between sentences, and this tokenizer has none",
            fix="leave data.separator at auto",
        )
    parts = tokenizer.encode(list(example.sentences))
    while sum(map(len, parts)) + len(parts) + 1 > length:
        max(parts, key=len).pop()
    tokens = [tokenizer.separator]
    for part in parts:
        tokens += [*part, tokenizer.separator]
    return tokens


def _batch(rows: Sequence[list[int]], labels: Sequence[int], tokenizer: TextTokenizer) -> Batch:
    assert tokenizer.pad is not None, "a masked model was trained with a padding token"
    inputs = torch.full((len(rows), max(map(len, rows))), tokenizer.pad)
    for place, row in enumerate(rows):
        inputs[place, : len(row)] = torch.tensor(row)
    return inputs, torch.tensor(labels)


class Padded(nn.Module):
    """A classifier that does not look at padding, called as the model it was made from."""

    def __init__(self, model: nn.Module, pad: int) -> None:
        super().__init__()
        self.model, self.pad = model, pad

    @property
    def config(self) -> Any:
        """Of the model inside."""
        return self.model.config

    def forward(self, input_ids: Tensor) -> Any:
        """Logits (items, classes)."""
        return self.model(input_ids=input_ids, attention_mask=(input_ids != self.pad).long())


def open_classifier(state: Path, tokenizer: TextTokenizer, seed: int) -> Padded:
    """A saved encoder under a new head of two classes, whose weights are drawn from the seed."""
    from transformers import AutoModelForSequenceClassification

    assert tokenizer.pad is not None, "a masked model was trained with a padding token"
    torch.manual_seed(seed)
    with _without_notes():  # that the head is new is the point
        model = AutoModelForSequenceClassification.from_pretrained(
            state, num_labels=2, dtype=torch.float32, local_files_only=True
        )
    return Padded(model, tokenizer.pad)


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
