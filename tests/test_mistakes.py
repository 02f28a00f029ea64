"""Mistakes in run, plan and study files: a key of another kind of section is told as that, and every section knows its own keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from outgrow.comparing.study import StudyConfig, parse_study
from outgrow.errors import ConfigError
from outgrow.files.mistakes import _choices
from outgrow.planning.config import PlanConfig
from outgrow.planning.plan_file import load_plan, parse_plan
from outgrow.run.config import RunConfig
from outgrow.run.run_file import parse_run

PLAN = Path(__file__).parents[1] / "examples" / "plan.yaml"
SIZES = {"model_type": "llama", "vocab_size": 300}


def refused_run(**sections: Any) -> str:
    stages = [{"name": "a", "tokens": 64}, {"name": "b", "tokens": 64, **sections.pop("stage", {})}]
    run = {"output": "run", "model": SIZES, "data": {"tokenizer": {"vocab_size": 300}}, "stages": stages}
    with pytest.raises(ConfigError) as caught:
        parse_run({**run, **sections}, where="run.yaml")
    return str(caught.value)


def refused_plan(**law: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_plan({"target": {"loss": 3}, "series": {"smallest": 5, "largest": 50}, "law": law}, "plan.yaml")
    return str(caught.value)


def test_a_critical_batch_belongs_to_the_law_of_kaplan() -> None:
    said = (
        "plan.yaml: law.batch belongs to law.kind: kaplan, and here is law.kind: {kind}\n"
        "  to do:    give law.kind: kaplan, or leave batch out"
    )
    for kind in ("chinchilla", "fit"):
        assert refused_plan(kind=kind, batch="critical") == said.format(kind=kind)
    assert "give law.kind: fit, or leave curves out" in refused_plan(kind="kaplan", curves=[])
    constants = {"irreducible_loss": 1.7}
    assert "belongs to law.kind: chinchilla" in refused_plan(kind="kaplan", constants=constants)
    with pytest.raises(ConfigError, match=r"law\.batch belongs to law\.kind: kaplan"):
        load_plan(PLAN, ["law.kind=chinchilla", "law.batch=critical"])


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (
            {"until": {"loss": 3, "size_exponent": 0.1}},
            "size_exponent belongs to stages.1.until.trigger, and here",
        ),
        (
            {"until": {"loss": 3, "trigger": "efficiency"}},
            "until.trigger and stages.1.until.loss choose two kinds",
        ),
        (
            {"reentry": {"position": {"ratio": 2, "curve": "a"}}},
            "ratio and stages.1.reentry.position.curve choose",
        ),
        (
            {"grow": {"to": {"a": 1}, "learn": {"method": "lesa", "learning_rate": 1}}},
            "learning_rate belongs to stages.1.grow.learn.method: ligo or mango, and here is stages.1.grow.learn.method: lesa",
        ),
        (
            {"grow": {"to": {"a": 1}, "learn": {"hidden": 1}}},
            "give stages.1.grow.learn.method: lesa, or leave hidden out",
        ),
    ],
)
def test_a_key_of_another_kind_is_no_unknown_key(stage: dict[str, Any], said: str) -> None:
    message = refused_run(stage=stage)
    assert said in message
    assert "unknown key" not in message
    assert "  to do:    " in message


def test_what_the_run_s_own_sections_choose() -> None:
    assert "optimizer.momentum belongs to optimizer.name: sgd or muon, and here is optimizer.name: adamw" in (
        refused_run(optimizer={"momentum": 0.9})
    )
    assert "schedule.decay belongs to schedule.kind: wsd" in refused_run(
        schedule={"kind": "cosine", "decay": "sqrt"}
    )


def test_the_word_that_chooses_is_named() -> None:
    assert "unknown law.kind 'chinchila'\n  expected: did you mean chinchilla?" in refused_plan(
        kind="chinchila"
    )
    assert (
        refused_plan() == "plan.yaml: the key law.kind is missing\n  expected: one of chinchilla, fit, kaplan"
    )
    assert "the key schedule.kind is missing" in refused_run(schedule={"decay_share": 0.1})
    assert "unknown schedule.kind 'wsdd'" in refused_run(schedule={"kind": "wsdd"})


def places(form: type[BaseModel], inside: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section that a file may have, by its dotted place; a name of the user's own is `x`."""
    yield inside, form
    for name, field in form.model_fields.items():
        said, own = (
            field.serialization_alias or name,
            "x." if str(field.annotation).startswith("dict[") else "",
        )
        for section in sections(field.annotation):
            yield from places(section, f"{inside}{said}.{own}")


def sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for one in get_args(annotation):
        yield from sections(one)


@pytest.mark.parametrize("form", [RunConfig, PlanConfig, StudyConfig])
def test_every_section_knows_its_keys(form: type[BaseModel]) -> None:
    """Lists of sections that were kept by hand had forgotten some: an unknown key there met an empty list."""
    found = list(places(form))
    assert len(found) > 15
    for place, section in found:
        parts = place.split(".")[:-1]
        data: Any = None
        for part in reversed(parts):
            data = {part: data}
        assert section in [one.section for one in _choices(form, data, parts)], place


def test_sections_that_had_been_forgotten() -> None:
    assert "did you mean tensor?" in refused_run(parallel={"tensr": 2})
    study = {"common": {}, "arms": {"a": {"model": SIZES, "stages": [{"grow": {"too": {}}}]}}}
    with pytest.raises(ConfigError, match=r"arms\.a\.stages\.0\.grow\.too(.|\n)*did you mean to\?"):
        parse_study(study)


def test_mistakes_are_told_in_the_words_of_a_file() -> None:
    """Python's (tuples, dictionaries, instances of a class) are none of them."""
    study = {
        "arms": {"a": {"model": SIZES, "budgets": []}, "b": None},
        "budgets": 4,
        "early_stop": True,
        "common": {},
    }
    with pytest.raises(ConfigError) as caught:
        parse_study(
            {**study, "output": 5, "seeds": [0.5], "baseline": "a", "tuning": {"rates": [1e-3]}}, "s.yaml"
        )
    for line in (
        "output: expected text",
        "arms.a.budgets: expected at least 1 of them",
        "arms.b: expected keys and values, as {key: value}",
        "budgets: expected a list, as [1, 2]",
        "seeds.0: expected a whole number",
        "early_stop: expected keys and values, as {key: value}",
    ):
        assert f"s.yaml: {line}\n" in str(caught.value)
    assert "compile: expected true or false" in refused_run(compile="maybe")
