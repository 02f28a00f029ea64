"""A whole study in seconds: shared pieces, resuming, extending, and mistakes that are named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compare.tiny import GROW, SMALL
from compare.tiny import text_study as study
from outgrow.commands.compare import run, study_report
from outgrow.commands.console import open_console
from outgrow.commands.options import CompareCall
from outgrow.comparing import parse_study, run_study
from outgrow.comparing.check import check_study
from outgrow.comparing.estimate import estimate
from outgrow.comparing.pieces import all_pieces, branches
from outgrow.errors import ConfigError, OutgrowError
from outgrow.report.compare_tables import sections
from outgrow.training.folder import RunFolder


def test_a_study_end_to_end(corpus: Path, tmp_path: Path) -> None:
    parsed = parse_study(study(corpus, tmp_path / "study"))
    said: list[str] = []
    result = run_study(parsed, said.append)
    assert len(result.points) == 3 * 2 * 2
    sweep, ends = (line for line in said if "pieces to train" in line)
    assert sweep.startswith("sweep")
    after = re.search(r"tokens, ([\d,]+) after it", sweep)
    assert after is not None
    assert ends.endswith(f" {after[1]} tokens")
    # The time left is the whole study's, from its first piece on: 4-layer tokens count more than small ones.
    pattern = r"(?:sweep|study): (\w+), [\w-]+, seed \d.*; (\d+)% of the FLOPs"
    trained = [match for line in said if (match := re.match(pattern, line))]
    shares = [int(match[2]) for match in trained]
    assert shares == sorted(shares)
    assert shares[-1] == 100
    assert {match[1] for match in trained} == {"scratch", "stack", "identity"}
    assert result.rates == {"scratch": 1e-2, "stack": 1e-2, "identity": 1e-2}
    by = {(p.arm, p.seed, p.budget): p for p in result.points}
    # The small stage is counted: 256 tokens of the small model before 320 of the grown one.
    assert by["stack", 0, 320].tokens == 256 + 320
    assert by["scratch", 0, 640].tokens == 640
    assert by["stack", 0, 640].flops > by["scratch", 0, 640].flops
    report = study_report(result)
    assert "saving" in report.html.read_text()
    assert report.png.stat().st_size > 10_000
    savings, paired, worths, readings, legend, sweep = sections(result)
    inside = [one for arm in ("stack", "identity") for one in result.savings()[arm] if one.saving is not None]
    assert all(row[0] in " ".join(readings.columns) for row in legend.rows)
    tables = (savings, paired, worths, readings, sweep)
    assert [len(one.rows) for one in tables] == [3 * 2, 2 * 2, len(inside), 2 * 2, 3]
    grown = by["stack", 0, 640]
    assert 0 < grown.flops_sunk < grown.flops
    assert by["scratch", 0, 640].flops_sunk == by["scratch", 0, 640].flops
    # Before the decay: all but the last 128 tokens of the grown model, and a loss of that moment.
    token = (by["stack", 0, 640].flops - by["stack", 0, 320].flops) / 320
    assert grown.undecayed_flops == pytest.approx(grown.flops - 128 * token)
    assert grown.undecayed_loss != grown.loss
    # 256 + 320 tokens lie between the baseline's 320 and 640, 256 + 640 beyond.
    equal = result.equal_tokens()["stack"]
    assert equal[0].saving is not None
    assert equal[0].saving > 0  # the small stage was cheap
    assert equal[1].saving is None
    assert any("tokens per parameter" in caution for caution in result.cautions)
    assert any("1 learning rate in" in caution for caution in result.cautions)
    assert "Caution" in report.markdown.read_text()
    assert 'class="warning"' in report.html.read_text()
    assert all(one.saving == pytest.approx(0) for one in result.savings()["scratch"])
    again: list[str] = []
    assert run_study(parsed, again.append).points == result.points
    assert not any("pieces to train" in line for line in again)  # nothing is rerun
    saved = json.loads(report.json.read_text())
    assert saved["rates"]["stack"] == 1e-2
    assert saved["any_size_flops"]["scratch"] == pytest.approx(
        [by["scratch", 0, one].flops for one in (320, 640)]
    )


def test_arms_that_begin_alike_share_pieces_and_extending_keeps_the_rest(
    corpus: Path, tmp_path: Path
) -> None:
    parsed = parse_study(study(corpus, tmp_path))
    found = {
        arm: all_pieces(branches(parsed, arm, 0, 1e-2, parsed.arm_budgets(arm)))
        for arm in ("stack", "identity")
    }
    keys = {arm: {piece.key for piece in pieces} for arm, pieces in found.items()}
    assert found["stack"][0].key == found["identity"][0].key  # the small stage
    assert len(keys["stack"] & keys["identity"]) == 1
    longer = parse_study(study(corpus, tmp_path, budgets=[320, 640, 960]))
    more = {piece.key for piece in all_pieces(branches(longer, "stack", 0, 1e-2, (320, 640, 960)))}
    assert keys["stack"] < more


def test_studies_that_name_one_folder_train_what_they_share_once(corpus: Path, tmp_path: Path) -> None:
    shared = {"pieces": str(tmp_path / "pieces"), "seeds": [0]}
    scratch = {"model": {**SMALL, "num_hidden_layers": 2}}
    alone = {"arms": {"scratch": scratch}, **shared}
    first = run_study(parse_study(study(corpus, tmp_path / "first", **alone)), lambda _: None)
    keys = {path.name for path in (tmp_path / "pieces").iterdir()}
    said: list[str] = []
    second = run_study(parse_study(study(corpus, tmp_path / "second", **shared)), said.append)
    assert [point for point in second.points if point.arm == "scratch"] == [
        replace(point, seconds=next(one.seconds for one in second.points if one.folder == point.folder))
        for point in first.points
    ]  # but for the seconds, which each study measures itself
    assert keys < {path.name for path in (tmp_path / "pieces").iterdir()}
    assert (tmp_path / "second" / "study.json").is_file()


def test_a_stage_has_a_rate_of_its_own_as_a_multiple_of_the_swept_one(corpus: Path, tmp_path: Path) -> None:
    arm = {"model": SMALL, "stages": [{"tokens": 256, "rate": 2}, {"grow": GROW, "rate": 0.5}]}
    scratch = {"model": {**SMALL, "num_hidden_layers": 2}}
    parsed = parse_study(study(corpus, tmp_path, arms={"scratch": scratch, "stack": arm}))
    *_, last = branches(parsed, "stack", 0, 1e-2, (320, 640))
    assert [piece.settings["optimizer"]["learning_rate"] for piece in last.piece.line] == [
        2e-2,
        5e-3,
        5e-3,
        5e-3,
    ]
    arm["stages"][1] = {"grow": GROW, "reentry": {"peak": "mup"}}
    with pytest.raises(ConfigError, match=r"give stages\[1\]\.rate, a multiple"):
        parse_study(study(corpus, tmp_path, arms={"scratch": scratch, "stack": arm}))


def test_a_study_that_was_stopped_comes_to_the_same_bits(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import outgrow.comparing.piece_trainer as piece_trainer

    content = {"arms": {"scratch": {"model": SMALL}}, "seeds": [0], "budgets": [320, 640]}
    whole = run_study(parse_study(study(corpus, tmp_path / "whole", **content)), lambda _: None)
    real, count = piece_trainer.train_run, 0

    def dying(run: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return real(run, **options)

    monkeypatch.setattr(piece_trainer, "train_run", dying)
    cut = parse_study(study(corpus, tmp_path / "cut", **content))
    with pytest.raises(KeyboardInterrupt):
        run_study(cut, lambda _: None)
    resumed = run_study(cut, lambda _: None)
    assert [p.loss for p in resumed.points] == [p.loss for p in whole.points]


def test_a_study_is_read_again_from_its_logs_alone(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No weights, no results, no training: the logs of the pieces and the measured speeds are enough for the same report."""
    import outgrow.comparing.piece_trainer as piece_trainer

    arms = study(corpus, tmp_path)["arms"]
    arms.pop("identity")
    parsed = parse_study(study(corpus, tmp_path / "study", arms=arms, seeds=[0]))
    first = run_study(parsed, lambda _: None)
    report = study_report(first)
    before = [path.read_text() for path in (report.html, report.markdown, report.json)]
    for path in (report.html, report.markdown, report.json, report.png):
        path.unlink()
    kept = {"metrics.jsonl", "latest.json"}
    for piece in (tmp_path / "study" / "pieces").iterdir():
        for path in piece.iterdir():
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def training(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is trained")

    monkeypatch.setattr(piece_trainer, "train_run", training)
    again = run_study(parsed, lambda _: None)
    assert again == first
    report = study_report(again)
    assert [path.read_text() for path in (report.html, report.markdown, report.json)] == before


def test_a_study_is_extended_by_a_seed_and_keeps_what_it_has(corpus: Path, tmp_path: Path) -> None:
    content: dict[str, Any] = {"arms": {"scratch": {"model": SMALL}}, "budgets": [320]}
    run_study(parse_study(study(corpus, tmp_path, seeds=[0], **content)), lambda _: None)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("pieces/*/metrics.jsonl")}
    assert len(before) == 2  # trunk and decay
    wider = parse_study(study(corpus, tmp_path, seeds=[0, 1], **content))
    planned = estimate(wider, check_study(wider, lambda _: None), measure=False)
    assert [(one.pieces, one.there) for one in planned] == [(4, 2)]
    result = run_study(wider, lambda _: None)
    assert {point.seed for point in result.points} == {0, 1}
    after = {path: path.stat().st_mtime_ns for path in tmp_path.glob("pieces/*/metrics.jsonl")}
    assert len(after) == 4
    assert before.items() <= after.items()


def test_the_estimate_is_what_is_then_spent(corpus: Path, tmp_path: Path) -> None:
    content = study(corpus, tmp_path, seeds=[0], tuning={"rates": [1e-2, 2e-2], "budget": 320})
    content["arms"].pop("identity")
    last = {"grow": {**GROW, "depth": "mslt"}, "freeze": {"what": "old", "tokens": 128}}
    content["arms"]["mslt"] = {"model": SMALL, "stages": [{"tokens": 256}, last], "budgets": [320]}
    new = {"distil": {"into": {**SMALL, "num_hidden_layers": 2}, "tokens": 192}}
    content["arms"]["ki"] = {"model": SMALL, "stages": [{"tokens": 256}, new], "budgets": [320]}
    parsed = parse_study(content)
    planned = estimate(parsed, check_study(parsed, lambda _: None))
    assert not (tmp_path / "pieces").exists()
    assert all(one.seconds is not None and one.seconds == one.seconds_left for one in planned)
    run_study(parsed, lambda _: None)
    logs = [json.loads(path.read_text().splitlines()[-1]) for path in tmp_path.glob("pieces/*/metrics.jsonl")]
    assert sum(one.pieces for one in planned) == len(logs)
    assert sum(one.tokens for one in planned) == sum(row["tokens"] for row in logs)
    assert sum(one.flops for one in planned) == pytest.approx(sum(row["flops"] for row in logs))
    assert all(
        one.there == one.pieces
        for one in estimate(parsed, check_study(parsed, lambda _: None), measure=False)
    )


def test_a_dry_run_writes_nothing(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(study(corpus, tmp_path / "out")))
    found = json.loads(
        json.dumps(run(CompareCall(path, ["seeds=[3]"], dry_run=True), open_console()).to_json())
    )
    # Ends with seed 3 (two trunks, two decays), and the sweep with seed 0 (one decay); `identity` shares both small stages of `stack`.
    assert [(one["arm"], one["pieces"], one["there"]) for one in found] == [
        ("scratch", 4 + 3, 0),
        ("stack", 5 + 4, 0),
        ("identity", 4 + 3, 0),
    ]
    run(CompareCall(path, dry_run=True), open_console()).show(open_console())
    assert "What the study takes" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_growth_that_cannot_be_is_found_before_any_training(corpus: Path, tmp_path: Path) -> None:
    arms = study(corpus, tmp_path)["arms"]
    arms["stack"]["stages"][1]["grow"]["depth"] = "stak"
    with pytest.raises(OutgrowError, match="stak"):
        run_study(parse_study(study(corpus, tmp_path, arms=arms)), lambda _: None)
    assert not (tmp_path / "pieces").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"baseline": "scrath"}, "baseline 'scrath' is no arm"),
        ({"baseline": "stack"}, "the baseline is trained from scratch"),
        ({"budgets": [640, 320]}, "must rise"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [0, 1, 0]}, "seeds: 0, 1, 0 has one of them twice"),
        ({"tuning": {"rates": [1e-2, 0.01]}}, "tuning.rates: .* twice"),
        ({"tuning": {"rates": [1e-2], "seeds": [1, 1]}}, "tuning.seeds: .* twice"),
        (
            {"arms": {"scratch": {"model": SMALL, "stages": [{"until": {"loss": 3}}]}}},
            "its tokens and until out",
        ),
        (
            {"arms": {"scratch": {"model": SMALL, "stages": [{"untl": {}}]}}},
            "unknown key arms.scratch.stages.0.untl\n.*until",
        ),
        (
            {"arms": {"a": {"model": SMALL, "stages": [{"tokens": 9}, {"grow": {"operator": "folder"}}]}}},
            r"stages\[1\].grow.learn",
        ),
        (
            {
                "arms": {
                    "a": {
                        "model": SMALL,
                        "stages": [{"tokens": 9}, {"grow": GROW, "reentry": {"position": 5}}],
                    }
                }
            },
            r"stages\[1\].reentry.position: a study trains at a constant rate",
        ),
        ({"tuning": {"rates": [1e-2], "budget": 100}}, "none of the budgets"),
        ({"common": {"data": {"skip_steps": 3}}}, "common.data.skip_steps: the study sets this itself"),
        ({"common": {"optimizer": {"learning_rate": 1e-3}}}, "common.optimizer.learning_rate"),
        ({"common": {"stages": []}}, "the study sets this itself"),
        ({"common": {"bach": {}}}, "unknown key common.bach"),
        ({"arms": {"scratch": {"model": SMALL, "stages": [{"tokens": 5}]}}}, "takes its length from budgets"),
        ({"timing": {"round": 3}}, "unknown key timing.round"),
        ({"downstream": {"tasks": {"folder": "x", "names": ["qqp"]}}}, "downstream.tasks.names"),
    ],
)
def test_mistakes_are_named(corpus: Path, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_study(study(corpus, tmp_path, **change))


@pytest.mark.parametrize("name", ["books/valid", "lambada", ""])
def test_a_score_needs_a_name_of_its_own(corpus: Path, tmp_path: Path, name: str) -> None:
    parsed = parse_study(study(corpus, tmp_path / "out", downstream={"perplexity": {name: str(corpus)}}))
    with pytest.raises(ConfigError, match="cannot name a score"):
        run_study(parsed, lambda _: None)
    assert not (tmp_path / "out").exists()


def test_passages_are_read_before_any_training(corpus: Path, tmp_path: Path) -> None:
    passages = tmp_path / "passages.jsonl"
    passages.write_text('{"text": "one"}\n')
    parsed = parse_study(study(corpus, tmp_path / "out", downstream={"lambada": str(passages)}))
    with pytest.raises(ConfigError, match="line 1 is no passage"):
        run_study(parsed, lambda _: None)
    assert not (tmp_path / "out").exists()


def test_budgets_within_one_step_are_refused_before_anything_is_written(corpus: Path, tmp_path: Path) -> None:
    """A step has 64 tokens."""
    folder = tmp_path / "close"
    with pytest.raises(ConfigError, match="lie within one optimizer step"):
        run_study(parse_study(study(corpus, folder, budgets=[320, 322])), lambda _: None)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("last", "more", "says"),
    [
        (
            {"grow": GROW, "freeze": {"what": ["model.embed_tokens.*"], "tokens": 512}},
            {},
            r"stages\[1\].freeze.tokens",
        ),
        ({"distil": {"into": SMALL, "tokens": 512}}, {}, r"stages\[1\].distil.tokens"),
        ({"grow": GROW, "freeze": {"what": ["model.embed_tokens.*"]}}, {}, "until the end of the stage"),
        ({"grow": GROW, "reentry": {"rewarm_tokens": 512}}, {}, "reentry.rewarm_tokens"),
        ({"grow": GROW, "new_entries": {"multiplier": 2}}, {}, "new_entries without fall_tokens"),
        ({"grow": GROW, "new_entries": {"rise_tokens": 200, "fall_tokens": 200}}, {}, "rise and fall"),
        ({"grow": GROW}, {"warmup_tokens": 300}, "warmup_tokens"),
    ],
)
def test_what_the_pieces_would_cut_is_refused(
    corpus: Path, tmp_path: Path, last: dict[str, Any], more: dict[str, Any], says: str
) -> None:
    """The small stage has 256 tokens, and the last one 256 before its first decay."""
    arms = {**study(corpus, tmp_path)["arms"], "stack": {"model": SMALL, "stages": [{"tokens": 256}, last]}}
    folder = tmp_path / "cut"
    with pytest.raises(ConfigError, match=says):
        run_study(parse_study(study(corpus, folder, arms=arms, **more)), lambda _: None)
    assert not folder.exists()


@pytest.mark.parametrize("changed", ["text.txt", "held_out.txt"])
def test_a_source_that_has_changed_is_noticed(corpus: Path, tmp_path: Path, changed: str) -> None:
    text, held_out = tmp_path / "text.txt", tmp_path / "held_out.txt"
    text.write_bytes(corpus.read_bytes())
    held_out.write_bytes(corpus.read_bytes()[:9_000])
    content = study(text, tmp_path / "out", arms={"scratch": {"model": SMALL}}, budgets=[320])
    content["common"]["data"]["validation_source"] = str(held_out)
    run_study(parse_study({**content, "seeds": [0]}), lambda _: None)
    words = (tmp_path / changed).read_text().splitlines(keepends=True)
    (tmp_path / changed).write_text("".join(reversed(words)))  # as long as before
    before = set((tmp_path / "out" / "pieces").iterdir())
    with pytest.raises(ConfigError, match="has changed since its first pieces"):
        run_study(parse_study(content), lambda _: None)
    assert set((tmp_path / "out" / "pieces").iterdir()) == before  # and nothing was trained to find out


def test_pieces_of_two_sources_are_never_one_study(corpus: Path, tmp_path: Path) -> None:
    """The second source came while a process was at work: each piece is right, together they are not."""
    content = study(corpus, tmp_path / "out", arms={"scratch": {"model": SMALL}}, budgets=[320])
    parsed = parse_study({**content, "seeds": [0]})
    run_study(parsed, lambda _: None)
    piece = branches(parsed, "scratch", 0, 1e-2, (320,))[0].piece
    pointer = RunFolder(tmp_path / "out" / "pieces" / piece.key).root / "latest.json"
    saved = json.loads(pointer.read_text())
    saved["data"]["fingerprint"] = "another"
    pointer.write_text(json.dumps(saved))
    for seeds in ([0], [0, 1]):
        with pytest.raises(ConfigError, match="trained on different data"):
            run_study(parse_study({**content, "seeds": seeds}), lambda _: None)


def test_one_folder_spelled_twice_is_one_study(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import outgrow.comparing.piece_trainer as piece_trainer

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    arms = study(corpus, tmp_path)["arms"]
    arms.pop("identity")
    content: dict[str, Any] = {"arms": arms, "budgets": [320], "seeds": [0]}
    real = piece_trainer.train_run

    def dying(run: Any, **options: Any) -> Any:
        if (
            run.stages[0].grow is not None
        ):  # killed when the grown state is there, and the run's pointer to it
            monkeypatch.setattr("outgrow.training.loop._train_stage", _interrupt)
        return real(run, **options)

    monkeypatch.setattr(piece_trainer, "train_run", dying)
    relative = parse_study(study(corpus, Path("study"), **content))
    with pytest.raises(KeyboardInterrupt):
        run_study(relative, lambda _: None)
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(tmp_path))
    begun = [path.parent for path in tmp_path.glob("study/pieces/*/latest.json")]
    assert any(not RunFolder(folder).is_finished for folder in begun)
    home = parse_study(study(corpus, Path("~/study"), **content))
    assert home.output == str(tmp_path / "study")
    assert len(run_study(home, lambda _: None).points) == 2


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda log: log.write_bytes(log.read_bytes()[:-30]), r"metrics\.jsonl has lost its end"),
        (lambda log: log.unlink(), r"metrics\.jsonl has lost its end(.|\n)*got: +0 bytes"),
        (
            lambda log: log.write_text(
                re.sub(r'"val_loss": [0-9.]+', '"val_loss": ' + "NaN" * 9, log.read_text())
            ),
            "not JSON",
        ),
        (
            lambda log: log.write_text(
                re.sub(r'"val_loss": [0-9.]+', '"val_loss": Infinity             ', log.read_text())
            ),
            "a finished run has validation losses",
        ),
    ],
)
def test_a_damaged_log_is_never_read_as_a_result(
    corpus: Path, tmp_path: Path, damage: Callable[[Path], Any], says: str
) -> None:
    """A log without its end would give an earlier, higher loss; one piece of many, and nobody would see it."""
    content = study(corpus, tmp_path, budgets=[320], seeds=[0])
    content["arms"] = {"scratch": content["arms"]["scratch"]}
    config = parse_study(content)
    result = run_study(config, lambda _: None)
    damage(Path(config.pieces_folder) / result.points[0].folder / "metrics.jsonl")
    with pytest.raises(ConfigError, match=says):
        run_study(config, lambda _: None)
