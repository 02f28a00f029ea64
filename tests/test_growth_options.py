"""How to grow, as one value: what was said, what is usual, and what cannot be."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

import outgrow
from outgrow.errors import GrowthError
from outgrow.growth.target import target
from outgrow.methods.build import build
from outgrow.methods.options import USUAL, GrowthOptions
from outgrow.models.architecture import resolve
from outgrow.run.grow_config import GrowConfig

NAMES = [field.name for field in dataclasses.fields(GrowthOptions)]
SAID: dict[str, Any] = {
    "width": "isometric",
    "depth": "identity",
    "experts": "copy",
    "noise": 0.0,
    "seed": 3,
    "moments": "reset",
}


def test_nothing_said_is_as_usual() -> None:
    assert GrowthOptions().said == ()
    assert GrowthOptions().filled == USUAL


@pytest.mark.parametrize("name", NAMES)
def test_one_option_said_changes_that_one_alone(name: str) -> None:
    options = GrowthOptions.of({name: SAID[name]})
    assert options.said == (name,)
    changed = {key for key, value in vars(options.filled).items() if value != getattr(USUAL, key)}
    assert changed == {name} & set(vars(USUAL))


def test_zero_is_said() -> None:
    """Zero is no "not said": it is the one noise that adds nothing."""
    assert GrowthOptions(noise=0.0, seed=0).said == ("noise", "seed")
    assert GrowthOptions(noise=0.0).filled.noise == 0.0


def test_a_default_that_is_passed_on_is_not_said() -> None:
    assert GrowthOptions.unusual(**vars(USUAL), width=None, experts=None) == GrowthOptions()
    assert GrowthOptions.unusual(**SAID) == GrowthOptions(**SAID)


def test_options_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GrowthOptions().width = "pad"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"width": 3}, r"width names an operator[\s\S]*got: +3"),
        ({"depth": ["stack"]}, r"depth names an operator[\s\S]*got: +\['stack'\]"),
        ({"experts": True}, r"experts names an operator[\s\S]*got: +True"),
        ({"noise": -0.1}, r"noise is a standard deviation[\s\S]*-0\.1[\s\S]*0 to 1000"),
        ({"noise": float("nan")}, r"noise is a standard deviation[\s\S]*nan"),
        ({"noise": 10**400}, "noise is a standard deviation"),
        ({"noise": "0.1"}, r"noise is a standard deviation[\s\S]*'0\.1'"),
        ({"seed": 1.5}, r"seed is a whole number[\s\S]*1\.5"),
        ({"seed": "a"}, r"seed is a whole number[\s\S]*'a'"),
        ({"moments": "transprot"}, "unknown way to grow moments.*did you mean transport"),
        ({"moments": ["reset"]}, "unknown way to grow moments"),
        ({"widht": "pad"}, r"unknown option of a growth: 'widht' \(did you mean width"),
    ],
)
def test_what_cannot_be_is_told(how: dict[str, Any], says: str) -> None:
    with pytest.raises(GrowthError, match=says):
        GrowthOptions.of(how)


def test_every_door_has_the_same_defaults() -> None:
    """Python calls, the assembly of operators and run files."""
    usual = {**dict.fromkeys(NAMES), **vars(USUAL)}
    for door, others in (
        (outgrow.plan_growth, set[str]()),
        (outgrow.grow, {"moments"}),  # None: a fitted operator's usual is another
        (build, {"moments", "noise"}),  # it makes the maps alone, and adds nothing unasked
    ):
        found = {
            name: one.default for name, one in inspect.signature(door).parameters.items() if name in NAMES
        }
        assert {name: value for name, value in found.items() if value != usual[name]}.keys() <= others
        assert set(NAMES) - set(found) <= others
    written = GrowConfig(to={"n_layer": 2})
    assert {name: getattr(written, name) for name in NAMES} == usual
    assert written.options.filled == USUAL


@pytest.mark.parametrize("name", NAMES)
def test_a_run_file_says_what_it_says(name: str) -> None:
    options = GrowConfig.model_validate({"to": {"n_layer": 2}, name: SAID[name]}).options
    assert getattr(options, name) == SAID[name]
    assert set(options.said) == {name, "moments"}


def test_a_callback_refuses_its_options_when_it_is_made() -> None:
    with pytest.raises(GrowthError, match="unknown option of a growth: 'dept'"):
        outgrow.GrowAt(steps=1, to={"n_layer": 2}, dept="stack")


def test_more_key_value_heads_than_heads_are_refused() -> None:
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "vocab_size": 11,
        "num_hidden_layers": 1,
        "head_dim": 8,
    }
    small = resolve({"model_type": "llama", **sizes, "num_attention_heads": 4, "num_key_value_heads": 2})
    with pytest.raises(GrowthError, match="6 key/value heads are more than the heads") as refused:
        target(small, {"num_attention_heads": 5, "num_key_value_heads": 6})
    assert "num_attention_heads=6" in str(refused.value)
