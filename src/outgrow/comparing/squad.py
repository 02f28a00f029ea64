"""Questions on a text (SQuAD, arXiv 1606.05250; 2.0, 1806.03822): its files, and the two scores that every paper reports.

exact match = share of questions whose answer is one of the right ones              } both after the official normalisation,
F1          = mean over questions of the best F1 of words with one of the right ones }   in percent, as the papers print them

Normalised: lower case, without punctuation, without the words a, an and the, single spaces. A question without an answer
(2.0 alone) is right where nothing is answered. The official script of 1.1 differs where an answer has no word left: it has
no F1 there.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from outgrow.data.corpus import open_text
from outgrow.errors import ConfigError

_HELD_OUT = 0.2
"""Share of the articles that is asked about, where all there is is one file."""
_OFF = (0, -1, 1, -2, 2)
"""Characters by which a file's own offsets may be wrong; those of an old release were, here and there."""


@dataclass(frozen=True)
class Question:
    """A question on a context, its right answers, and where the first of them begins; without any there is none."""

    context: str
    text: str
    answers: tuple[str, ...] = ()
    start: int | None = None
    """Place of `answers[0]` in the context, in characters."""


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True)
    text: str
    answer_start: int


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True)
    id: str
    question: str
    answers: list[_Answer]
    is_impossible: bool = False


class _Paragraph(BaseModel):
    model_config = ConfigDict(strict=True)
    context: str
    qas: list[_Entry]


class _Article(BaseModel):
    model_config = ConfigDict(strict=True)
    title: str
    paragraphs: list[_Paragraph]


class _File(BaseModel):
    model_config = ConfigDict(strict=True)
    data: list[_Article]


def question_files(folder: Path, name: str) -> dict[str, Path]:
    """`dev`, and `train` where it is there; ConfigError where `dev` is not."""
    dev, train = (folder / f"{name}_{part}.json.xz" for part in ("dev", "train"))
    if not dev.is_file():
        raise ConfigError(f"downstream.questions: no such file: {dev}")
    return {"dev": dev} | ({"train": train} if train.is_file() else {})


def read_questions(folder: Path, name: str, most: int | None = None) -> tuple[list[Question], list[Question]]:
    """Questions to learn from, at most so many, and to be asked.

    Without a file of its own to learn from, the articles of `dev` are split by a hash of their titles: a fifth of them is asked
    about, and nobody learns from those. Raises ConfigError that names the file and what in it is no question.
    """
    files = question_files(folder, name)
    dev = _articles(files["dev"], name)
    if "train" in files:
        train = _articles(files["train"], name)
    else:
        order = sorted(dev, key=_hash)
        held = set(order[: round(_HELD_OUT * len(order))])
        train, dev = (
            {title: dev[title] for title in dev if (title in held) == asked} for asked in (False, True)
        )
    learned = sorted(
        (question for found in train.values() for question in found),
        key=lambda question: _hash(question.text + question.context),  # the first few are of all articles
    )[:most]
    asked = [question for found in dev.values() for question in found]
    if not learned or not asked:
        raise ConfigError(
            f"{files['dev']}: too few articles to learn from some and ask about others",
            got=f"{len(dev) + len(train) * ('train' not in files)} articles",
            fix=f"add {name}_train.json.xz, or more articles",
        )
    return learned, asked


def _articles(path: Path, name: str) -> Mapping[str, list[Question]]:
    """Title -> questions."""
    with open_text(path) as file:
        content = file.read()
    try:
        articles = _File.model_validate_json(content).data
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise ConfigError(
            f"{path} is no file of questions in SQuAD's form: {place}: {first['msg']}",
            expected='{"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers": [{"text", "answer_start"}]}]}]}]}',
        ) from None
    found: dict[str, list[Question]] = {}
    for article in articles:
        own = found.setdefault(article.title, [])
        own += [
            _question(path, name, paragraph.context, entry)
            for paragraph in article.paragraphs
            for entry in paragraph.qas
        ]
    return found


def _question(path: Path, name: str, context: str, entry: _Entry) -> Question:
    where = f"{path}, question {entry.id}"
    if entry.is_impossible and name != "squad2.0":
        raise ConfigError(
            f"{where} has no answer, which squad2.0 alone allows", fix="name the file squad2.0_..."
        )
    if entry.is_impossible == bool(entry.answers):
        raise ConfigError(
            f"{where}: is_impossible does not agree with its answers",
            got=f"is_impossible {str(entry.is_impossible).lower()}, {len(entry.answers)} answers",
        )
    if not entry.answers:
        return Question(context, entry.question)
    first = entry.answers[0]
    begins = (first.answer_start + off for off in _OFF if first.answer_start + off >= 0)
    start = next((begin for begin in begins if first.text and context.startswith(first.text, begin)), None)
    if start is None:
        raise ConfigError(
            f"{where}: its answer does not stand where answer_start says",
            got=context[max(0, first.answer_start) :][: len(first.text)][:60],
            expected=first.text[:60],
        )
    return Question(context, entry.question, tuple(answer.text for answer in entry.answers), start)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def normalised(answer: str) -> str:
    """An answer as the official scripts compare it.

    >>> normalised("The  Apollo-11, and a moon!")
    'apollo11 and moon'
    """
    kept = "".join(letter for letter in answer.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def exact_match(found: str, right: Sequence[str]) -> float:
    """1 where an answer is one of the right ones; without right ones, where nothing is answered.

    >>> exact_match("The moon.", ["Mars", "moon"]), exact_match("", []), exact_match("Mars", [])
    (1.0, 1.0, 0.0)
    """
    return max(float(normalised(found) == one) for one in _golds(right))


def answer_f1(found: str, right: Sequence[str]) -> float:
    """The best F1 of words with one of the right answers; as `exact_match` where one side has no words.

    >>> answer_f1("on the moon", ["Moon", "the sun"])
    0.6666666666666666
    """
    return max(_f1(normalised(found).split(), one.split()) for one in _golds(right))


def _golds(right: Sequence[str]) -> list[str]:
    return [one for one in map(normalised, right) if one] or [""]


def _f1(found: Sequence[str], right: Sequence[str]) -> float:
    if not found or not right:
        return float(found == right)
    both = sum((Counter(found) & Counter(right)).values())
    return 2 * both / (len(found) + len(right))


def question_scores(name: str, found: Sequence[str], asked: Sequence[Question]) -> dict[str, float]:
    """`<name>_em` and `<name>_f1` in percent; of 2.0 `<name>_answerable_f1` too: who never answers has half of the points, and 0 there."""
    pairs = [(answer, question.answers) for answer, question in zip(found, asked, strict=True)]

    def mean(values: Sequence[float]) -> float:
        return 100 * sum(values) / len(values)

    scores = {
        f"{name}_em": mean([exact_match(*pair) for pair in pairs]),
        f"{name}_f1": mean([answer_f1(*pair) for pair in pairs]),
    }
    answerable = [answer_f1(*pair) for pair in pairs if pair[1]]
    if len(answerable) < len(pairs) and answerable:
        scores[f"{name}_answerable_f1"] = mean(answerable)
    return scores
