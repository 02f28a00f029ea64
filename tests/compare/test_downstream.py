"""Downstream scores, against values worked out by hand or in another way."""

from __future__ import annotations

import json
import lzma
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import outgrow.comparing.language as language
from outgrow.comparing.classify import encode
from outgrow.comparing.finetune import Padded
from outgrow.comparing.language import Passage, cut_passage, padded, read_passages
from outgrow.comparing.tasks import Example, f1, matthews, read_task
from outgrow.engine.step import Device
from outgrow.errors import ConfigError
from outgrow.run.config import ParallelConfig

CPU = Device("cpu", False)


class Words:
    """A tokenizer of whole words: `a` is 1, `b` is 2 ..."""

    separator, pad = 0, 9

    def encode(self, documents: list[str]) -> list[list[int]]:
        return [[ord(word) - ord("a") + 1 for word in text.split()] for text in documents]


def test_a_passage_is_cut_from_the_left_and_asks_for_its_last_word() -> None:
    whole = cut_passage("a b c", Words(), 10)  # type: ignore[arg-type]
    assert whole == Passage((0, 1, 2, 3), 1)
    assert cut_passage("a b c", Words(), 2).tokens == (1, 2, 3)  # type: ignore[arg-type]
    inputs, targets = padded([whole, Passage((4, 5), 1)])
    assert inputs.tolist() == [[0, 1, 2], [4, 0, 0]]
    assert targets.tolist() == [[-100, -100, 3], [5, -100, -100]]


def test_the_last_word_is_right_where_every_token_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Successor(nn.Module):
        """Says that every token is followed by the next number, with chance e / (e + 9)."""

        config = SimpleNamespace(model_type="llama")

        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
            return SimpleNamespace(logits=nn.functional.one_hot(input_ids + 1, 10).float())

    monkeypatch.setattr(language, "load_model", lambda state, device: Successor())
    monkeypatch.setattr(language, "open_tokenizer", lambda folder, separator: Words())
    path = tmp_path / "passages.jsonl.xz"
    with lzma.open(path, "wt") as file:
        file.write('{"text": "a b c"}\n{"text": "b b"}\n')
    run: Any = SimpleNamespace(
        parallel=ParallelConfig(),
        data=SimpleNamespace(separator="auto", sequence_length=8),
        device="cpu",
        precision="float32",
        compile=False,
    )
    found = language.last_word(tmp_path, run, path)
    assert found["lambada_accuracy"] == 0.5  # c follows b, b does not
    right, wrong = math.e / (math.e + 9), 1 / (math.e + 9)
    assert found["lambada_perplexity"] == pytest.approx(1 / math.sqrt(right * wrong))
    assert language.last_word(tmp_path, run, path, most=1)["lambada_accuracy"] == 1.0


def test_a_line_that_is_no_passage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "passages.jsonl"
    path.write_text(json.dumps({"text": "two words"}) + "\n" + json.dumps({"text": "one"}) + "\n")
    with pytest.raises(ConfigError, match="line 2 is no passage"):
        read_passages(path)


def test_metrics_equal_their_definitions() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        found, right = random.integers(2, size=(2, 30))
        table = [int(((found == a) & (right == b)).sum()) for a in (1, 0) for b in (1, 0)]
        both, above, below, neither = table
        product = (both + above) * (both + below) * (neither + above) * (neither + below)
        assert matthews(found, right) == pytest.approx((both * neither - above * below) / math.sqrt(product))
        precision, recall = both / (both + above), both / (both + below)
        assert f1(found, right) == pytest.approx(2 * precision * recall / (precision + recall))


def test_tasks_are_read_by_their_columns(tmp_path: Path) -> None:
    lines = {
        "sst2_dev": 'sentence\tlabel\n"odd quote \t1\n',
        "cola_dev": "x\t0\t*\tTwo words.\n",
        "mrpc_dev": "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t3\t4\tOne.\tTwo.\r\n",
        "rte_dev": "index\ta\tb\tlabel\n0\tOne.\tTwo.\tentailment\n",
    }
    for name, text in lines.items():
        (tmp_path / f"{name}.tsv.xz").write_bytes(lzma.compress(text.encode()))
    assert read_task(tmp_path, "sst2", "dev") == [Example(('"odd quote ',), 1)]
    assert read_task(tmp_path, "cola", "dev") == [Example(("Two words.",), 0)]
    assert read_task(tmp_path, "mrpc", "dev") == [Example(("One.", "Two."), 1)]
    assert read_task(tmp_path, "rte", "dev") == [Example(("One.", "Two."), 1)]
    (tmp_path / "rte_dev.tsv.xz").write_bytes(lzma.compress(b"header\n0\tOne.\tTwo.\tperhaps\n"))
    with pytest.raises(ConfigError, match="line 2 is no example of rte"):
        read_task(tmp_path, "rte", "dev")
    with pytest.raises(ConfigError, match="no such file"):
        read_task(tmp_path, "rte", "train")


def test_sentences_stand_between_separators_and_the_longer_one_is_cut() -> None:
    tokenizer: Any = Words()
    assert encode(Example(("a b",), 0), tokenizer, 9) == [0, 1, 2, 0]
    assert encode(Example(("a b c d", "e"), 0), tokenizer, 6) == [0, 1, 2, 0, 5, 0]


def test_padding_changes_no_logit() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=10,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        pad_token_id=9,
    )
    model = Padded(BertForSequenceClassification(config), 9).eval()
    short = model(input_ids=torch.tensor([[0, 1, 2]])).logits
    longer = model(input_ids=torch.tensor([[0, 1, 2, 9, 9]])).logits
    torch.testing.assert_close(short, longer)
