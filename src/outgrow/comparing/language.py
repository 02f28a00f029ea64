"""What a language model is worth on other text: the last word of LAMBADA's passages, and perplexity on another domain.

    accuracy   = share of passages whose last word is, token by token, the most likely one      (arXiv 1606.06031)
    perplexity = exp(mean over passages of -log p(last word | passage))
    perplexity of a text = exp(mean over tokens of -log p(token | the sequence before it))       masked: over hidden tokens

A passage begins behind the token that ends a document, as every document did in training, and is cut from the left to the
length of the training sequences.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from outgrow.data.corpus import open_corpus, open_text
from outgrow.data.objectives import IGNORED, Batch
from outgrow.data.opening import as_learned
from outgrow.data.tokenizer import TextTokenizer, open_tokenizer
from outgrow.data.windows import TrainingData, Windows, encoded
from outgrow.engine.step import Device, build_for_training, choose_device, evaluation_loss, predict
from outgrow.errors import ConfigError
from outgrow.models.architecture import load_architecture
from outgrow.run.config import RunConfig
from outgrow.state.training_state import TrainingState

_AT_ONCE = 32  # passages of one forward pass


@dataclass(frozen=True)
class Passage:
    """Token ids, the last `word` of which are the word to be found."""

    tokens: tuple[int, ...]
    word: int


def last_word(state: Path, run: RunConfig, path: Path, most: int | None = None) -> dict[str, float]:
    """`lambada_accuracy` and `lambada_perplexity` of a causal model over a file of passages."""
    tokenizer = open_tokenizer(state, run.data.separator)
    passages = [cut_passage(text, tokenizer, run.data.sequence_length) for text in read_passages(path)[:most]]
    passages.sort(key=lambda passage: len(passage.tokens))
    device = choose_device(run)
    model = load_model(state, device)
    right, surprise = 0, 0.0
    for start in range(0, len(passages), _AT_ONCE):
        one = _score(model, padded(passages[start : start + _AT_ONCE]), device)
        right, surprise = right + one[0], surprise + one[1]
    return {
        "lambada_accuracy": right / len(passages),
        "lambada_perplexity": math.exp(surprise / len(passages)),
    }


def read_passages(path: Path) -> list[str]:
    """The texts of a .jsonl file, also .xz or .gz; ConfigError names the line that is none."""
    found = []
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                text = json.loads(line)["text"].strip()
            except (ValueError, KeyError, TypeError, AttributeError):
                text = ""
            if " " not in text:
                raise ConfigError(
                    f"{path}, line {number} is no passage",
                    got=line[:60],
                    expected='{"text": "two words or more"}',
                )
            found.append(text)
    if not found:
        raise ConfigError(f"no passages in {path}")
    return found


def cut_passage(text: str, tokenizer: TextTokenizer, length: int) -> Passage:
    """Context and last word as tokens, cut from the left: a sequence of `length` inputs has `length` targets."""
    whole, context = tokenizer.encode([text, text.rpartition(" ")[0]])
    begin = [] if tokenizer.separator is None else [tokenizer.separator]
    tokens = (begin + whole)[-(length + 1) :]
    return Passage(tuple(tokens), min(max(1, len(whole) - len(context)), len(tokens) - 1))


def padded(passages: Sequence[Passage]) -> Batch:
    """Inputs, filled up at the right where a causal model does not look, and targets: the last words alone."""
    longest = max(len(passage.tokens) for passage in passages) - 1
    inputs = torch.zeros(len(passages), longest, dtype=torch.int64)
    targets = torch.full((len(passages), longest), IGNORED)
    for row, passage in enumerate(passages):
        tokens = torch.tensor(passage.tokens)
        count = len(tokens) - 1
        inputs[row, :count] = tokens[:-1]
        targets[row, count - passage.word : count] = tokens[len(tokens) - passage.word :]
    return inputs, targets


@torch.no_grad()
def _score(model: nn.Module, batch: Batch, device: Device) -> tuple[int, float]:
    """How many passages are right, and the summed -log p of their last words in nats."""
    model.eval()
    logits, targets = predict(model, batch, device)
    asked = targets != IGNORED
    right = int(((logits.argmax(-1) == targets) | ~asked).all(-1).sum())
    nats = nn.functional.cross_entropy(
        logits.float().flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return right, float(nats)


def other_text(state: Path, run: RunConfig, source: str, sequences: int) -> float:
    """Perplexity per token on sequences spread evenly over a text that the model was not trained on."""
    tokenizer = open_tokenizer(state, run.data.separator)
    corpus = open_corpus(source)
    windows = Windows(encoded(corpus, tokenizer).tokens, run.data.sequence_length)
    if not len(windows):
        raise ConfigError(f"the text is shorter than one sequence: {corpus.description}")
    text = TrainingData(windows, windows, tokenizer, corpus.description)
    device = choose_device(run)
    model = load_model(state, device)
    config: Any = model.config
    data = as_learned(text, load_architecture(config.model_type).objective)
    micro_batch = run.batch.at_once
    return math.exp(evaluation_loss(model, data.validation_batches(sequences, micro_batch), device))


def load_model(folder: Path, device: Device) -> nn.Module:
    """The model of a saved state, in float32."""
    state = TrainingState.from_pretrained(folder)
    model = build_for_training(state.config).to(device.name)
    state.load_into(model)
    return model
