"""Files of questions in SQuAD's form."""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def entry(number: int, question: str, context: str, answer: str | None) -> dict[str, Any]:
    """One question; its answer stands at its first place in the context."""
    answers = [] if answer is None else [{"text": answer, "answer_start": context.index(answer)}]
    return {"id": f"q{number}", "question": question, "answers": answers, "is_impossible": answer is None}


def article(title: str, asked: Sequence[tuple[str, str, str | None]]) -> dict[str, Any]:
    """An article of (question, context, answer)."""
    paragraphs = [
        {"context": context, "qas": [entry(number, question, context, answer)]}
        for number, (question, context, answer) in enumerate(asked)
    ]
    return {"title": title, "paragraphs": paragraphs}


def write_questions(folder: Path, name: str, articles: Sequence[dict[str, Any]], part: str = "dev") -> None:
    """A file as it is published."""
    content = json.dumps({"version": "v2.0", "data": articles})
    (folder / f"{name}_{part}.json.xz").write_bytes(lzma.compress(content.encode()))
