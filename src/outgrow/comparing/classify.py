"""An encoder fine-tuned on a task of sentences.

    input = separator, sentence, separator[, second sentence, separator]

The class is read off where transformers' classifier of the model reads it: BERT's off the first place, EuroBERT's off the mean
of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from outgrow.comparing.finetune import (
    finetune,
    head_scores,
    open_under_head,
    over_seeds,
    padded_rows,
    separator_of,
)
from outgrow.comparing.study import TasksConfig
from outgrow.comparing.tasks import TASKS, Example, read_task
from outgrow.data.objectives import Batch
from outgrow.data.tokenizer import TextTokenizer, open_tokenizer
from outgrow.engine.step import be_repeatable, choose_device
from outgrow.files.reading import expanded
from outgrow.run.config import RunConfig


def task_scores(state: Path, run: RunConfig, tasks: TasksConfig, name: str) -> dict[str, float]:
    """`<task>_<metric>` on the task's dev part, mean over the seeds of the fine-tuning, and `..._spread` between them."""
    be_repeatable()
    folder, tokenizer = expanded(tasks.folder), open_tokenizer(state, run.data.separator)
    parts = read_task(folder, name, "train", tasks.examples), read_task(folder, name, "dev")
    train, dev = (_Coded(part, tokenizer, run.data.sequence_length) for part in parts)
    return over_seeds([_once(state, run, tasks, name, train, dev, seed) for seed in tasks.seeds])


class _Coded:
    """Examples as tokens."""

    def __init__(self, examples: Sequence[Example], tokenizer: TextTokenizer, length: int) -> None:
        self.tokenizer = tokenizer
        self.rows = [encode(example, tokenizer, length) for example in examples]
        self.labels = np.array([example.label for example in examples])

    def batch(self, chosen: NDArray[np.intp]) -> Batch:
        """Tokens (items, longest) and classes (items,)."""
        rows = [self.rows[place] for place in chosen]
        return padded_rows(rows, self.tokenizer), torch.from_numpy(self.labels[chosen])


def _once(
    state: Path, run: RunConfig, tasks: TasksConfig, name: str, train: _Coded, dev: _Coded, seed: int
) -> dict[str, float]:
    from transformers import AutoModelForSequenceClassification

    device = choose_device(run)
    model = open_under_head(AutoModelForSequenceClassification, state, train.tokenizer, seed).to(device.name)
    finetune(model, train.batch, len(train.rows), tasks, device, seed, name)
    order = np.arange(len(dev.rows))
    parts = [order[start : start + tasks.batch] for start in range(0, len(order), tasks.batch)]
    found = [
        logits.argmax(-1)
        for logits, _ in head_scores(model, [partial(dev.batch, part) for part in parts], device)
    ]
    task = TASKS[name]
    return {f"{name}_{task.metric}": task.score(torch.cat(found).numpy(), dev.labels)}


def encode(example: Example, tokenizer: TextTokenizer, length: int) -> list[int]:
    """Tokens of an example, the longer sentence cut until all of it fits.

    Raises ConfigError where the tokenizer has no separator.
    """
    separator = separator_of(tokenizer)
    parts = tokenizer.encode(list(example.sentences))
    while sum(map(len, parts)) + len(parts) + 1 > length:
        max(parts, key=len).pop()
    tokens = [separator]
    for part in parts:
        tokens += [*part, separator]
    return tokens
