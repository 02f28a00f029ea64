"""Batches for a proof: real text where the state has a tokenizer, else random tokens; images for an image model."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from outgrow.data.corpus import open_corpus
from outgrow.data.proof_images import image_batches
from outgrow.data.tokenizer import TextTokenizer, open_tokenizer
from outgrow.errors import ConfigError
from outgrow.models.architecture import longest_sequence, own_config, resolve
from outgrow.models.forward import ModelInputs
from outgrow.state.training_state import TrainingState


def proof_batches(
    state: TrainingState,
    source: str | None = None,
    *,
    count: int = 10,
    sequences: int = 4,
    length: int = 128,
) -> tuple[list[ModelInputs], str]:
    """`count` batches of (sequences, length) tokens or of images, and a line that says where they come from."""
    model = resolve(state.config)
    if model.sequence is not None:  # the length of a sequence of patches, which only images have
        return image_batches(model, source, count=count, size=sequences)
    length = min(length, longest_sequence(state.config) or length)
    wanted = count * sequences * length
    folder = next(
        (one.path.parent for one in state.assets if one.path and one.name == "tokenizer.json"), None
    )
    if folder is None:
        if source is not None:
            raise ConfigError(
                "the small state has no tokenizer.json to read the text with",
                got=source,
                fix="leave out the data for random tokens",
            )
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(0, int(own_config(state.config)["vocab_size"]), (wanted,), generator=generator)
        return _cut(tokens, count, sequences, length), "random tokens (the state has no tokenizer.json)"
    corpus = open_corpus(source or "stdlib", place="--data")
    tokenizer = open_tokenizer(folder)
    tokens = torch.tensor(_take(corpus.documents(), tokenizer, wanted))
    if len(tokens) < wanted:
        raise ConfigError(
            "too little text for the proof", got=f"{len(tokens)} tokens", expected=f"{wanted} tokens"
        )
    if int(tokens.max()) >= int(own_config(state.config)["vocab_size"]):
        raise ConfigError(
            "the tokenizer has more tokens than the model",
            got=int(tokens.max()) + 1,
            expected=own_config(state.config)["vocab_size"],
        )
    note = (
        ""
        if source
        else "; exactness does not depend on the text, losses do: name text of your own to read them"
    )
    return _cut(tokens, count, sequences, length), corpus.description + note


def _take(documents: Iterator[str], tokenizer: TextTokenizer, wanted: int) -> list[int]:
    tokens: list[int] = []
    for text in documents:
        tokens.extend(tokenizer.encode([text])[0])
        if len(tokens) >= wanted:
            break
    return tokens[:wanted]


def _cut(tokens: Tensor, count: int, sequences: int, length: int) -> list[ModelInputs]:
    return [{"input_ids": part, "labels": part.clone()} for part in tokens.view(count, sequences, length)]
