"""What a study is refused for, or warned of, before anything is trained."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from compare.tiny import GROW, SMALL, other_study, text_study
from outgrow.commands.compare import run
from outgrow.commands.console import open_console
from outgrow.commands.options import CompareCall
from outgrow.comparing import parse_study, run_study
from outgrow.comparing.check import check_study
from outgrow.errors import ConfigError, OutgrowError
from outgrow.text.table import TextTable

HEADER, RIGHT = "sentence\tlabel\n", "a good one\t1\n"


def tasks(folder: Path, train: bytes, dev: bytes) -> dict[str, Any]:
    """SST-2 with these two files."""
    folder.mkdir()
    (folder / "sst2_train.tsv.xz").write_bytes(train)
    (folder / "sst2_dev.tsv.xz").write_bytes(dev)
    return {"tasks": {"folder": str(folder), "names": ["sst2"], "seeds": [0]}}


@pytest.mark.parametrize(
    ("train", "dev", "says"),
    [
        (HEADER + RIGHT, HEADER + "no label\n", "sst2_dev.tsv.xz, line 2 is no example"),
        (HEADER, HEADER + RIGHT, "no examples of sst2 in .*sst2_train"),
        (HEADER + RIGHT, HEADER, "no examples of sst2 in .*sst2_dev"),
        (HEADER + RIGHT, None, "cannot be read: .*sst2_dev"),
    ],
)
def test_task_files_are_read_before_training(
    corpus: Path, tmp_path: Path, train: str, dev: str | None, says: str
) -> None:
    packed = b"no xz" if dev is None else lzma.compress(dev.encode())
    asked = tasks(tmp_path / "tasks", lzma.compress(train.encode()), packed)
    data = {"source": str(corpus), "tokenizer": {"vocab_size": 300}, "sequence_length": 16}
    with pytest.raises(ConfigError, match=says):
        check_study(
            parse_study(other_study(tmp_path / "out", "bert", data, downstream=asked)), lambda _: None
        )


def test_texts_are_looked_into_before_training(corpus: Path, tmp_path: Path) -> None:
    short, broken = tmp_path / "short.txt", tmp_path / "broken.jsonl.xz"
    short.write_text("too short")
    broken.write_bytes(b"no xz")
    for asked, says in (
        ({"perplexity": {"other": str(short)}}, "perplexity.other: the text is shorter than one sequence"),
        ({"perplexity": {"other": "nowhere"}}, r"downstream\.perplexity\.other finds no text"),
        ({"lambada": str(broken)}, "cannot be read: .*broken"),
    ):
        with pytest.raises(ConfigError, match=says):
            check_study(parse_study(text_study(corpus, tmp_path / "out", downstream=asked)), lambda _: None)


def test_a_dry_run_checks_what_is_asked_downstream(corpus: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(
        json.dumps(text_study(corpus, tmp_path / "out", downstream={"lambada": "nowhere.jsonl"}))
    )
    with pytest.raises(ConfigError, match="no such file: nowhere"):
        run(CompareCall(study, dry_run=True), open_console())


def test_arms_that_learn_different_things_are_refused(corpus: Path, tmp_path: Path) -> None:
    """With a tokenizer that is brought they would read the same text, and losses of two kinds would be compared."""
    found = text_study(corpus, tmp_path / "out")
    found["arms"]["scratch"]["model"] = {**SMALL, "model_type": "bert", "num_hidden_layers": 2}
    says = r"learn different things(.|\n)*scratch: masked; stack, identity: causal"
    with pytest.raises(ConfigError, match=says):
        run_study(parse_study(found), lambda _: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            {"max_position_embeddings": 8},
            r"arm stack: data\.sequence_length is longer than the model's positions",
        ),
        ({"num_attention_heads": 3}, "arm stack: model: llama does not accept these fields"),
        ({"model_type": "lama"}, "arm stack: no architecture file for model type 'lama'"),
    ],
)
def test_a_mistake_names_its_arm(corpus: Path, tmp_path: Path, model: dict[str, Any], says: str) -> None:
    found = text_study(corpus, tmp_path / "out")
    found["arms"]["stack"]["model"] = SMALL | model
    with pytest.raises(OutgrowError, match=says):
        check_study(parse_study(found), lambda _: None)


@pytest.mark.parametrize("name", ["output", "pieces"])
def test_folders_are_no_files(corpus: Path, tmp_path: Path, name: str) -> None:
    found = text_study(corpus, tmp_path / "out") | {name: str(corpus)}
    with pytest.raises(ConfigError, match=f"{name} is a file"):
        run_study(parse_study(found), lambda _: None)
    assert not (tmp_path / "out").exists()


def test_rounding_that_makes_another_study_is_said(corpus: Path, tmp_path: Path) -> None:
    """Steps of 7 sequences in a study of 4: pieces end at every 28 sequences, 448 tokens."""
    found = text_study(corpus, tmp_path / "out")
    said: list[str] = []
    check_study(parse_study(found), said.append)
    assert said == []
    found["arms"]["stack"]["stages"] = [{"tokens": 256, "batch": {"sequences": 7}}, {"grow": GROW}]
    found["arms"]["identity"]["stages"][1] = {"grow": GROW, "batch": {"sequences": 7}}
    found["arms"]["identity"]["budgets"] = [320]
    check_study(parse_study(found), said.append)
    assert "arm 'stack'" in said[0]
    assert "the 256 tokens of stages[0] become 448" in said[0]
    assert "arm 'identity'" in said[1]
    assert "the budget of 320 tokens becomes 896, 50% of them a decay instead of 20%" in said[1]
    assert len(said) == 2


def test_a_trigger_that_cannot_fire_is_said_and_can_be_mended(corpus: Path, tmp_path: Path) -> None:
    small = {"tokens": 64 * 150, "until": {"trigger": "efficiency"}}
    content = text_study(corpus, tmp_path / "out")
    content["arms"] = {
        "scratch": content["arms"]["scratch"],
        "law": {"model": SMALL, "stages": [small, {"grow": GROW}]},
    }
    said: list[str] = []
    content["common"]["log_every_steps"] = 20
    check_study(parse_study(content), said.append)
    assert [line.startswith("warning: arm 'law': stage 'stage-1' logs 7 rows") for line in said] == [True]
    content["common"]["log_every_steps"] = 2
    check_study(parse_study(content), said.append)
    assert len(said) == 1


def test_the_savings_are_reported_before_scores_are_asked_for(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise ConfigError("no score")

    monkeypatch.setattr("outgrow.comparing.runner.downstream", fails)
    study = tmp_path / "study.yaml"
    content = text_study(corpus, tmp_path / "out", seeds=[0])
    content["arms"].pop("identity")
    study.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="no score"):
        run(CompareCall(study), open_console())
    assert "Savings at equal loss" in (tmp_path / "out" / "report.html").read_text()


def test_scores_of_a_file_that_has_changed_are_computed_again(corpus: Path, tmp_path: Path) -> None:
    books = tmp_path / "books.txt"
    books.write_bytes(corpus.read_bytes()[:6_000])
    content = text_study(
        corpus, tmp_path / "out", budgets=[320], downstream={"perplexity": {"books": str(books)}}
    )
    content["arms"] = {"scratch": content["arms"]["scratch"]}
    first = run_study(parse_study({**content, "seeds": [0]}), lambda _: None).scores("scratch")
    (kept,) = (tmp_path / "out" / "downstream").iterdir()
    whole = kept.read_text()
    for damaged in (whole[:10], '{"books_perplexity": "low"}', "[]"):
        kept.write_text(damaged)
        with pytest.raises(ConfigError, match=f"{kept.name} is damaged"):
            run_study(parse_study({**content, "seeds": [0]}), lambda _: None)
    kept.write_text(whole)
    books.write_bytes(bytes(reversed(corpus.read_bytes()))[:7_000])
    second = run_study(parse_study({**content, "seeds": [0, 1]}), lambda _: None).scores("scratch")
    assert second["books_perplexity"][0] != first["books_perplexity"][0]
    assert run_study(parse_study({**content, "seeds": [0]}), lambda _: None).scores("scratch")[
        "books_perplexity"
    ] == (second["books_perplexity"][0],)


def test_the_name_of_an_arm_is_no_markup() -> None:
    from rich.console import Console

    console = Console(width=60)
    with console.capture() as captured:
        console.print(TextTable("heading", ("arm",), [("a[/b]",), ("stack[c]",)], "note").rich())
    text = captured.get()
    assert "a[/b]" in text
    assert "stack[c]" in text
