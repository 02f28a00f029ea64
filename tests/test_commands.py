"""Every command has one shape: `run(call, console) -> outcome`, and the command line is made from the fields of the call."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import io
import json
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from outgrow.cli import COMMANDS, app
from outgrow.commands import options
from outgrow.commands.outcome import Outcome
from outgrow.errors import ConfigError
from outgrow.parallel.process import leads

HERE = Path()
PLACES = {place: call for call, place in COMMANDS.values()}


@pytest.mark.parametrize("place", PLACES)
def test_a_command_is_run_of_a_call(place: str) -> None:
    call = PLACES[place]
    run = import_module(f"outgrow.commands.{place}").run
    asked, console = inspect.signature(run).parameters.values()
    hints = get_type_hints(run, localns={"Console": Console})
    assert (hints[asked.name], hints[console.name]) == (call, Console)
    outcomes = get_args(hints["return"]) if isinstance(hints["return"], UnionType) else (hints["return"],)
    for outcome in outcomes:
        assert issubclass(outcome, Outcome)
        assert not inspect.isabstract(outcome)
        assert dataclasses.is_dataclass(outcome)
    assert dataclasses.is_dataclass(call)
    assert "Example: [bold]outgrow" in str(call.__doc__)


def test_every_module_with_a_run_is_a_command() -> None:
    rooms = Path(options.__file__).parent
    assert {path.stem for path in rooms.glob("*.py") if "\ndef run(" in path.read_text()} == set(PLACES)


@pytest.mark.parametrize("words", COMMANDS)
def test_the_command_line_asks_for_what_the_call_holds(words: str) -> None:
    command: Any = typer.main.get_command(app)
    for word in words.split():
        command = command.commands[word]
    told = {one.name: one for one in command.params}
    assert set(told) == {field.name for field in dataclasses.fields(COMMANDS[words][0])} | {"as_json"}
    for field in dataclasses.fields(COMMANDS[words][0]):
        required = field.default is field.default_factory is dataclasses.MISSING
        assert told[field.name].required == required
        assert told[field.name].help, field.name


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: options.VerifyCall(HERE, HERE, device="tpu"), "device[^$]*tpu[^$]*cpu, cuda"),
        (lambda: options.ConvertCall(HERE, HERE, "mixtral", moments="copy"), "moments[^$]*transport, reset"),
        (lambda: options.LearnCall(HERE, HERE, [], method="lego"), "method[^$]*ligo, mango, lesa"),
        (lambda: options.LearnCall(HERE, HERE, [], moments="copied"), "moments[^$]*copied"),
        (lambda: options.GrowCall(HERE, HERE, format="pickle"), "format[^$]*pickle"),
        (lambda: options.GrowCall(HERE, HERE, moments="trnsport"), "moments[^$]*transport"),
    ],
)
def test_a_word_that_is_no_choice_is_refused_in_python_too(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_a_call_in_python_is_the_command() -> None:
    """The same value, the same table, the same JSON."""
    for name, said in (("", "isometric"), ("lemon", "LEMON")):
        outcome = import_module("outgrow.commands.operators").run(
            options.OperatorsCall(name), Console(quiet=True)
        )
        told = Console(file=io.StringIO(), width=130)
        outcome.show(told)
        assert said in told.file.getvalue()  # type: ignore[attr-defined]
        done = CliRunner().invoke(app, ["operators", *([name] if name else []), "--json"])
        assert json.loads(done.stdout) == json.loads(json.dumps(outcome.to_json()))


def test_garbage_is_looked_for_while_a_command_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """`main` puts the collector off for the imports alone: a model in a cycle would stay for a whole training."""
    module = import_module("outgrow.commands.operators")
    run, found = module.run, []
    monkeypatch.setattr(module, "run", lambda *given: (found.append(gc.isenabled()), run(*given))[1])
    gc.disable()
    try:
        assert CliRunner().invoke(app, ["operators"]).exit_code == 0
    finally:
        gc.enable()
    assert found == [True]


def test_of_several_processes_the_first_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    assert leads()
    monkeypatch.setenv("WORLD_SIZE", "2")
    printed = {}
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        printed[rank] = [CliRunner().invoke(app, ["operators", *json_]).stdout for json_ in ([], ["--json"])]
    assert all(printed["0"])
    assert printed["1"] == ["", ""]
