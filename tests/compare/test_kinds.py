"""Causal, masked and image studies go through the same runner, each with the scores that it can have."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compare.questions import article, write_questions
from compare.tiny import other_study
from outgrow.commands.compare import study_report
from outgrow.comparing import parse_study, run_study
from outgrow.comparing.check import check_study
from outgrow.errors import ConfigError
from outgrow.report.compare_tables import sections


def text(corpus: Path) -> dict[str, Any]:
    return {
        "source": str(corpus),
        "tokenizer": {"vocab_size": 300},
        "sequence_length": 16,
        "validation_share": 0.1,
    }


def test_a_causal_study_with_scores_that_are_kept(corpus: Path, tmp_path: Path) -> None:
    passages = tmp_path / "passages.jsonl"
    lines = [json.dumps({"text": f"{word} {word} {word} end"}) for word in ("grow", "train", "stage")]
    passages.write_text("\n".join(lines) + "\n")
    asked = {"lambada": str(passages), "perplexity": {"same": str(corpus)}, "sequences": 8}
    study = parse_study(
        other_study(tmp_path / "study", "llama", text(corpus), downstream=asked, budgets=[1280])
    )
    said: list[str] = []
    result = run_study(study, said.append)
    scores = result.scores("stack")
    assert set(scores) == {"lambada_accuracy", "lambada_perplexity", "same_perplexity"}
    assert scores["same_perplexity"][0] < 300  # better than chance
    assert scores["lambada_perplexity"][0] < 300
    assert "Downstream" in [section.heading for section in sections(result)]
    assert sum("downstream" in line for line in said) == 2 * 2
    said.clear()
    assert run_study(study, said.append).scores("stack") == scores
    assert not any("downstream" in line for line in said)


@pytest.mark.parametrize("model_type", ["bert", "eurobert"])
def test_a_masked_study_with_fine_tuning(model_type: str, corpus: Path, tmp_path: Path) -> None:
    for part, count in (("train", 32), ("dev", 8)):
        rows = [f"{'grow grow' if place % 2 else 'loss loss'}\t{place % 2}" for place in range(count)]
        content = "\n".join(["sentence\tlabel", *rows]) + "\n"
        (tmp_path / f"sst2_{part}.tsv.xz").write_bytes(lzma.compress(content.encode()))
    tasks = {
        "folder": str(tmp_path),
        "names": ["sst2"],
        "seeds": [0, 1],
        "epochs": 8,
        "learning_rate": 1e-2,
        "batch": 8,
    }
    asked_about = [
        (f"where is {word}?", f"{word} is here" if known else f"{word} is lost", "here" if known else None)
        for word in ("she", "he", "it", "one")
        for known in (True, False)
    ]
    write_questions(tmp_path, "squad2.0", [article(str(place), asked_about) for place in range(5)])
    questions = {
        "folder": str(tmp_path),
        "names": ["squad2.0"],
        "seeds": [0],
        "batch": 4,
        "epochs": 8,
        "learning_rate": 1e-2,
        "length": 32,
    }
    asked = {
        "perplexity": {"same": str(corpus)},
        "sequences": 8,
        "tasks": tasks,
        "questions": questions,
    }
    study = parse_study(other_study(tmp_path / "study", model_type, text(corpus), downstream=asked))
    result = run_study(study, lambda _: None)
    scores = result.scores("stack")
    squad = {"squad2.0_em", "squad2.0_f1", "squad2.0_answerable_f1"}
    assert set(scores) == {"same_perplexity", "sst2_accuracy", "sst2_accuracy_spread", *squad}
    assert scores["sst2_accuracy"] == (1.0,)  # one word tells the classes apart
    assert all(scores[one] == (100.0,) for one in squad)  # and one is the answer, where it stands there
    assert study_report(result).html.is_file()


def grey_classes(path: Path, side: int = 8) -> Path:
    """60 noisy images; the grey of one tells its class, of five, apart."""
    random, labels = np.random.default_rng(0), np.arange(60) % 5
    images = 50 * labels[:, None, None, None] + random.integers(20, size=(60, side, side, 3))
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return path


def image_study(folder: Path, **transfer: Any) -> dict[str, Any]:
    """Three classes to train on, and the two others to learn afterwards."""
    path = str(grey_classes(folder / "images.npz"))
    asked = {"train": path, "test": path, "classes": [4, 0], "seeds": [0, 1], "epochs": 6, **transfer}
    data = {"images": path, "classes": [3, 1, 2], "validation_share": 0.2}
    return other_study(
        folder / "study", "vit", data, downstream={"transfer": {**asked, "batch": 8, "learning_rate": 1e-2}}
    )


def test_an_image_study_with_its_accuracy_and_that_on_other_classes(tmp_path: Path) -> None:
    result = run_study(parse_study(image_study(tmp_path)), lambda _: None)
    assert all(point.accuracy is not None and 0 <= point.accuracy <= 1 for point in result.points)
    scores = result.scores("stack")
    assert set(scores) == {"accuracy", "transfer_accuracy", "transfer_accuracy_spread"}
    assert scores["accuracy"] == (result.of("stack")[0, 24].accuracy,)
    assert scores["transfer_accuracy"] == (1.0,)  # black and nearly white
    assert not any("per parameter" in caution for caution in result.cautions)


@pytest.mark.parametrize(
    ("transfer", "says"),
    [
        ({"classes": [4, 5]}, "images.npz has no image of class 5"),
        ({"classes": [4, 4]}, "give two classes or more, each once"),
        ({"test": "nowhere.npz"}, "nowhere.npz"),
        ({"train": "small"}, "images of another shape than the study's data"),
        ({"test": "small"}, "not of the kind of those to learn from"),
    ],
)
def test_images_that_cannot_be_learned_are_refused_before_any_training(
    tmp_path: Path, transfer: dict[str, Any], says: str
) -> None:
    small = str(grey_classes(tmp_path / "small.npz", side=4))
    transfer = {name: small if value == "small" else value for name, value in transfer.items()}
    if transfer.get("train") == small:
        transfer["test"] = small
    with pytest.raises(ConfigError, match=says):
        check_study(parse_study(image_study(tmp_path, **transfer)), lambda _: None)


@pytest.mark.parametrize(
    ("model_type", "asked", "says"),
    [
        ("bert", {"lambada": "x.jsonl"}, "a causal model"),
        ("llama", {"lambada": "x.jsonl"}, "no such file: x.jsonl"),
        ("llama", {"tasks": {"folder": "x", "names": ["rte"]}}, "for encoders"),
        ("llama", {"questions": {"folder": "x", "names": ["squad1.1"]}}, "for encoders"),
        ("llama", {"transfer": {"train": "x", "test": "x"}}, "for image models"),
        ("bert", {"tasks": {"folder": "x", "names": ["rte"]}}, "no such file"),
        ("llama", {"perplexity": {"books": "nowhere.txt"}}, "nowhere.txt"),
    ],
)
def test_scores_that_cannot_be_are_refused_before_any_training(
    corpus: Path, tmp_path: Path, model_type: str, asked: dict[str, Any], says: str
) -> None:
    study = parse_study(other_study(tmp_path / "study", model_type, text(corpus), downstream=asked))
    with pytest.raises(ConfigError, match=says):
        run_study(study, lambda _: None)
    assert not (tmp_path / "study" / "pieces").exists()
