"""Text to windows: sources, documents, cache, and an order that depends on seed and step only."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import numpy as np
import pytest
import torch

from outgrow.data.corpus import open_corpus
from outgrow.data.windows import Windows, load_data
from outgrow.errors import ConfigError
from outgrow.run.config import DataConfig
from train.tiny_corpus import write_corpus


def config(source: Path | str, **more: object) -> DataConfig:
    return DataConfig.model_validate(
        {"source": str(source), "tokenizer": {"vocab_size": 300}, "sequence_length": 16, **more}
    )


def test_documents_are_split_and_compressed_files_are_the_same(tmp_path: Path) -> None:
    text = "one\ntwo\n<|endoftext|>\nthree\n\n<|endoftext|>\n"
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.xz").write_bytes(lzma.compress(text.encode()))
    (tmp_path / "c.gz").write_bytes(gzip.compress(text.encode()))
    expected = ["one\ntwo\n", "three\n\n"]
    for name in ("a.txt", "b.xz", "c.gz"):
        assert list(open_corpus(str(tmp_path / name)).documents()) == expected
    assert list(open_corpus(str(tmp_path)).documents()) == expected * 3
    assert list(open_corpus(str(tmp_path / "*.?z")).documents()) == expected * 2
    assert list(open_corpus(str(tmp_path / "a.txt"), limit_bytes=9).documents()) == ["one\ntwo\n", "t"]


def test_a_table_is_read_by_its_column(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"story": f"number {i}", "other": i}) + "\n" for i in range(3)))
    assert list(open_corpus(str(path), text_field="story").documents()) == [
        "number 0",
        "number 1",
        "number 2",
    ]
    with pytest.raises(ConfigError, match="no column 'text'"):
        list(open_corpus(str(path)).documents())


def test_rows_without_text_are_counted_and_told(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    path = tmp_path / "rows.jsonl"
    rows = [None if i % 4 == 0 else "" if i % 4 == 1 else f"number {i} of many words" for i in range(80)]
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    data = load_data(config(path, validation_share=0.3), tmp_path / "tokenizer")
    assert "40 of 80 documents have no text and are left out" in data.summary
    tokens = [*data.train.tokens, *data.validation.tokens]
    assert tokens.count(data.tokenizer.separator) == 40
    again = load_data(config(path, validation_share=0.3), tmp_path / "tokenizer")  # from the cache
    assert again.summary == data.summary
    beside = load_data(
        config(write_corpus(tmp_path / "text.txt"), validation_source=str(path)), tmp_path / "other"
    )
    assert "held out; of the validation text 40 of 80 documents" in beside.summary


@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece", "Unigram"])
def test_a_text_that_the_tokenizer_does_not_know_is_told(tmp_path: Path, kind: str) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[UNK]": 0, "</s>": 1, "yes": 2, "no": 3}
    model = (
        models.Unigram([(word, -float(n)) for word, n in words.items()], unk_id=0)
        if kind == "Unigram"
        else getattr(models, kind)(words, unk_token="[UNK]")
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text, known = tmp_path / "text.txt", tmp_path / "known.txt"
    text.write_text("yes no perhaps never " * 50)
    known.write_text("yes no " * 50)
    own = {"tokenizer": {"path": str(tmp_path)}, "validation_share": 0.3}
    assert "unknown" not in load_data(config(known, **own), tmp_path / "a").summary
    assert (
        "49.8% of the tokens are unknown to the tokenizer"
        in load_data(config(text, **own), tmp_path / "b").summary
    )
    text.write_text("perhaps never " * 50)
    with pytest.raises(ConfigError, match="knows nothing of this text"):
        load_data(config(text, **own), tmp_path / "c")


@pytest.mark.parametrize("name", ["a.ndjson", "A.JSONL", "a.jsonl.gz", "a.json.xz", "a.tsv", "a.csv.gz"])
def test_a_table_is_a_table_by_any_name(tmp_path: Path, name: str) -> None:
    pytest.importorskip("datasets")
    raw = "".join(json.dumps({"text": word}) + "\n" for word in ("one", "two")).encode()
    if "sv" in name:
        raw = b"text,n\none,1\ntwo,2\n".replace(b",", b"\t" if "tsv" in name else b",")
    pack = {".gz": gzip.compress, ".xz": lzma.compress}.get(Path(name).suffix, bytes)
    (tmp_path / name).write_bytes(pack(raw))
    for source in (tmp_path / name, tmp_path):
        assert list(open_corpus(str(source)).documents()) == ["one", "two"]


@pytest.mark.parametrize("value", [{"role": "user"}, [1, 2], 5, 0.5, True])
def test_a_column_of_something_else_is_not_turned_into_words(tmp_path: Path, value: object) -> None:
    pytest.importorskip("datasets")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": value, "story": "a"}) + "\n" for _ in range(3)))
    with pytest.raises(ConfigError, match="holds no text") as told:
        list(open_corpus(str(path)).documents())
    assert "a column of text: story" in str(told.value)


def test_kinds_of_tables_are_not_mixed_and_a_mark_of_byte_order_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\na\n")
    (tmp_path / "b.jsonl").write_text('{"text": "b"}\n')
    with pytest.raises(ConfigError, match="mixes kinds of files"):
        open_corpus(str(tmp_path))
    (tmp_path / "c.txt").write_bytes(b"\xef\xbb\xbfhello\n")
    assert list(open_corpus(str(tmp_path / "c.txt")).documents()) == ["hello\n"]


def test_the_standard_library_is_text_without_tests() -> None:
    corpus = open_corpus("stdlib", limit_bytes=100_000)
    documents = list(corpus.documents())
    assert sum(len(document.encode()) for document in documents) == pytest.approx(100_000, abs=4)
    assert corpus.key == open_corpus("stdlib", limit_bytes=100_000).key


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.txt", None, "finds no text"),
        ("bad.xz", b"\xfd7zXZ\0no", "cannot be read"),
        ("bad.txt", b"\xff\xfe\xff", "cannot be read"),
    ],
)
def test_bad_sources(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        list(open_corpus(str(tmp_path / name)).documents())


def test_tokens_come_back_as_text_and_windows_follow_one_another(corpus: Path, tmp_path: Path) -> None:
    data = load_data(config(corpus, validation_share=0.1), tmp_path / "tokenizer")
    text = data.tokenizer.tokenizer.decode(data.train.tokens[:200].tolist(), skip_special_tokens=False)
    assert corpus.read_text().replace("<|endoftext|>\n", "<|endoftext|>").startswith(text)
    inputs, targets = data.train.read(np.array([3, 5]))
    assert inputs.shape == targets.shape == (2, 16)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert targets[0, -1] == data.train.tokens[4 * 16]


def test_documents_are_held_out_whole(corpus: Path, tmp_path: Path) -> None:
    data = load_data(config(corpus, validation_share=0.1), tmp_path / "tokenizer")
    assert data.train.tokens[-1] == data.tokenizer.separator == data.validation.tokens[-1]
    share = len(data.validation.tokens) / (len(data.train.tokens) + len(data.validation.tokens))
    assert 0.1 <= share < 0.13
    other = write_corpus(tmp_path / "valid.txt", documents=5, seed=1)
    apart = load_data(config(corpus, validation_source=str(other)), tmp_path / "tokenizer")
    assert len(apart.train.tokens) == len(data.train.tokens) + len(data.validation.tokens)
    assert len(apart.validation.tokens) < len(data.validation.tokens) * 2


def test_one_long_document_is_cut_inside(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("to grow is to train " * 500)
    data = load_data(config(tmp_path / "a.txt", validation_share=0.25), tmp_path / "tokenizer")
    assert len(data.validation.tokens) == round(0.25 * (len(data.train.tokens) + len(data.validation.tokens)))


def test_batches_are_a_function_of_seed_and_step(corpus: Path, tmp_path: Path) -> None:
    data = load_data(config(corpus), tmp_path / "tokenizer")
    assert torch.equal(data.batch(1, 7, 4)[0], data.batch(1, 7, 4)[0])
    assert not torch.equal(data.batch(1, 7, 4)[0], data.batch(2, 7, 4)[0])
    count = len(data.train)
    small = Windows(np.arange(16 * 10 + 1), 16)
    firsts = [int(b) for step in range(5) for b in _with(data, small).batch(0, step, 4)[0][:, 0]]
    assert sorted(firsts[:10]) == sorted(firsts[10:]) == [16 * i for i in range(10)]
    assert firsts[:10] != firsts[10:]
    assert count > 10


def _with(data: object, windows: Windows) -> object:
    from dataclasses import replace

    return replace(data, train=windows)  # type: ignore[type-var]


def test_validation_windows_are_spread_and_fixed(corpus: Path, tmp_path: Path) -> None:
    data = load_data(config(corpus, validation_share=0.2), tmp_path / "tokenizer")
    first, again = data.validation_batches(6, 4), data.validation_batches(6, 4)
    assert [len(inputs) for inputs, _ in first] == [4, 2]
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert torch.equal(first[1][0][1], data.validation.read(np.array([5 * len(data.validation) // 6]))[0][0])


def test_tokens_are_cached_until_the_text_changes(corpus: Path, tmp_path: Path, cache: Path) -> None:
    path = write_corpus(tmp_path / "a.txt", seed=5)
    load_data(config(path), tmp_path / "one")
    folders = {p.name for p in cache.iterdir() if p.is_dir()}
    before = {p: p.stat().st_mtime_ns for p in cache.glob("*/tokens.bin")}
    load_data(config(path), tmp_path / "two")
    assert {p.name for p in cache.iterdir() if p.is_dir()} == folders
    assert {p: p.stat().st_mtime_ns for p in cache.glob("*/tokens.bin")} == before
    write_corpus(path, documents=61, seed=6)
    load_data(config(path), tmp_path / "three")
    assert len([p for p in cache.iterdir() if p.is_dir()]) == len(folders) + 2  # a tokenizer and its tokens


def test_the_tokenizer_opens_with_transformers(corpus: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    data = load_data(config(corpus), tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert tokenizer("grow train").input_ids == data.tokenizer.encode(["grow train"])[0]
    assert tokenizer.eos_token_id == data.tokenizer.separator
    again = load_data(config(corpus, tokenizer={"path": str(tmp_path / "tokenizer")}), tmp_path / "other")
    assert np.array_equal(again.train.tokens, data.train.tokens)


def test_too_little_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("short\n")
    with pytest.raises(ConfigError, match="too short"):
        load_data(config(tmp_path / "a.txt"), tmp_path / "tokenizer")


def test_a_damaged_cache_is_made_anew(corpus: Path, tmp_path: Path, cache: Path) -> None:
    before = load_data(config(corpus), tmp_path / "one").train.tokens.copy()
    damaged = [
        path for path in cache.glob("tokens-*/tokens.bin") if path.stat().st_size
    ]  # other tests' may be empty
    for tokens in damaged:
        content = bytearray(tokens.read_bytes())
        content[0] ^= 1
        tokens.write_bytes(content)
    assert damaged
    assert (load_data(config(corpus), tmp_path / "two").train.tokens == before).all()
