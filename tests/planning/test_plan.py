"""`outgrow plan` as a person meets it: tables, JSON, picture, a run.yaml that `outgrow train` accepts, and every mistake named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from outgrow.engine import memory
from outgrow.engine.memory import step_memory
from outgrow.engine.step import Device
from outgrow.errors import ConfigError
from outgrow.planning.cautions import plan_cautions
from outgrow.planning.laws import Chinchilla
from outgrow.planning.plan_file import parse_plan
from outgrow.planning.summary import summary
from outgrow.planning.worked import work_out
from outgrow.run.run_file import load_run
from test_cli import outgrow, refused

LAW = Chinchilla(1.9, 120.0, 0.30, 900.0, 0.40)


def sizes(hidden: int, layers: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
    }


PLAN: dict[str, Any] = {
    "target": {"size": "large", "tokens": "3M"},
    "model": {
        "model_type": "llama",
        "vocab_size": 300,
        "max_position_embeddings": 32,
        "tie_word_embeddings": True,
    },
    "candidates": [
        {"name": "small", "sizes": sizes(16, 1, 2)},
        {"name": "medium", "sizes": sizes(24, 2, 3)},
        {"name": "large", "sizes": sizes(48, 3, 6)},
    ],
    "law": {"kind": "chinchilla", "constants": vars(LAW)},
    "sequence_length": 16,
    "worth": 0.0,
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A plan file with some keys replaced."""

    def write_plan(**replace: Any) -> Path:
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump({**deepcopy(PLAN), **replace}))
        return path

    return write_plan


@pytest.fixture
def curve_file(tmp_path: Path) -> Path:
    """Noisy curves of three sizes from a known law."""
    random, lines = np.random.default_rng(0), ["run,parameters,tokens,loss"]
    for number in (3e5, 1e6, 4e6):
        for tokens in np.geomspace(2e6, 3e8, 14):
            loss = float(LAW.loss(number, tokens)) * np.exp(0.003 * random.normal())
            lines.append(f"{number:.0e},{number},{tokens:.0f},{loss:.5f}")
    path = tmp_path / "curves.csv"
    path.write_text("\n".join(lines))
    return path


def test_tables_json_and_picture(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write()
    shown = outgrow("plan", path, "--plot", tmp_path / "plan.png")
    assert shown.returncode == 0, shown.stderr
    assert "▶" in shown.stdout
    assert "PRE-GROWTH" in shown.stdout
    assert (tmp_path / "plan.png").stat().st_size > 20_000
    facts = json.loads(outgrow("plan", path, "--json").stdout)
    assert [len(one["stages"]) for one in facts["schedules"]] == [1, 2, 3]
    assert facts["schedules"][0]["saving"] == 0
    assert facts["schedules"][1]["saving"] > 0.02
    assert facts["schedules"][0]["stages"][0]["tokens"] == pytest.approx(3e6)
    assert facts["schedules"][0]["flops"] == pytest.approx(
        sum(s["flops"] for s in facts["schedules"][0]["stages"])
    )


def test_a_run_file_that_train_accepts(write: Callable[..., Path], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Document {k} says {k * k} and no more than that." for k in range(400)))
    run = {
        "output": str(tmp_path / "run"),
        "data": {"source": str(text), "tokenizer": {"vocab_size": 300}, "sequence_length": 16},
        "batch": {"sequences": 4},
    }
    target = tmp_path / "run.yaml"
    result = outgrow(
        "plan", write(run=run, grow={"depth": "interleave"}, reentry={"peak": "mup"}), "--run", target
    )
    assert result.returncode == 0, result.stderr
    loaded = load_run(target)
    worked = work_out(parse_plan({**PLAN, "run": run, "grow": {"depth": "interleave"}}))
    assert [stage.name for stage in loaded.stages] == [worked.candidates[p].name for p in worked.path.sizes]
    assert len(loaded.stages) > 1
    assert [stage.tokens for stage in loaded.stages] == [round(tokens) for tokens in worked.path.tokens]
    assert loaded.stages[1].grow is not None
    assert loaded.stages[1].grow.depth == "interleave"
    assert [stage.reentry.peak for stage in loaded.stages] == ["keep", *["mup"] * (len(loaded.stages) - 1)]
    dry = outgrow("train", target, "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    planned = json.loads(dry.stdout)
    assert planned["flops"] == pytest.approx(
        worked.path.total_flops, rel=1e-3
    )  # whole steps, same accounting
    assert "no section run" in refused("plan", write(), "--run", target)


@pytest.mark.parametrize("given", [None, 8])
def test_a_planned_run_has_a_micro_batch_that_fits(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: int | None
) -> None:
    """The largest divisor of the batch of which every size's step takes at most 80 % of the device; a given one stays."""
    batch = {"sequences": 12} if given is None else {"sequences": 16, "micro_batch": given}
    run = {"output": str(tmp_path / "run"), "data": {"sequence_length": 16}, "batch": batch, "device": "cpu"}
    run["data"]["tokenizer"] = {"vocab_size": 300}
    plan, target = write(run=run), tmp_path / "run.yaml"

    def planned(room: float) -> tuple[int | None, list[str]]:
        monkeypatch.setattr(memory, "device_memory", lambda device: int(room))
        result = outgrow("plan", plan, "--run", target, "--json")
        assert result.returncode == 0, result.stderr
        facts = json.loads(result.stdout)
        return load_run(target).batch.micro_batch, [one for one in facts["warnings"] if "80 %" in one]

    assert planned(1e12) == (given, [])
    loaded, device = load_run(target), Device("cpu", False)
    last = len(loaded.stages) - 1
    large = next(one for one in work_out(parse_plan({**PLAN, "run": run})).candidates if one.name == "large")
    assert large.fields is not None
    needs = {n: step_memory(loaded.at(last), large.fields, device, n).total for n in (1, 2, 3, 4, 6)}
    for room, wanted in (
        (needs[4] / 0.8 + 1, 4),
        (needs[4] / 0.8 - 1, 3 if given is None else 2),
        (needs[1] / 0.9, 0),
    ):
        found, notes = planned(room)
        assert found == (given or max(wanted, 1))
        assert (
            f"{wanted} fits" if given and wanted else f"micro_batch {wanted}" if wanted else "not one"
        ) in notes[0]


def test_a_masked_plan_counts_as_its_run_does(write: Callable[..., Path], tmp_path: Path) -> None:
    """The head at the hidden places alone, whatever their share is."""
    text, target = tmp_path / "text.txt", tmp_path / "run.yaml"
    text.write_text("\n\n".join(f"Document {k} says {k * k} and no more than that." for k in range(400)))
    data = {
        "source": str(text),
        "tokenizer": {"vocab_size": 300},
        "sequence_length": 16,
        "mask_share": 0.4,
    }
    run = {"output": str(tmp_path / "run"), "data": data, "batch": {"sequences": 4}}
    model = {**PLAN["model"], "model_type": "eurobert", "pad_token_id": 0}
    result = outgrow("plan", write(run=run, model=model), "--run", target)
    assert result.returncode == 0, result.stderr
    planned = json.loads(outgrow("train", target, "--dry-run", "--json").stdout)
    worked = work_out(parse_plan({**PLAN, "run": run, "model": model}))
    assert planned["flops"] == pytest.approx(worked.path.total_flops, rel=1e-3)
    fewer = work_out(
        parse_plan({**PLAN, "run": {**run, "data": {**data, "mask_share": 0.15}}, "model": model})
    )
    assert fewer.candidates[0].flops_per_token < 0.8 * worked.candidates[0].flops_per_token
    assert "run.data: mask_share" in refused("plan", write(run={**run, "data": {**data, "mask_share": 1.5}}))
    assert "run.data: sequence_length" in refused(
        "plan", write(run={"data": {"sequence_length": "long"}}, sequence_length=None)
    )


@pytest.mark.parametrize(
    ("grow", "says"),
    [
        ({"width": "isometrc"}, "isometric"),
        ({"depth": "stak"}, "stack"),
        ({"width": 5}, "width"),
        ({"moment": "copy"}, "moments"),
        ({"to": {"hidden_size": 32}}, "leave out to"),
        ({"operator": "op/"}, "leave out operator"),
    ],
)
def test_a_misspelt_growth_is_no_refusal(write: Callable[..., Path], grow: dict[str, Any], says: str) -> None:
    assert says in refused("plan", write(grow=grow))


def test_only_plans_and_pictures_are_written(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write()
    before = path.read_bytes()
    assert "was not written by `outgrow plan`" in refused("plan", path, "--run", path)
    assert "cannot be written" in refused("plan", path, "--run", tmp_path / "none" / "run.yaml")
    assert ".png" in refused("plan", path, "--plot", tmp_path / "plan.txt")
    assert "cannot be written" in refused("plan", path, "--plot", tmp_path / "none" / "plan.png")
    assert path.read_bytes() == before


def test_fit_first(write: Callable[..., Path], curve_file: Path, tmp_path: Path) -> None:
    path = write(target={"size": "large", "loss": 6.3}, law={"kind": "fit", "draws": 40})
    facts = json.loads(outgrow("plan", path, "--fit", curve_file, "--json").stdout)
    constants = facts["law"]["fits"][0]["constants"]
    exponent = constants["token_exponent"]
    assert exponent["low"] < exponent["value"] < exponent["high"]
    assert exponent["value"] == pytest.approx(0.40, abs=0.02)  # five times the interval's half width
    saving = facts["schedules"][1]["saving_interval"]
    assert saving["low"] <= facts["schedules"][1]["saving"] <= saving["high"]
    assert any("Extrapolation in parameters" in text for text in facts["warnings"])
    shown = outgrow("plan", path, "--fit", curve_file, "--plot", tmp_path / "fit.png")
    assert "90 % interval" in shown.stdout
    assert (tmp_path / "fit.png").stat().st_size > 20_000
    alone = json.loads(outgrow("plan", "--fit", curve_file, "--json").stdout)
    assert alone["fits"][0]["quality"]["curves"] == 3


def own_curves(path: Path, **runs: tuple[float, float, Any]) -> dict[str, Any]:
    """A plan over sizes with a curve each: name -> (parameters, most tokens, what its loss is multiplied by)."""
    lines = ["run,parameters,tokens,loss"]
    for run, (number, most, times) in runs.items():
        for place, tokens in enumerate(np.geomspace(most / 100, most, 14)):
            loss = float(LAW.loss(number, tokens)) * times * (1 + 0.001 * (-1) ** place)
            lines.append(f"{run},{number:.0f},{tokens:.0f},{loss:.6f}")
    path.write_text("\n".join(lines) + "\n")
    return {
        "target": {"size": "large", "tokens": "40M"},
        "candidates": [
            {"name": "small", "parameters": 300_000},
            {"name": "large", "parameters": 4_000_000},
        ],
        "law": {"kind": "fit", "form": "per_size", "draws": 20, "curves": [{"path": str(path)}]},
        "worth": 0.0,
    }


SMALL, LARGE = (3e5, 3e8, 1.0), (4e6, 3e8, 1.0)


def test_a_curve_of_its_own_saves_what_a_search_finds(tmp_path: Path) -> None:
    worked = work_out(parse_plan(own_curves(tmp_path / "c.csv", small=SMALL, large=LARGE)))
    small, large = (size.curve for size in worked.problem.sizes)
    tokens = np.geomspace(1e5, 2e7, 20_001)
    cost = 6 * 3e5 * tokens + 6 * 4e6 * (4e7 - large.tokens(small.loss(tokens)))
    assert worked.saving(1) == pytest.approx(1 - cost.min() / (6 * 4e6 * 4e7), abs=1e-6)


@pytest.mark.parametrize(
    ("runs", "change", "says"),
    [
        ({"large": (4e6, 8e6, 1.0)}, {}, "large at 4e\\+07; the law saw 8e\\+04 to 8e\\+06"),
        ({"other": (4.04e6, 3e8, 1.3)}, {}, "Curves of 4.04e\\+06 parameters belong to no candidate"),
        (
            {"large": (4e6, 3e8, 1 / np.log(2))},
            {},
            "the smaller small one of .*same data, tokenizer and unit",
        ),
        ({}, {"operators": {"both": {"largest_factor": 1.5}}}, "No candidate can be grown into another"),
    ],
)
def test_a_curve_of_its_own_is_doubted(
    runs: dict[str, Any], change: dict[str, Any], says: str, tmp_path: Path
) -> None:
    """By what that size has seen, not all sizes together; a run that serves nothing, and one in bits, are told."""
    plan = own_curves(tmp_path / "c.csv", **{"small": SMALL, "large": LARGE, **runs})
    found = plan_cautions(work_out(parse_plan({**plan, **change})))
    assert re.search(says, "\n".join(found)), found


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"target": {"loss": 8.0}}, 1),
        ({"operators": {"both": {"loss_gap": -1.0}}}, 2),
        ({"operators": {"both": {"flops": 1e30}}}, 1),
    ],
)
def test_a_schedule_that_is_not_taken_stops_no_plan(
    change: dict[str, Any], stages: int, tmp_path: Path
) -> None:
    """Two stages to a target that the first has already under a draw: the message said that it is never reached."""
    plan = own_curves(tmp_path / "c.csv", small=SMALL, large=LARGE)
    worked = work_out(parse_plan({**plan, **change}))
    summary(worked)
    assert len(worked.path.sizes) == stages


def test_a_fit_names_the_size_that_it_fails_for(tmp_path: Path) -> None:
    plan = own_curves(tmp_path / "c.csv", small=SMALL, large=LARGE)
    plan["law"]["points"] = "final"
    with pytest.raises(ConfigError, match="the curve of 3e\\+05 parameters: too few points"):
        work_out(parse_plan(plan))


def test_a_curve_per_size(write: Callable[..., Path], tmp_path: Path) -> None:
    plan = parse_plan({**PLAN, "target": {"size": "large", "loss": 6.3}})
    lines = ["run,parameters,tokens,loss"]
    for one in work_out(plan).candidates:
        for seed, luck in enumerate((0.998, 1 / 0.998)):  # two runs of a size: the curve goes between them
            for tokens in np.geomspace(1e5, 1e8, 20):
                loss = luck * float(LAW.loss(one.parameters, tokens))
                lines.append(f"{one.name}-{seed},{one.parameters},{tokens:.0f},{loss:.6f}")
    path = tmp_path / "own.csv"
    path.write_text("\n".join(lines))
    law = {"kind": "fit", "form": "per_size", "draws": 20, "curves": [{"path": str(path)}]}
    own = work_out(parse_plan({**PLAN, "target": {"size": "large", "loss": 6.3}, "law": law}))
    np.testing.assert_allclose(
        own.path.flops, work_out(plan).path.flops, rtol=1e-3
    )  # losses have 6 digits in the file


def test_numbers_alone_and_a_budget() -> None:
    worked = work_out(
        parse_plan(
            {
                "target": {"flops": 1e17},
                "series": {"smallest": "300k", "largest": "100M", "count": 40},
                "law": {"kind": "chinchilla", "constants": vars(LAW)},
            }
        )
    )
    assert worked.paths[0].total_flops == pytest.approx(1e17, rel=1e-6)
    assert worked.paths[1].losses[-1] < worked.paths[0].losses[-1]
    assert any("6 FLOPs per parameter" in text for text in plan_cautions(worked))


def test_kaplans_law_counts_without_embeddings() -> None:
    worked = work_out(
        parse_plan({**PLAN, "target": {"size": "large", "loss": 5.5}, "law": {"kind": "kaplan"}})
    )
    assert worked.candidates[0].parameters == 2608  # 4 * 16 * 16 attention, 3 * 16 * 32 MLP, 3 * 16 gains
    assert worked.saving(1) > 0.05


def test_warnings_in_plain_words() -> None:
    base = {**PLAN, "target": {"size": "large", "tokens": "200M"}, "stages": 2}
    worked = work_out(
        parse_plan(
            {
                **base,
                "candidates": [PLAN["candidates"][0], PLAN["candidates"][2]],
            }
        )
    )
    said = " ".join(plan_cautions(worked))
    for words in (
        "tokens per parameter",
        "times at once",
        "taken to be perfect",
        "no interval",
    ):
        assert words in said
    decayed = work_out(parse_plan({**PLAN, "run": {"schedule": {"kind": "linear"}}}))
    assert "already decayed" in " ".join(plan_cautions(decayed))
    warming = work_out(parse_plan({**PLAN, "run": {"schedule": {"kind": "wsd", "warmup_tokens": "1G"}}}))
    assert "warm-up of 1.00 G tokens outlasts" in " ".join(plan_cautions(warming))
    measured = {**base, "operators": {"both": {"loss_gap": 0.01, "lost_tokens": "10k"}}}
    assert "taken to be perfect" not in " ".join(plan_cautions(work_out(parse_plan(measured))))
    lowered = {**base, "operators": {"both": {"loss_gap": -0.01, "lost_tokens": "10k"}}}
    assert "lower the loss by 0.01 for nothing" in " ".join(plan_cautions(work_out(parse_plan(lowered))))


def test_a_growth_that_the_operators_refuse_is_planned_around() -> None:
    plan = {**PLAN, "grow": {"width": "duplicate"}}  # 16 -> 24 and 16 -> 48: only the second is a multiple
    worked = work_out(parse_plan(plan))
    assert all(path.sizes[:2] != (0, 1) for path in worked.paths)
    assert any("small → medium" in text for text in plan_cautions(worked))


def test_a_growth_that_ends_in_another_model_is_planned_around() -> None:
    wider_heads = {
        "name": "large",
        "sizes": sizes(48, 3, 2),
    }  # heads of 24; the small one's of 8 would be kept
    first, *others = PLAN["candidates"]
    worked = work_out(parse_plan({**PLAN, "candidates": [first, *others[:-1], wider_heads]}))
    assert any("query_dim 8, not 24" in text for text in plan_cautions(worked))
    with pytest.raises(ConfigError, match="refuse every growth between the candidates"):
        work_out(parse_plan({**PLAN, "candidates": [first, wider_heads]}))


def test_limits_on_the_growth_factor() -> None:
    factor = {"largest_factor": 3.0}
    worked = work_out(parse_plan({**PLAN, "operators": {"both": factor, "width": factor, "depth": factor}}))
    for path in worked.paths:
        numbers = [worked.candidates[place].parameters for place in path.sizes]
        assert all(large <= 3 * small for small, large in pairwise(numbers))


@pytest.mark.parametrize(
    ("replace", "said"),
    [
        ({"target": {"size": "large", "loss": 1.0}}, "no candidate reaches the target loss"),
        ({"target": {"flops": 1e6}}, "budget is below the smallest"),
        ({"target": {"size": "large"}}, "target: give one of loss, tokens and flops"),
        ({"target": {"size": "lage", "loss": 4.0}}, "target.size is no candidate"),
        ({"target": {"loss": float("nan")}}, "target.loss"),
        ({"targt": 1}, "did you mean target"),
        ({"law": {"kind": "chinchila"}}, "law"),
        (
            {"law": {"kind": "chinchilla", "constants": {**vars(LAW), "token_exponent": -1}}},
            "law.constants.token_exponent",
        ),
        ({"law": {"kind": "chinchilla", "versio": "published"}}, "did you mean version"),
        ({"law": {"kind": "fit"}}, "no curves are given"),
        ({"law": {"kind": "fit", "curves": [{"path": "none/*.jsonl"}]}}, "no curve file matches"),
        ({"law": {"kind": "fit", "curves": [{"path": "a", "parameters": {"m": "x"}}]}}, "of the run 'm'"),
        ({"law": {"kind": "fit", "curves": [{"path": "a", "parameters": [1]}]}}, "law.curves.0.parameters"),
        ({"law": {"kind": "fit", "curves": [{"path": "a", "parameters": {7: 1}}]}}, "its name in quotes"),
        ({"law": {"kind": "kaplan"}, "target": {"flops": 1e15}}, "law.batch_tokens is missing"),
        ({"candidates": [{"name": "a", "sizes": {"hidden_size": 16}}]}, "target.size"),
        ({"candidates": [{"name": "a"}], "target": {"loss": 4}}, "either sizes"),
        ({"model": {"model_type": "llama"}}, "model.vocab_size is missing"),
        ({"model": {"model_type": "lama", "vocab_size": 300}}, "llama"),
        ({"run": {"stages": []}}, "run.stages is what the plan decides"),
        ({"operators": {"both": {"lost_token": 5}}}, "did you mean lost_tokens"),
        ({"series": {"smallest": 5, "largest": 50}}, "either candidates or series"),
    ],
)
def test_mistakes_in_plans(write: Callable[..., Path], replace: dict[str, Any], said: str) -> None:
    assert said in refused("plan", write(**replace))


def test_mistakes_in_words(write: Callable[..., Path], curve_file: Path) -> None:
    assert "nothing to plan" in refused("plan")
    assert "is not a plan file" in refused("plan", curve_file)
    assert "need a plan.yaml" in refused("plan", "--fit", curve_file, "--set", "stages=2")
    assert "more than one plan file" in refused("plan", write(), write())
    shown = outgrow("plan", write(), "--set", "stages=1", "--json")
    assert len(json.loads(shown.stdout)["schedules"]) == 1


def test_the_example_works() -> None:
    example = Path(__file__).parents[2] / "examples" / "plan.yaml"
    facts = json.loads(outgrow("plan", example, "--json").stdout)
    assert facts["chosen_stages"] > 1


def test_a_rule_far_below_its_evidence_says_so() -> None:
    """G_stack's timing was fitted to 10^18 FLOPs and more; at 10^10 it asks for an endless first stage."""
    (row,) = [one for one in summary(work_out(parse_plan(PLAN)))["rules"] if "G_stack" in one["rule"]]
    assert row["saving"] is None
    assert "costs more than the baseline" in row["why_not"]


def test_a_chart_of_weights_and_biases_is_planned_from(
    write: Callable[..., Path], curve_file: Path, tmp_path: Path
) -> None:
    """The same points in the export's form give the same law."""
    lines = [line.split(",") for line in curve_file.read_text().splitlines()[1:]]
    lines = [[f"run {number}", number, tokens, loss] for _, number, tokens, loss in lines]
    runs = {run: number for run, number, _, _ in lines}
    header = ["train/num_input_tokens_seen"]
    header += [f"{run} - eval/loss{end}" for run in runs for end in ("", "__MIN", "__MAX")]
    rows = [",".join(f'"{name}"' for name in header)]
    for tokens in dict.fromkeys(tokens for _, _, tokens, _ in lines):
        found = {run: loss for run, _, at, loss in lines if at == tokens}
        rows.append(",".join([tokens, *(text for run in runs for text in [found.get(run, "")] * 3)]))
    chart = tmp_path / "chart.csv"
    chart.write_text("\n".join(rows))
    given = {"path": str(chart), "parameters": {run: float(number) for run, number in runs.items()}}
    plans = [
        json.loads(outgrow("plan", write(law={"kind": "fit", "curves": [curves]}), "--json").stdout)
        for curves in (given, {"path": str(curve_file)})
    ]
    assert plans[0]["schedules"] == plans[1]["schedules"]
