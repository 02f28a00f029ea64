"""Text to tokens: a byte-level BPE trained on the corpus and cached, or an existing `tokenizer.json`.

A run keeps its tokenizer in `<output>/tokenizer/`, and every saved state carries the same files,
so that `AutoTokenizer.from_pretrained` works on it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any

from outgrow.data.corpus import DOCUMENT_BREAK, Corpus
from outgrow.errors import ConfigError
from outgrow.files.cache import cached, is_sound
from outgrow.files.locks import cache_folder, write_folder
from outgrow.files.reading import check_regular, expanded, parse_json
from outgrow.run.config import DataConfig
from outgrow.store.assets import TOKENIZER, Asset, find_assets
from outgrow.store.hub import local_folder

_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_SAMPLE_BYTES = 20_000_000  # of text to train a BPE on: more changes few merges and costs minutes


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer, its files, and the token that ends a document (None: documents run together)."""

    tokenizer: Any  # tokenizers.Tokenizer
    folder: Path
    separator: int | None
    key: str
    mask: int | None = None
    """Token that hides another, where there is one."""
    pad: int | None = None
    """Token that fills up, where there is one."""

    @property
    def unknown(self) -> int | None:
        """Token that stands for what the tokenizer does not know; None where it has none, as every byte-level one."""
        model = json.loads(self.tokenizer.to_str())["model"]
        number = model.get("unk_id")
        number = self.tokenizer.token_to_id(model.get("unk_token") or "") if number is None else number
        return None if number is None else int(number)

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding needs."""
        return 1 + int(max(self.tokenizer.get_vocab(with_added_tokens=True).values()))

    @property
    def sentinels(self) -> tuple[int, ...]:
        """Tokens that stand for hidden spans, as far as they go: `<extra_id_0>`, `<extra_id_1>`, ... (T5)."""
        found = (self.tokenizer.token_to_id(f"<extra_id_{place}>") for place in count())
        return tuple(takewhile(lambda number: number is not None, found))

    @property
    def files(self) -> tuple[Asset, ...]:
        """The files to copy beside a state: the tokenizer's own, its chat templates too."""
        return find_assets(self.folder, TOKENIZER)

    def encode(self, documents: list[str]) -> list[list[int]]:
        """Token ids of each document, without special tokens."""
        return [
            encoding.ids for encoding in self.tokenizer.encode_batch_fast(documents, add_special_tokens=False)
        ]

    def locate(self, documents: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """The same, and for every token the characters of its document that it stands for, from the first to before the second."""
        found = self.tokenizer.encode_batch(documents, add_special_tokens=False)
        return [(encoding.ids, encoding.offsets) for encoding in found]


def prepare_tokenizer(
    config: DataConfig,
    corpus: Corpus,
    folder: Path,
    *,
    start: str | None = None,
    special_tokens: Mapping[str, str] = MappingProxyType({}),
) -> TextTokenizer:
    """The tokenizer of a run, in `folder`: already there from a start before, else copied or trained now."""
    if not (folder / "tokenizer.json").is_file():
        if config.tokenizer is not None and config.tokenizer.vocab_size is not None:
            source = _trained(corpus, config.tokenizer.vocab_size, special_tokens)
        else:
            path = config.tokenizer.path if config.tokenizer is not None else start
            assert path is not None, "RunConfig asks for a tokenizer or a checkpoint"
            source = expanded(path)
        _copy(source, folder)
    return open_tokenizer(folder, config.separator)


def open_tokenizer(folder: Path, separator: str = "auto", file: Path | None = None) -> TextTokenizer:
    """Read a folder with `tokenizer.json` (or with a `file` of another name)."""
    from tokenizers import Tokenizer

    path = file or folder / "tokenizer.json"
    content = check_regular(path).read_bytes()
    try:
        tokenizer = Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises a bare Exception
        raise ConfigError(f"not a tokenizer: {path}", got=str(error)) from None
    if not tokenizer.get_vocab(with_added_tokens=True):
        raise ConfigError(f"the tokenizer has no tokens: {path}")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    number = _separator(tokenizer, folder, separator)
    digest = hashlib.sha256(content + json.dumps(number).encode()).hexdigest()[:32]
    mask = _special(tokenizer, folder, ("mask_token",), ("[MASK]", "<mask>"))
    pad = _special(tokenizer, folder, ("pad_token",), ("[PAD]", "<pad>"))
    return TextTokenizer(tokenizer, folder, number, digest, mask, pad)


def find_tokenizer(path: Path, separator: str = "auto") -> TextTokenizer:
    """An existing tokenizer, by its file or folder; nothing is written."""
    return open_tokenizer(_tokenizer_file(path).parent, separator, _tokenizer_file(path))


def _trained(corpus: Corpus, vocab_size: int, special_tokens: Mapping[str, str]) -> Path:
    """Train a byte-level BPE, or find it in the cache."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    identity = ["bpe", 1, corpus.key, vocab_size, _SAMPLE_BYTES, *special_tokens.values()]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    name = f"tokenizer-{key}"
    if is_sound(cache_folder() / name):
        return cache_folder() / name

    def sample() -> Iterator[str]:
        left = _SAMPLE_BYTES
        for document in corpus.documents():
            yield _without_endless_words(document[:left])
            left -= len(document)
            if left <= 0:
                return

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[DOCUMENT_BREAK, *special_tokens.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample(), trainer)

    def write(folder: Path) -> None:
        (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": DOCUMENT_BREAK,
            "eos_token": DOCUMENT_BREAK,
            **{name: token for name, token in special_tokens.items() if name.endswith("_token")},
            "clean_up_tokenization_spaces": False,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))

    return cached(name, write)


def _without_endless_words(text: str) -> str:
    """What a BPE is trained on: merging takes time as the square of a word's length, and no word has a thousand letters."""
    return re.sub(r"(\S{1000})(?=\S)", r"\1 ", re.sub(r"(\s)\s{999,}", r"\1", text))


def _copy(source: Path, folder: Path) -> None:
    path = _tokenizer_file(source)

    def write(target: Path) -> None:
        shutil.copyfile(path, target / "tokenizer.json")
        if path.name == "tokenizer.json":
            for asset in find_assets(path.parent, TOKENIZER):
                asset.write(target)
        for name in _FILES[1:]:
            if (path.parent / name).is_file():
                shutil.copyfile(path.parent / name, target / name)

    if folder.is_dir():
        shutil.rmtree(folder)  # without tokenizer.json: not one of ours that is complete
    write_folder(folder, write)


def _tokenizer_file(source: Path) -> Path:
    source = local_folder(source)  # it may be a name of the hub, as the checkpoint that a run starts from
    path = source / "tokenizer.json" if source.is_dir() else source
    if not path.is_file():
        raise ConfigError(
            f"no tokenizer.json in {source}",
            fix="give data.tokenizer.path a folder with tokenizer.json, or the file",
        )
    return path


def _separator(tokenizer: Any, folder: Path, separator: str) -> int | None:
    if separator == "none":
        return None
    if separator != "auto":
        number = tokenizer.token_to_id(separator)
        if number is None:
            raise ConfigError("data.separator is not a token of the tokenizer", got=separator)
        return int(number)
    return _special(tokenizer, folder, ("eos_token", "bos_token"), (DOCUMENT_BREAK, "</s>", "[SEP]"))


def _mapping(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(check_regular(path).read_bytes(), str(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read", got=error.strerror) from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is not a mapping", got=type(found).__name__)
    return found


def _special(tokenizer: Any, folder: Path, keys: tuple[str, ...], usual: tuple[str, ...]) -> int | None:
    """A token by what the tokenizer's settings call it, else by its usual names."""
    settings: dict[str, Any] = {}
    for name in reversed(_FILES[1:]):
        if (folder / name).is_file():
            settings.update(_mapping(folder / name))
    for token in [*(settings.get(key) for key in keys), *usual]:
        text = token.get("content") if isinstance(token, dict) else token
        number = tokenizer.token_to_id(text) if text and isinstance(text, str) else None
        if number is not None:
            return int(number)
    return None
