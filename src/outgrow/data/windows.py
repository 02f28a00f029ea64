"""Tokens as fixed windows whose order is a pure function of (seed, position): to resume, a run needs its step only.

    window w holds tokens [w * length, (w + 1) * length]; sequence p of the run is window permutation(seed, p // count)[p % count]

Tokens are encoded once and cached as a memory-mapped file under `$OUTGROW_CACHE`.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outgrow.data.corpus import Corpus, open_corpus
from outgrow.data.needs import Needs, TextNeeds
from outgrow.data.objectives import Batch
from outgrow.data.tokenizer import TextTokenizer, prepare_tokenizer
from outgrow.errors import ConfigError
from outgrow.files.cache import cached
from outgrow.run.config import DataConfig
from outgrow.store.assets import Asset

_ENCODE_BYTES = 4_000_000  # of text that is tokenized at once


@dataclass(frozen=True)
class Stretch:
    """Where a step reads in the order of the data: from item number `first` on, items counted in sequences of `length`."""

    first: int
    length: int


class Data(ABC):
    """What a run trains and validates on. Final: TrainingData (text), HiddenText, ImageData."""

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What a model must have to take them."""

    @property
    @abstractmethod
    def files(self) -> tuple[Asset, ...]:
        """Files to copy beside a state, as a tokenizer's."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """One line for people."""

    @property
    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What identifies the data, for the `data` record of a state."""

    @abstractmethod
    def batch(self, seed: int, step: int, sequences: int, *, stretch: Stretch | None = None) -> Batch:
        """The items of one optimizer step of the run: the same for the same seed and step, always.

        Which items: those of `stretch`, or where all steps are alike, number step · sequences and those that follow it.
        What is drawn for them (masks, flips) has the address (seed, step).
        """

    @abstractmethod
    def validation_batches(self, sequences: int, micro_batch: int) -> list[Batch]:
        """Held-out items spread evenly, in pieces, always the same."""


@dataclass(frozen=True)
class Windows:
    """Tokens cut into windows of `length` inputs and the token after each."""

    tokens: NDArray[Any]
    length: int

    def __len__(self) -> int:
        return max(0, (len(self.tokens) - 1) // self.length)

    def read(self, indexes: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Inputs and targets, int64 (sequences, length); targets are the inputs one token later.

        >>> Windows(np.arange(7), 3).read(np.array([1]))[1].tolist()
        [[4, 5, 6]]
        """
        rows = [self.tokens[i * self.length : (i + 1) * self.length + 1] for i in indexes.tolist()]
        block = torch.from_numpy(np.stack(rows).astype(np.int64))
        return block[:, :-1], block[:, 1:]


@dataclass(frozen=True)
class TrainingData(Data):
    """Text for a causal model: windows to train on, windows to validate on, and the tokenizer behind them."""

    train: Windows
    validation: Windows
    tokenizer: TextTokenizer
    description: str
    notes: str = ""
    """What people are told of it beside: documents without text, unknown tokens."""

    @property
    def needs(self) -> TextNeeds:
        tokenizer = self.tokenizer
        return TextNeeds(tokenizer.vocab_size, self.validation.length, tokenizer.separator)

    @property
    def files(self) -> tuple[Asset, ...]:
        return self.tokenizer.files

    @property
    def summary(self) -> str:
        return f"{self.description}: {len(self.train.tokens):,} tokens, {len(self.validation.tokens):,} held out{self.notes}"

    def batch(self, seed: int, step: int, sequences: int, *, stretch: Stretch | None = None) -> Batch:
        at = stretch or Stretch(step * sequences, self.train.length)
        parts = self.train.length // at.length
        windows, rest = divmod(np.arange(at.first, at.first + sequences), parts)
        chosen = places(seed, int(windows[0]), int(windows[-1]) + 1, len(self.train))[windows - windows[0]]
        return Windows(self.train.tokens, at.length).read(chosen * parts + rest)

    def validation_batches(self, sequences: int, micro_batch: int) -> list[Batch]:
        count = min(sequences, len(self.validation))
        indexes = np.arange(count, dtype=np.int64) * len(self.validation) // count
        return [
            self.validation.read(indexes[i : i + micro_batch]) for i in range(0, len(indexes), micro_batch)
        ]

    @property
    def record(self) -> dict[str, Any]:
        return {
            "description": self.description,
            "train_tokens": len(self.train.tokens),
            "validation_tokens": len(self.validation.tokens),
            "sequence_length": self.validation.length,
            **({"window": self.train.length} if self.train.length != self.validation.length else {}),
            "tokenizer": self.tokenizer.key,
            "fingerprint": _fingerprint(self.train.tokens),
            "validation_fingerprint": _fingerprint(self.validation.tokens),
        }


def _fingerprint(tokens: NDArray[Any]) -> str:
    """Of a few stretches of the tokens: enough to notice another corpus, cheap for any size."""
    starts = [len(tokens) * part // 16 for part in range(16)]
    return hashlib.sha256(b"".join(tokens[start : start + 4096].tobytes() for start in starts)).hexdigest()[
        :32
    ]


def places(seed: int, first: int, stop: int, count: int) -> NDArray[np.int64]:
    """Which of `count` items stand at the places from `first` to before `stop`: every item once per epoch, in an order of (seed, epoch)."""
    return np.array([_permutation(seed, p // count, count)[p % count] for p in range(first, stop)])


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count)


def load_data(
    config: DataConfig,
    tokenizer_folder: Path,
    *,
    start: str | None = None,
    special_tokens: Mapping[str, str] = MappingProxyType({}),
    longest: int | None = None,
) -> TrainingData:
    """The text of a run: finds it, trains (with `special_tokens`) or opens the tokenizer, encodes or finds the tokens.

    `longest`: tokens of the windows to train on, where a stage has a length of its own.
    """
    corpus = _open(config, config.source)
    tokenizer = prepare_tokenizer(
        config, corpus, tokenizer_folder, start=start, special_tokens=special_tokens
    )
    text = encoded(corpus, tokenizer)
    description, notes = corpus.description, text.notes
    if config.validation_source is not None:
        held_out = _open(config, config.validation_source)
        other = encoded(held_out, tokenizer)
        train, validation = text.tokens, other.tokens
        description += f"; validation: {held_out.description}"
        notes += f"; of the validation text{other.notes[1:]}" * bool(other.notes)
    else:
        cut = _cut(text.ends, config.validation_share)
        train, validation = text.tokens[:cut], text.tokens[cut:]
    data = TrainingData(
        Windows(train, longest or config.sequence_length),
        Windows(validation, config.sequence_length),
        tokenizer,
        description,
        notes,
    )
    for name, windows in (("training", data.train), ("validation", data.validation)):
        if len(windows) == 0:
            raise ConfigError(
                f"the {name} text is too short: not one sequence",
                got=f"{len(windows.tokens)} tokens",
                expected=f"at least {windows.length + 1}",
                fix="give more text, a larger data.validation_share or a smaller data.sequence_length",
            )
    return data


def _open(config: DataConfig, source: str) -> Corpus:
    return open_corpus(
        source,
        limit_bytes=config.limit_bytes,
        text_field=config.text_field,
        split=config.split,
        subset=config.subset,
    )


def _cut(ends: NDArray[np.int64], share: float) -> int:
    """Where validation begins: at a document, or inside the last one where documents are too few or too long."""
    total = int(ends[-1])
    wanted = total - round(total * share)
    index = int(np.searchsorted(ends, wanted, side="right"))
    cut = int(ends[index - 1]) if index > 0 else 0
    return cut if cut > 0 and total - cut <= 2 * total * share else wanted


@dataclass(frozen=True)
class Encoded:
    """All tokens of a corpus (memory-mapped uint16 or uint32), and where each document ends."""

    tokens: NDArray[Any]
    ends: NDArray[np.int64]
    empty: int
    """Documents without text, which were left out."""
    unknown: int
    """Tokens that stand for what the tokenizer does not know."""

    @property
    def notes(self) -> str:
        """What there is to say of them, as it goes on a line."""
        rows = f"{self.empty:,} of {len(self.ends) + self.empty:,} documents have no text and are left out"
        share = f"{self.unknown / len(self.tokens):.1%} of the tokens are unknown to the tokenizer"
        return f"; {rows}" * bool(self.empty) + f"; {share}" * bool(self.unknown)


def encoded(corpus: Corpus, tokenizer: TextTokenizer) -> Encoded:
    """The tokens of a corpus, cached. Raises ConfigError where it has no text, or none that the tokenizer knows."""
    key = hashlib.sha256(json.dumps(["tokens", 2, corpus.key, tokenizer.key]).encode()).hexdigest()[:32]
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    folder = cached(f"tokens-{key}", lambda target: _encode(corpus, tokenizer, dtype, target))
    ends = np.load(folder / "ends.npy", allow_pickle=False)
    if len(ends) == 0 or ends[-1] == 0:
        raise ConfigError(f"the corpus has no text: {corpus.description}")
    counts = json.loads((folder / "counts.json").read_bytes())
    if counts["unknown"] and counts["unknown"] == counts["tokens"]:
        raise ConfigError(
            f"the tokenizer knows nothing of this text: {corpus.description}",
            got=f"{counts['unknown']:,} tokens, each the one for what is unknown",
            fix="give the tokenizer that belongs to this text, or train one: data.tokenizer.vocab_size",
        )
    tokens = np.memmap(folder / "tokens.bin", dtype=dtype, mode="r")
    return Encoded(tokens, ends, counts["empty"], counts["unknown"])


def _encode(corpus: Corpus, tokenizer: TextTokenizer, dtype: np.dtype[Any], folder: Path) -> None:
    ends: list[int] = []
    total, unknown = 0, tokenizer.unknown
    counts = {"empty": 0, "tokens": 0, "unknown": 0}
    with (folder / "tokens.bin").open("wb") as file:
        for documents in _groups(corpus):
            texts = [document for document in documents if document]
            counts["empty"] += len(documents) - len(texts)
            for ids in tokenizer.encode(texts):
                counts["tokens"] += len(ids)
                counts["unknown"] += 0 if unknown is None else ids.count(unknown)
                if tokenizer.separator is not None:
                    ids.append(tokenizer.separator)
                file.write(np.asarray(ids, dtype=dtype).tobytes())
                total += len(ids)
                ends.append(total)
    np.save(folder / "ends.npy", np.asarray(ends, dtype=np.int64))
    (folder / "counts.json").write_text(json.dumps(counts), encoding="utf-8")


def _groups(corpus: Corpus) -> Any:
    group: list[str] = []
    size = 0
    for document in corpus.documents():
        group.append(document)
        size += len(document)
        if size >= _ENCODE_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
