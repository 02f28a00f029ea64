"""What a state remembers of its growths: read, written, and refused where it is something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from outgrow.errors import CheckpointError
from outgrow.state.growing import grow
from outgrow.state.lineage import replay
from outgrow.state.training_state import TrainingState
from outgrow.store.card import model_card
from outgrow.store.contents import Contents
from outgrow.store.growth_log import GROWTHS, logged_lineage
from outgrow.store.lineage import Lineage, LineageEntry
from outgrow.store.safetensors_folder import LINEAGE, read_lineage

HOW = {"width": "pad", "depth": "stack", "moments": "transport", "noise": 0.1, "seed": 0}
GROWN: dict[str, Any] = {"growth": {"to": {"n_layer": 4}, **HOW}, "from": {"layers": 2}, "to": {"layers": 4}}
FITTED: dict[str, Any] = {"growth": {"operator": "0f" * 16, "moments": "reset"}, "fields": {"n_layer": 4}}
CONVERTED: dict[str, Any] = {
    "conversion": {"from": "llama", "to": "mixtral", "moments": "transport", "seed": 0}
}


def test_the_three_kinds_of_entries_are_told_apart() -> None:
    grown, fitted, converted = Lineage.read([GROWN, FITTED, CONVERTED], "here").entries
    assert (grown.sizes_asked, grown.operators) == ({"n_layer": 4}, HOW)
    assert grown.sizes == ({"layers": 2}, {"layers": 4})
    assert (fitted.fitted, fitted.sizes_asked, fitted.operators) == ("0f" * 16, None, {"moments": "reset"})
    assert converted.conversion is not None
    assert vars(converted.conversion) == {
        "before": "llama",
        "after": "mixtral",
        "moments": "transport",
        "seed": 0,
    }
    assert grown.conversion is fitted.conversion is grown.fitted is converted.fitted is None


def test_a_lineage_is_its_json() -> None:
    """The same entries in the same order of keys: formats stay, and whoever reads a state sees what is in its file."""
    content = [GROWN, {"of another time": {"kept": [1, None]}}]
    lineage = Lineage.parse(json.dumps(content), "here")
    assert json.dumps(lineage) == json.dumps(content)
    assert lineage == tuple(content)
    assert lineage[0]["growth"]["to"] == {"n_layer": 4}


def test_a_growth_more_leaves_the_lineage_before_it() -> None:
    before = Lineage([GROWN])
    after = before.then(LineageEntry(FITTED))
    said = after.with_last(after.last.saying(files={"grown": ["a"]}))
    assert before == (GROWN,)
    assert after == (GROWN, FITTED)
    assert said == (GROWN, {**FITTED, "files": {"grown": ["a"]}})
    assert "files" not in FITTED


def test_only_an_entry_without_an_inventory_lacks_one() -> None:
    assert LineageEntry({"files": {}}).lacks_files
    assert not LineageEntry({}).lacks_files
    assert not LineageEntry({"files": {"grown": []}}).lacks_files


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"growth": 3}, r"'growth' of a lineage entry is not an object[\s\S]*got: +3"),
        ({"growth": {"to": ["n_layer"]}}, r"'growth\.to' .* is not an object[\s\S]*\['n_layer'\]"),
        ({"growth": {"operator": 1}}, r"'growth\.operator' .* is not a text"),
        ({"growth": {"width": None}}, r"'growth\.width' .* is not a text"),
        ({"growth": {"noise": "0.1"}}, r"'growth\.noise' .* is not a number[\s\S]*'0\.1'"),
        ({"growth": {"noise": True}}, r"'growth\.noise' .* is not a number"),
        ({"growth": {"noise": float("nan")}}, r"'growth\.noise' .* is not a number"),
        ({"growth": {"seed": 0.5}}, r"'growth\.seed' .* is not a whole number"),
        ({"conversion": "mixtral"}, r"'conversion' .* is not an object"),
        ({"conversion": {"from": 1}}, r"'conversion\.from' .* is not a text"),
        ({"from": [1]}, r"'from' .* is not an object"),
        ({"files": []}, r"'files' .* is not an object"),
        ({"moments": {}}, r"'moments' .* is not a text"),
        ({"axes": {}}, r"'axes' .* is not a list"),
        ({"axes": [1]}, r"'axes' .* is not a list of objects"),
    ],
)
def test_another_kind_of_value_is_told_with_its_place(entry: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        LineageEntry(entry)
    with pytest.raises(CheckpointError, match=r"outgrow\.json, growth 2 of 2: " + says):
        Lineage.read([GROWN, entry], "outgrow.json")


@pytest.mark.parametrize("content", [None, 3, {}, "x", [3], [None], [[]]])
def test_what_is_no_list_of_growths_is_refused(content: Any) -> None:
    with pytest.raises(CheckpointError, match="here is not a list of growths"):
        Lineage.read(content, "here")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="here is not valid JSON"):
        Lineage.parse(text, "here")


def test_every_place_of_a_lineage_names_itself() -> None:
    with pytest.raises(CheckpointError, match=f"metadata {LINEAGE} of these weights, growth 1 of 1"):
        read_lineage({LINEAGE: '[{"growth": 3}]'})
    with pytest.raises(CheckpointError, match=r"log of trainer_state\.json, growth 1 of 1"):
        logged_lineage({"log_history": [{GROWTHS: [{"growth": 3}]}]})
    assert read_lineage({}) == logged_lineage(None) == Lineage()


def test_any_entries_in_a_row_are_a_states_lineage(state: TrainingState) -> None:
    assert replace(state, lineage=(GROWN,)).lineage.last == LineageEntry(GROWN)  # type: ignore[arg-type]
    assert Contents(state.config, state.source).lineage == Lineage()


def test_a_state_never_grown_has_no_last_growth() -> None:
    with pytest.raises(CheckpointError, match=r"no lineage[\s\S]*grow it with outgrow"):
        _ = Lineage().last


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda entry: entry.update(growth={}), r"does not say how[\s\S]*expected: growth\.to"),
        (lambda entry: entry.pop("growth"), r"does not say how[\s\S]*expected: growth\.to"),
        (lambda entry: entry.update(growth={"operator": "0f"}), r"does not say how[\s\S]*growth\.moments"),
        (
            lambda entry: entry["growth"].update(heads=3),
            "does not say how.*unknown option of a growth: 'heads'",
        ),
        (lambda entry: entry["growth"].update(moments="x"), "does not say how.*unknown way to grow moments"),
        (lambda entry: entry["growth"].update(noise=-1), "does not say how.*noise is a standard deviation"),
        (lambda entry: entry.update(conversion={}), r"how the state was converted[\s\S]*conversion\.from"),
    ],
)
def test_a_growth_that_cannot_be_done_again_is_told(
    state: TrainingState, change: Callable[[dict[str, Any]], Any], says: str
) -> None:
    entry = json.loads(json.dumps(GROWN))
    change(entry)
    with pytest.raises(CheckpointError, match=says):
        replay(state.config, LineageEntry(entry))


def test_a_damaged_lineage_is_refused_when_a_state_is_opened(state: TrainingState, tmp_path: Path) -> None:
    grown = grow(state, to={"num_hidden_layers": state.config["num_hidden_layers"] + 1})
    for format in ("native", "trainer", "hub"):
        folder = grown.save_pretrained(tmp_path / format, format=format)  # type: ignore[arg-type]
        assert TrainingState.from_pretrained(folder).lineage == grown.lineage
    file = tmp_path / "native" / "outgrow.json"
    content = json.loads(file.read_text())
    content["lineage"][0]["growth"]["seed"] = "0"
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"outgrow\.json: lineage, growth 1 of 1: 'growth\.seed'"):
        TrainingState.from_pretrained(file.parent)


def test_a_card_tells_every_kind() -> None:
    card = model_card({"model_type": "gpt2"}, Lineage([GROWN, FITTED, CONVERTED]))
    assert "outgrow grow SMALL LARGE --to n_layer=4 --width pad --depth stack" in card
    assert card.count("outgrow grow SMALL") == 1, "a fitted operator has no command, a conversion neither"
    assert "llama → mixtral" in card
