"""Batches for a proof: real text where the state has a tokenizer, else random tokens; images for an image model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from outgrow.data.corpus import open_corpus
from outgrow.data.proof_images import image_batches
from outgrow.data.tokenizer import TextTokenizer, open_tokenizer
from outgrow.errors import ConfigError
from outgrow.models.architecture import longest_sequence, resolve
from outgrow.models.forward import ModelInputs
from outgrow.state.training_state import TrainingState


def proof_batches(
    state: TrainingState,
    folder: Path,
    source: str | None,
    *,
    count: int = 10,
    sequences: int = 4,
    length: int = 128,
) -> tuple[list[ModelInputs], str]:
    """`count` batches of (sequences, length) tokens or of images, and a line that says where they come from."""
    model = resolve(state.config)
    if model.spec.objective == "image":
        return image_batches(model, source, count=count, size=sequences)
    length = min(length, longest_sequence(state.config) or length)
    wanted = count * sequences * length
    if not (folder / "tokenizer.json").is_file():
        if source is not None:
            raise ConfigError(
                f"{folder} has no tokenizer.json to read --data with",
                fix="leave out --data for random tokens",
            )
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(0, int(state.config["vocab_size"]), (wanted,), generator=generator)
        return _cut(tokens, count, sequences, length), "random tokens (the state has no tokenizer.json)"
    corpus = open_corpus(source or "stdlib")
    tokenizer = open_tokenizer(folder)
    tokens = torch.tensor(_take(corpus.documents(), tokenizer, wanted))
    if len(tokens) < wanted:
        raise ConfigError(
            "too little text for the proof", got=f"{len(tokens)} tokens", expected=f"{wanted} tokens"
        )
    if int(tokens.max()) >= int(state.config["vocab_size"]):
        raise ConfigError(
            "the tokenizer has more tokens than the model",
            got=int(tokens.max()) + 1,
            expected=state.config["vocab_size"],
        )
    return _cut(tokens, count, sequences, length), corpus.description


def _take(documents: Iterator[str], tokenizer: TextTokenizer, wanted: int) -> list[int]:
    tokens: list[int] = []
    for text in documents:
        tokens.extend(tokenizer.encode([text])[0])
        if len(tokens) >= wanted:
            break
    return tokens[:wanted]


def _cut(tokens: Tensor, count: int, sequences: int, length: int) -> list[ModelInputs]:
    return [{"input_ids": part, "labels": part.clone()} for part in tokens.view(count, sequences, length)]
