"""Answers to questions: the files, the official scores, windows of long texts, and the best span."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compare.questions import article, write_questions
from compare.tiny import other_study
from outgrow.comparing import parse_study
from outgrow.comparing.answering import CodedQuestions, Pointing, answers, best_span
from outgrow.comparing.check import check_study
from outgrow.comparing.finetune import Padded
from outgrow.comparing.squad import Question, answer_f1, exact_match, question_scores, read_questions
from outgrow.data.tokenizer import TextTokenizer
from outgrow.engine.step import Device
from outgrow.errors import ConfigError

LONG = (
    "The café of Ångström, by the river, opened in 1973 — under the moon — and closed before the war ended, all in all. "
    * 3
)


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    """A byte-level BPE, as runs train them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=["<s>", "<pad>"], initial_alphabet=alphabet)
    inner.train_from_iterator([LONG], trainer)
    return TextTokenizer(inner, Path(), separator=0, key="", pad=1)


@pytest.mark.parametrize(
    ("found", "right", "exact", "f1"),
    [
        ("the Moon", ("moon.",), 1, 1),
        ("an apple", ("pear", "Apple!"), 1, 1),
        ("apple pie", ("pear", "the apple"), 0, 2 / 3),  # precision 1/2, recall 1
        ("so so so", ("so far",), 0, 2 / 5),  # one word in common, 3 found, 2 right
        ("theatre", ("atre",), 0, 0),  # an article is a word
        ("", (), 1, 1),
        ("moon", (), 0, 0),
        ("", ("moon",), 0, 0),
        ("the", ("moon",), 0, 0),
        ("well-known", ("wellknown",), 1, 1),
    ],
)
def test_scores_are_those_of_the_official_script(
    found: str, right: tuple[str, ...], exact: float, f1: float
) -> None:
    assert exact_match(found, right) == exact
    assert answer_f1(found, right) == pytest.approx(f1, rel=1e-15)


def test_who_never_answers_has_the_points_of_the_questions_without_an_answer() -> None:
    asked = [Question("c", "q"), Question("moon sun", "q", ("moon",), 0), Question("sun", "q", ("sun",), 0)]
    never = question_scores("squad2.0", ["", "", ""], asked)
    third = pytest.approx(100 / 3)
    assert never == {"squad2.0_em": third, "squad2.0_f1": third, "squad2.0_answerable_f1": 0.0}
    assert question_scores("squad1.1", ["moon", "sun"], asked[1:]) == {
        "squad1.1_em": 100.0,
        "squad1.1_f1": 100.0,
    }


def test_one_file_is_split_by_articles_and_two_are_taken_as_they_are(tmp_path: Path) -> None:
    articles = [
        article(f"title {place}", [("where?", f"text {place} here", "here"), ("who?", f"text {place}", None)])
        for place in range(10)
    ]
    write_questions(tmp_path, "squad2.0", articles)
    train, dev = read_questions(tmp_path, "squad2.0")
    assert (len(train), len(dev)) == (16, 4)
    numbers = [{question.context.split()[1] for question in part} for part in (train, dev)]
    assert not numbers[0] & numbers[1]
    first, _ = read_questions(tmp_path, "squad2.0", most=5)
    assert first == train[:5]
    write_questions(tmp_path, "squad2.0", articles[:1], "train")
    train, dev = read_questions(tmp_path, "squad2.0")
    assert (len(train), len(dev)) == (2, 20)
    assert {question.answers for question in train} == {("here",), ()}


def test_an_offset_may_be_wrong_by_two_characters_as_in_old_releases(tmp_path: Path) -> None:
    for off, right in ((2, True), (-2, True), (3, False)):
        one, two = (article(title, [("who?", "it was Anna then", "Anna")]) for title in ("a", "b"))
        for other in range(3):
            write_questions(
                tmp_path,
                "squad1.1",
                [one, two, *(article(f"c{other}", [("q", "t", "t")]) for other in range(3))],
            )
        one["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] += off
        write_questions(tmp_path, "squad1.1", [one, two], "train")
        if right:
            train, _ = read_questions(tmp_path, "squad1.1")
            assert {question.start for question in train} == {7}
        else:
            with pytest.raises(ConfigError, match=r"question q0: its answer does not stand where"):
                read_questions(tmp_path, "squad1.1")


def _spoilt(change: Any) -> bytes:
    one = article("a", [("who?", "it was Anna", "Anna"), ("when?", "it was Anna", None)])
    change(one["paragraphs"])
    return lzma.compress(json.dumps({"data": [one]}).encode())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no xz", "cannot be read: .*squad2.0_dev"),
        (
            lzma.compress(b"sentence\tlabel\n"),
            "no file of questions in SQuAD's form: the whole file: Invalid JSON",
        ),
        (lzma.compress(b"[]"), "no file of questions in SQuAD's form: the whole file"),
        (lzma.compress(b'{"data": []}'), "too few articles to learn from"),
        (_spoilt(lambda paragraphs: None), "too few articles to learn from"),
        (
            _spoilt(lambda paragraphs: paragraphs[0].pop("context")),
            r"data\.0\.paragraphs\.0\.context: Field required",
        ),
        (
            _spoilt(lambda paragraphs: paragraphs[0]["qas"][0]["answers"][0].update(answer_start="7")),
            "answer_start",
        ),
        (
            _spoilt(lambda paragraphs: paragraphs[0]["qas"][0]["answers"][0].update(text="")),
            "does not stand where",
        ),
        (_spoilt(lambda paragraphs: paragraphs[0]["qas"][0].update(is_impossible=True)), "does not agree"),
        (_spoilt(lambda paragraphs: paragraphs[1]["qas"][0].update(is_impossible=False)), "does not agree"),
    ],
)
def test_a_file_of_another_form_is_refused_before_any_training(
    corpus: Path, tmp_path: Path, content: bytes, says: str
) -> None:
    (tmp_path / "squad2.0_dev.json.xz").write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        check_study(_study(corpus, tmp_path, names=["squad2.0"]), lambda _: None)


def _study(corpus: Path, folder: Path, sequence_length: int = 16, data: Any = None, **asked: Any) -> Any:
    text = {"source": str(corpus), "tokenizer": {"vocab_size": 300}, "sequence_length": sequence_length}
    asked = {"questions": {"folder": str(folder), **asked}}
    return parse_study(other_study(folder / "out", "bert", {**text, **(data or {})}, downstream=asked))


def test_questions_that_no_model_could_be_asked_are_refused(corpus: Path, tmp_path: Path) -> None:
    impossible = [article(str(place), [("who?", "nobody", None)]) for place in range(5)]
    for name in ("squad1.1", "squad2.0"):
        write_questions(tmp_path, name, impossible)

    def refused(says: str, **given: Any) -> None:
        with pytest.raises(ConfigError, match=says):
            check_study(_study(corpus, tmp_path, **{"names": ["squad2.0"], **given}), lambda _: None)

    check_study(_study(corpus, tmp_path, names=["squad2.0"]), lambda _: None)
    refused("which squad2.0 alone allows", names=["squad1.1"])
    refused("too short for a question and a text.*\n.*15 tokens", length=15)
    refused(
        "too short for a question and a text.*\n.*8 tokens, common.data.sequence_length", sequence_length=8
    )
    refused("longer than a model's positions.*\n.*600 tokens", length=600)
    refused("puts the separator between texts", data={"separator": "none"})


@pytest.mark.parametrize("length", [16, 24, 64, 512])
def test_windows_hold_all_of_a_text_and_the_places_of_its_answer(
    tokenizer: TextTokenizer, length: int
) -> None:
    answer = "Ångström"
    asked = [
        Question(
            LONG, "By which café, and by which river was it that it was?", (answer,), LONG.index(answer)
        ),
        Question(LONG, "When?", ("1973",), LONG.index("1973")),
        Question("", "Why?"),
    ]
    reading = CodedQuestions(asked, tokenizer, length)
    for number, question in enumerate(asked):
        own = [window for window in reading.windows if window.question == number]
        tokens = range(len(tokenizer.encode([question.context])[0]))
        assert sorted({place for window in own for place in range(window.first, window.last)}) == list(tokens)
        for window in own:
            if window.answer != (0, 0):
                assert reading.text(window, *window.answer).strip() == question.answers[0]
        if number < 2 and length > 16:  # half of the shortest window has fewer tokens than the first answer
            assert any(window.answer != (0, 0) for window in own)
    inputs, targets = reading.batch(range(len(reading.windows)))
    assert inputs.shape[1] <= length
    assert targets.shape == (len(reading.windows), 2)
    assert bool((targets < (inputs != 1).sum(1, keepdim=True)).all())


def test_the_best_span_is_that_of_all_spans() -> None:
    generator = torch.Generator().manual_seed(0)
    for length in (1, 2, 29, 30, 31, 70):
        scores = torch.randn(2, length, generator=generator)
        value, first, last = best_span(scores)
        spans = [
            float(scores[0, begin] + scores[1, end])
            for begin in range(length)
            for end in range(begin, min(begin + 30, length))
        ]
        assert value == max(spans) == float(scores[0, first] + scores[1, last])


class Knowing(nn.Module):
    """An answer begins at the first of some tokens and ends at the last, with a score of 1 each; `none` is that of place 0."""

    config = SimpleNamespace(model_type="bert")

    def __init__(self, tokens: list[int], none: float) -> None:
        super().__init__()
        self.ends, self.none = torch.tensor([tokens[0], tokens[-1]]), none

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        scores = (input_ids[..., None] == self.ends).float()
        scores[:, 0] = self.none
        return SimpleNamespace(logits=scores)


def test_the_answer_is_the_best_of_all_windows_or_none(tokenizer: TextTokenizer) -> None:
    asked = [Question(LONG, "When?", ("1973",), LONG.index("1973")), Question("the cat", "When?")]
    reading = CodedQuestions(asked, tokenizer, 32)
    device = Device("cpu", False)

    def found(none: float, *, may_be_none: bool) -> list[str]:
        model = Pointing(Padded(Knowing(tokenizer.encode([" 1973"])[0], none), 1))
        return [text.strip() for text in answers(model, reading, device, may_be_none=may_be_none)]

    assert found(0.5, may_be_none=True) == ["1973", ""]  # 1973 has 1 + 1, more than none's 0.5 + 0.5
    assert found(2.0, may_be_none=True) == ["", ""]
    assert found(2.0, may_be_none=False)[0] == "1973"
