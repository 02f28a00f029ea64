"""Downstream scores of every arm's largest budget, so that "equal loss" can be checked to mean "equal model".

    lambada_accuracy, lambada_perplexity   the last word of a passage (`language.py`)
    <name>_perplexity                      another domain of text
    <task>_<metric>                        an encoder fine-tuned on a task (`classify.py`)
    transfer_accuracy                      an image model fine-tuned on other images (`transfer.py`)
    squad<version>_em, ..._f1              an encoder fine-tuned to answer questions (`answering.py`)

A score is kept in `downstream/<piece>-<what>.json` and not computed again unless a file that it is read from changes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from outgrow.comparing.answering import FEWEST, answering_scores
from outgrow.comparing.classify import task_scores
from outgrow.comparing.language import last_word, other_text, read_passages
from outgrow.comparing.pieces import Branch
from outgrow.comparing.squad import question_files, read_questions
from outgrow.comparing.steps import common_run
from outgrow.comparing.study import FinetuningConfig, StudyConfig
from outgrow.comparing.tasks import read_task, task_file
from outgrow.comparing.transfer import check_transfer, transfer_files, transfer_scores
from outgrow.data.corpus import Corpus, open_corpus
from outgrow.data.images import load_images
from outgrow.errors import ConfigError
from outgrow.files.atomic import write_json_atomic
from outgrow.files.locks import RunBusyError, locked
from outgrow.files.reading import expanded
from outgrow.models.architecture import load_architecture, longest_sequence
from outgrow.run.config import RunConfig

Scores = dict[str, float]
Measure = Callable[[Path, RunConfig], Scores]
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def check_downstream(study: StudyConfig, models: Mapping[str, Mapping[str, Any]]) -> None:
    """Before any training: files that are there, and scores that the models can have; `models` are the configs of every arm's last one."""
    asked = study.downstream
    kinds = {load_architecture(str(arm.model["model_type"])).objective for arm in study.arms.values()}
    needed = (
        (asked.lambada is not None, {"causal"}, "lambada asks for the next word: a causal model"),
        (asked.tasks is not None, {"masked"}, "tasks are for encoders: masked models"),
        (asked.questions is not None, {"masked"}, "questions are for encoders: masked models"),
        (asked.transfer is not None, {"image"}, "transfer is for image models"),
        (bool(asked.perplexity), {"causal", "masked", "denoising"}, "perplexity is of text: no image models"),
    )
    for wanted, suits, says in needed:
        if wanted and not kinds <= suits:
            raise ConfigError(f"downstream.{says}", got=", ".join(sorted(kinds)))
    if asked.lambada is not None:
        if not expanded(asked.lambada).is_file():
            raise ConfigError(f"downstream.lambada: no such file: {asked.lambada}")
        read_passages(expanded(asked.lambada))
    finetuned = [one for one in (asked.tasks, asked.questions) if one is not None]
    if finetuned and common_run(study).data.separator == "none":
        raise ConfigError(
            "downstream: fine-tuning puts the separator between texts, and common.data.separator is none",
            fix="leave data.separator at auto",
        )
    others = {"lambada", *(name for one in finetuned for name in one.names)}
    for name, source in asked.perplexity.items():
        if name in others or not _NAME.fullmatch(name):
            raise ConfigError(
                f"downstream.perplexity: '{name}' cannot name a score",
                expected=f"letters, digits, '_', '-' and '.', and none of {', '.join(sorted(others))}",
            )
        corpus = open_corpus(source, place=f"downstream.perplexity.{name}")
        _check_length(name, corpus, common_run(study).data.sequence_length)
    for path, name, part in _task_parts(study):
        read_task(path, name, part)
    _check_questions(study, models)
    if asked.transfer is not None:
        check_transfer(asked.transfer, load_images(common_run(study).data).needs)


def _check_questions(study: StudyConfig, models: Mapping[str, Mapping[str, Any]]) -> None:
    """The files are SQuAD's, and their inputs fit the models."""
    asked, own = study.downstream.questions, common_run(study).data.sequence_length
    if asked is None:
        return
    most = min((longest_sequence(config) or math.inf for config in models.values()), default=math.inf)
    length = asked.length or own
    if not FEWEST <= length <= most:
        raise ConfigError(
            "downstream.questions.length: "
            + (
                "too short for a question and a text"
                if length < FEWEST
                else "longer than a model's positions"
            ),
            got=f"{length} tokens" + ("" if asked.length else ", common.data.sequence_length"),
            expected=f"{FEWEST} to {most} tokens" if most < math.inf else f"at least {FEWEST} tokens",
        )
    for name in asked.names:
        read_questions(expanded(asked.folder), name)


def _check_length(name: str, corpus: Corpus, sequence: int) -> None:
    """A text with fewer bytes than a sequence has tokens cannot fill one."""
    size = 0
    for document in corpus.documents():
        size += len(document.encode())
        if size > sequence:
            return
    raise ConfigError(
        f"downstream.perplexity.{name}: the text is shorter than one sequence: {corpus.description}",
        got=f"{size:,} bytes",
        expected=f"more than {sequence:,}",
    )


def _task_parts(study: StudyConfig) -> Iterator[tuple[Path, str, str]]:
    """Folder, task and part of every file of tasks."""
    tasks = study.downstream.tasks
    if tasks is not None:
        for name in tasks.names:
            for part in ("train", "dev"):
                yield expanded(tasks.folder), name, part


def downstream(
    study: StudyConfig, ends: Sequence[Branch], say: Callable[[str], None]
) -> dict[str, dict[str, tuple[float, ...]]]:
    """Arm -> score -> one value per seed."""
    measures = _measures(study)
    last = [branch for branch in ends if branch.budget == study.arm_budgets(branch.arm)[-1]]
    asked = [(branch, name) for branch in last for name in measures]
    kept: dict[tuple[str, str], Scores] = {}
    while any((branch.piece.key, name) not in kept for branch, name in asked):
        before = len(kept)
        for branch, name in asked:
            if (branch.piece.key, name) not in kept:
                with suppress(RunBusyError):  # another process holds this state: looked at again
                    kept[branch.piece.key, name] = _kept(study, branch, name, *measures[name], say)
        if len(kept) == before:
            time.sleep(1.0)
    found: dict[str, dict[str, tuple[float, ...]]] = {arm: {} for arm in study.arms}
    for branch, name in asked:
        for score, value in kept[branch.piece.key, name].items():
            found[branch.arm][score] = (*found[branch.arm].get(score, ()), value)
    return found


def _measures(study: StudyConfig) -> dict[str, tuple[Any, Measure]]:
    """What is measured -> all that its result depends on, the files' content too, and how."""
    asked = study.downstream
    found: dict[str, tuple[Any, Measure]] = {}
    if asked.lambada is not None:
        path, most = expanded(asked.lambada), asked.passages
        found["lambada"] = ([_digest(path), most], lambda state, run: last_word(state, run, path, most))
    for name, source in asked.perplexity.items():

        def perplexity(state: Path, run: RunConfig, name: str = name, source: str = source) -> Scores:
            return {f"{name}_perplexity": other_text(state, run, source, asked.sequences)}

        found[name] = ([open_corpus(source).key, asked.sequences], perplexity)
    if asked.tasks is not None:
        tasks = asked.tasks
        for name in tasks.names:
            files = [_digest(task_file(*one)) for one in _task_parts(study) if one[1] == name]
            settings = {"names": name, **_own(tasks), "files": files}
            found[name] = (settings, lambda state, run, name=name: task_scores(state, run, tasks, name))  # type: ignore[misc]
    if asked.questions is not None:
        questions = asked.questions
        for name in questions.names:
            files = [_digest(path) for path in question_files(expanded(questions.folder), name).values()]
            settings = {
                **questions.model_dump(mode="json", exclude={"folder"}),
                "names": name,
                "files": files,
            }
            found[name] = (
                settings,
                lambda state, run, name=name: answering_scores(state, run, questions, name),  # type: ignore[misc]
            )
    if asked.transfer is not None:
        transfer = asked.transfer
        files = [_digest(path) for path in transfer_files(transfer)]
        settings = {**_own(transfer), "files": files}
        found["transfer"] = (settings, lambda state, run: transfer_scores(state, run, transfer))
    return found


def _own(settings: FinetuningConfig) -> dict[str, Any]:
    """What a score depends on but for its files, which are known by their content."""
    return settings.model_dump(mode="json", exclude={"folder", "names", "train", "test"})


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _kept(
    study: StudyConfig,
    branch: Branch,
    name: str,
    settings: Any,
    measure: Measure,
    say: Callable[[str], None],
) -> Scores:
    """A score from its file, or measured now. Raises `RunBusyError` where another process holds the state."""
    root = Path(study.output)
    digest = hashlib.sha256(json.dumps([name, settings]).encode()).hexdigest()[:8]
    path = root / "downstream" / f"{branch.piece.key}-{name}-{digest}.json"
    piece = Path(study.pieces_folder) / branch.piece.key
    with nullcontext() if path.is_file() else locked(piece):
        if path.is_file():
            return _read_scores(path)
        found = measure(piece / "final", common_run(study))
        path.parent.mkdir(exist_ok=True)
        write_json_atomic(path, found)
    say(f"downstream: {branch.arm}, seed {branch.seed}: {_words(found)}")
    return found


def _read_scores(path: Path) -> Scores:
    """Scores that were kept. Raises `ConfigError` where the file is damaged."""
    try:
        kept: Scores = json.loads(path.read_bytes())
        whole = isinstance(kept, dict) and all(type(one) in (int, float) for one in kept.values())
    except (ValueError, RecursionError):
        whole = False
    if not whole:
        raise ConfigError(
            f"{path} is damaged", expected="names and numbers", fix="delete it: it is computed again"
        )
    return kept


def _words(scores: Scores) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
