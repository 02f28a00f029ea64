"""The command line: a table of commands. It parses words into a call, does it, and prints what it came to.

Each command is `run(call, console) -> outcome` of its module (`commands/outcome.py`); its arguments and options are the
fields of its call (`commands/options.py`). Exit codes are told in `commands/ending.py`.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from importlib import import_module
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from outgrow.commands import options
from outgrow.commands.console import open_console
from outgrow.commands.ending import ended
from outgrow.files.faulting import say_bus_errors
from outgrow.parallel.process import end_process, launched, leads

COMMANDS: dict[str, tuple[type, str]] = {
    "inspect": (options.InspectCall, "inspect"),
    "grow": (options.GrowCall, "grow"),
    "convert": (options.ConvertCall, "convert"),
    "export": (options.ExportCall, "export"),
    "operators": (options.OperatorsCall, "operators"),
    "learn": (options.LearnCall, "learn"),
    "verify": (options.VerifyCall, "verify"),
    "train": (options.TrainCall, "train"),
    "quickstart": (options.QuickstartCall, "quickstart"),
    "plan": (options.PlanCall, "plan"),
    "compare": (options.CompareCall, "compare"),
    "architectures": (options.ArchitecturesCall, "architectures"),
    "architectures check": (options.CheckCall, "check"),
}
"""What is typed -> the value that it becomes, and the module of `outgrow.commands` whose `run` takes it."""

_SHARED = ("train", "grow", "export")
"""Whose work the processes of one launch share; any other is done by the first of them, and the others have nothing to do."""

app = typer.Typer(
    help="Grow a transformer in the middle of its training: weights, Adam moments and schedule.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def _do(place: str, call: Any, *, as_json: bool) -> None:
    """Do a call, and print what it came to; of several processes of one launch the first prints. Exit 1: a proof failed."""
    if place not in _SHARED and not leads():
        return
    console = open_console(quiet=as_json or not leads())
    module = import_module(f"outgrow.commands.{place}")
    gc.enable()
    outcome = module.run(call, console)
    if not as_json:
        outcome.show(console)
    elif leads():
        print(json.dumps(outcome.to_json(), indent=2, default=str))
    if outcome.failed:
        raise typer.Exit(1)


def _command_of(call: type, place: str) -> Callable[..., None]:
    """A function as typer reads them: its parameters are the fields of a call, and `--json`."""

    def command(*, as_json: bool, **words: Any) -> None:
        _do(place, call(**words), as_json=as_json)

    hints = get_type_hints(call, include_extras=True)
    parameters = [_parameter(one.name, hints[one.name], _default(one)) for one in fields(call)]
    parameters.append(_parameter("as_json", Json, False))
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__doc__ = call.__doc__
    return command


def _parameter(name: str, kind: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _default(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return Parameter.empty if field.default is MISSING else field.default


def _say_version(asked: bool) -> None:
    if asked:
        from outgrow import __version__

        print(f"outgrow {__version__}")
        raise typer.Exit


@app.callback()
def before_all(
    architectures: Annotated[
        list[Path],
        typer.Option(
            "--architectures",
            help="A folder of architecture files of your own. Repeat for more. Also: OUTGROW_ARCHITECTURES.",
            show_default=False,
        ),
    ] = [],  # noqa: B006
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version, and stop."),
    ] = False,
) -> None:
    """Grow a transformer in the middle of its training: weights, Adam moments and schedule."""
    from outgrow.models.files import use_folders

    use_folders(architectures)


architectures_app = typer.Typer(rich_markup_mode="rich")
app.add_typer(architectures_app, name="architectures")


def _list_architectures(context: typer.Context, as_json: Json = False) -> None:
    if context.invoked_subcommand is None:
        _do("architectures", options.ArchitecturesCall(), as_json=as_json)


_list_architectures.__doc__ = options.ArchitecturesCall.__doc__

for _words, (_call, _place) in COMMANDS.items():
    match _words.split():
        case ["architectures"]:
            architectures_app.callback(invoke_without_command=True)(_list_architectures)
        case ["architectures", _name]:
            architectures_app.command(_name)(_command_of(_call, _place))
        case _:
            app.command(_words)(_command_of(_call, _place))


def main() -> None:
    """Entry point: `ending` says how it ends."""
    # before imports: they make a million objects that are no garbage, and to look for it there was a fifth of the start;
    # `_do` turns it on, for a command that works, and those of transformers come after that
    gc.disable()
    gc.set_threshold(50_000)
    # before torch: spinning threads starve a shared machine
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # before transformers: our messages are the ones that count
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    say_bus_errors()
    code = ended(app)
    gc.freeze()  # the system takes all memory back at once; to look for cycles before was a quarter of a small growth
    if launched():
        end_process(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
