"""An encoder fine-tuned to answer questions on a text: two scores for every token, that the answer begins or ends there.

    input  = separator, question, separator, window of the context, separator
    loss   = (-log softmax(begin)[b] - log softmax(end)[e]) / 2        over the places of a window; 0, 0 where it holds no answer
    answer = argmax over windows and begin <= end < begin + 30 of begin + end         (BERT, arXiv 1810.04805, section 4.2)
    none   where min over windows of begin[0] + end[0] is above it                    (2.0 alone; section 4.3 with threshold 0)

Contexts longer than a window are read in windows that overlap by half. The head is transformers' classifier of tokens with
two classes, which every encoder has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from outgrow.comparing.finetune import (
    Padded,
    finetune,
    head_scores,
    open_under_head,
    over_seeds,
    padded_rows,
    separator_of,
)
from outgrow.comparing.squad import Question, question_scores, read_questions
from outgrow.comparing.study import QuestionsConfig
from outgrow.data.objectives import Batch
from outgrow.data.tokenizer import TextTokenizer, open_tokenizer
from outgrow.engine.step import Device, be_repeatable, choose_device
from outgrow.files.reading import expanded
from outgrow.run.config import RunConfig

_LONGEST = 30  # tokens of an answer, as in BERT's own code
_BATCH = 32  # windows that are scored at once
FEWEST = 16
"""Tokens of the shortest input; half of one is for the question."""


@dataclass(frozen=True)
class Window:
    """A part of a question's context, `[first, last)` in its tokens, and the places in the input between which its answer stands."""

    question: int
    first: int
    last: int
    answer: tuple[int, int]


class CodedQuestions:
    """Questions as tokens, cut into windows that fit an input of `length` tokens."""

    def __init__(self, questions: Sequence[Question], tokenizer: TextTokenizer, length: int) -> None:
        self.tokenizer, self.separator = tokenizer, separator_of(tokenizer)
        self.questions = questions
        contexts = list(dict.fromkeys(question.context for question in questions))
        self._located = dict(zip(contexts, tokenizer.locate(contexts), strict=True))
        most = (length - 3) // 2
        self._asked = [ids[:most] for ids in tokenizer.encode([question.text for question in questions])]
        self.windows = [
            window
            for number in range(len(questions))
            for window in self._windows(number, length - 3 - len(self._asked[number]))
        ]

    def _windows(self, number: int, room: int) -> list[Window]:
        """Of one question, each holding `room` tokens of the context at most."""
        count, answer = len(self._located[self.questions[number].context][0]), self._answer(number)
        found: list[Window] = []
        first = last = 0
        while not found or last < count:
            last, shift = min(first + room, count), self.behind(number) - first
            inside = answer and first <= answer[0] and answer[-1] < last
            places = (answer[0] + shift, answer[-1] + shift) if inside else (0, 0)
            found.append(Window(number, first, last, places))
            first += max(1, room // 2)
        return found

    def _answer(self, number: int) -> list[int]:
        """Tokens of the context that the first right answer touches."""
        question = self.questions[number]
        if question.start is None:
            return []
        spans, stop = self._located[question.context][1], question.start + len(question.answers[0])
        return [place for place, (begin, end) in enumerate(spans) if end > question.start and begin < stop]

    def behind(self, number: int) -> int:
        """Place in the input at which a question's context begins."""
        return len(self._asked[number]) + 2

    def batch(self, chosen: Sequence[int] | NDArray[Any]) -> Batch:
        """Tokens (windows, longest) and the places of the answers, (windows, 2)."""
        rows = []
        for window in (self.windows[place] for place in chosen):
            ids = self._located[self.questions[window.question].context][0][window.first : window.last]
            asked = self._asked[window.question]
            rows.append([self.separator, *asked, self.separator, *ids, self.separator])
        return padded_rows(rows, self.tokenizer), torch.tensor(
            [self.windows[place].answer for place in chosen]
        )

    def text(self, window: Window, first: int, last: int) -> str:
        """The characters of the context between two places of an input."""
        question = self.questions[window.question]
        shift = window.first - self.behind(window.question)
        spans = self._located[question.context][1]
        return question.context[spans[first + shift][0] : spans[last + shift][1]]


class Pointing(nn.Module):
    """A classifier of tokens as scores of places: (items, 2, length), begin and end; padding cannot be either."""

    def __init__(self, model: Padded) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids: Tensor) -> Tensor:
        """Scores of an answer's begin and end at every place."""
        model = self.model(input_ids=input_ids)
        scores: Tensor = model.logits.float().transpose(1, 2)
        model.logits = scores.masked_fill((input_ids == self.model.pad)[:, None], float("-inf"))
        return model  # type: ignore[no-any-return]


def answering_scores(state: Path, run: RunConfig, asked: QuestionsConfig, name: str) -> dict[str, float]:
    """`<name>_em`, `<name>_f1` ... in percent, mean over the seeds of the fine-tuning, and `..._spread` between them."""
    be_repeatable()
    tokenizer = open_tokenizer(state, run.data.separator)
    parts = read_questions(expanded(asked.folder), name, asked.examples)
    length = asked.length or run.data.sequence_length
    train, dev = (CodedQuestions(part, tokenizer, length) for part in parts)
    return over_seeds([_once(state, run, asked, name, train, dev, seed) for seed in asked.seeds])


def _once(
    state: Path,
    run: RunConfig,
    asked: QuestionsConfig,
    name: str,
    train: CodedQuestions,
    dev: CodedQuestions,
    seed: int,
) -> dict[str, float]:
    from transformers import AutoModelForTokenClassification

    device = choose_device(run)
    opened = open_under_head(AutoModelForTokenClassification, state, train.tokenizer, seed)
    model = Pointing(opened).to(device.name)
    finetune(model, train.batch, len(train.windows), asked, device, seed, name)
    return question_scores(name, answers(model, dev, device, may_be_none=name == "squad2.0"), dev.questions)


def answers(model: nn.Module, reading: CodedQuestions, device: Device, *, may_be_none: bool) -> list[str]:
    """The best answer to every question, over all windows of its context; "" where there is none."""
    count = len(reading.questions)
    best, none = [(float("-inf"), "")] * count, [float("inf")] * count
    order = range(len(reading.windows))
    parts = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
    found = head_scores(model, [partial(reading.batch, part) for part in parts], device)
    for part, (scores, _) in zip(parts, found, strict=True):
        for place, row in zip(part, scores, strict=True):
            window = reading.windows[place]
            number, begins = window.question, reading.behind(window.question)
            none[number] = min(none[number], float(row[0, 0] + row[1, 0]))
            if window.first == window.last:  # an empty context
                continue
            value, first, last = best_span(row[:, begins : begins + window.last - window.first])
            if value > best[number][0]:
                best[number] = value, reading.text(window, begins + first, begins + last)
    return [
        "" if may_be_none and empty > value else text for (value, text), empty in zip(best, none, strict=True)
    ]


def best_span(scores: Tensor) -> tuple[float, int, int]:
    """The largest begin + end of (2, length) scores over begin <= end < begin + 30, and its two places.

    >>> best_span(torch.tensor([[0.0, 2.0, 1.0], [5.0, 1.0, 2.0]]))
    (5.0, 0, 0)
    """
    begin, end = scores
    ends = nn.functional.pad(end, (0, _LONGEST - 1), value=float("-inf")).unfold(0, _LONGEST, 1)
    sums = begin + ends.T  # (tokens more, begin): of equal ones the shortest is the first
    more, first = divmod(int(sums.flatten().argmax()), len(begin))
    return float(sums[more, first]), first, first + more
