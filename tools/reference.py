"""The reference pages that are written from the code: `python tools/reference.py docs/reference`.

cli.md        every command and option, from the command line itself
run-yaml.md   every key of a run file, from the sections' fields
python.md     every public name of `outgrow`, from its signature and docstring
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from typer.models import ArgumentInfo

import outgrow
from outgrow.cli import app
from outgrow.run.config import RunConfig

WRITTEN = "<!-- Written by `python tools/reference.py docs/reference`: change the code. -->"


def cli() -> str:
    """One section per command: what it does, its arguments and its options."""
    text = [
        "# Command line",
        WRITTEN,
        "Every command has `--help`.",
    ]
    for name, function in _commands():
        rows = [
            _argument(parameter)
            for parameter in inspect.signature(function, eval_str=True).parameters.values()
            if parameter.name != "context"
        ]
        table = "| argument or option | default | meaning |\n|---|---|---|\n" + "\n".join(rows)
        text += [f"## {name}", _plain(inspect.getdoc(function) or ""), table if rows else ""]
    return "\n\n".join(filter(None, text)) + "\n"


def _commands() -> Iterator[tuple[str, Callable[..., Any]]]:
    """What is typed, and the function behind it: options of all commands, commands, groups and their commands."""

    def named(info: Any) -> tuple[str, Callable[..., Any]]:
        function = info.callback
        return info.name or function.__name__.replace("_", "-"), function

    if app.registered_callback is not None and app.registered_callback.callback is not None:
        yield "outgrow", app.registered_callback.callback
    for command in app.registered_commands:
        name, function = named(command)
        yield f"outgrow {name}", function
    for group in app.registered_groups:
        inner = group.typer_instance
        assert inner is not None
        if inner.registered_callback is not None and inner.registered_callback.callback is not None:
            yield f"outgrow {group.name}", inner.registered_callback.callback
        for command in inner.registered_commands:
            name, function = named(command)
            yield f"outgrow {group.name} {name}", function


def _argument(parameter: inspect.Parameter) -> str:
    """A row: how an argument or option is written, what it is when left out, what it means."""
    kind, info = get_args(parameter.annotation)[:2]
    default = parameter.default
    if isinstance(info, ArgumentInfo):
        spelled = parameter.name.upper()
    else:
        given = [word for word in (info.default, *(info.param_decls or ())) if str(word).startswith("-")]
        spelled = " ".join(map(str, given)) or f"--{parameter.name.replace('_', '-')}"
    missing = "required" if default is inspect.Parameter.empty else _default(default or None)
    meaning = " ".join(filter(None, [_plain(info.help or ""), _allowed(kind)]))
    return f"| `{spelled}` | {'' if default is False else missing} | {_cell(meaning)} |"


def run_yaml() -> str:
    """One table per section, with every key, its default and its meaning."""
    text = [
        "# run.yaml",
        WRITTEN,
        "`outgrow train run.yaml` reads this file. `--set a.b=1` changes a key; unknown keys are errors that name the near ones. "
        "How the parts play together stands in [training](training.md).",
    ]
    seen: set[type[BaseModel]] = set()
    waiting: list[tuple[str, type[BaseModel]]] = [("", RunConfig)]
    while waiting:
        place, model = waiting.pop(0)
        if model in seen:
            continue
        seen.add(model)
        words = inspect.getdoc(model) or ""
        text.append(f"## {f'`{place}`: ' if place else ''}{_title(model)}\n\n{_plain(words)}")
        meanings, rows = _meanings(model), []
        for name, field in model.model_fields.items():
            key = field.serialization_alias or field.alias or name
            default = (
                "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
            )
            allowed = _allowed(field.annotation)
            meaning = " ".join(filter(None, [meanings.get(name, ""), allowed]))
            rows.append(f"| `{key}` | {default} | {_cell(meaning)} |")
            inside = f"{place}.{key}" if place else key
            waiting += [(inside, other) for other in _sections(field.annotation)]
        text.append("| key | default | meaning |\n|---|---|---|\n" + "\n".join(rows) if rows else "No keys.")
    return "\n\n".join(text) + "\n"


def python() -> str:
    """One section per public name."""
    text = [
        "# Python",
        WRITTEN,
        "Everything stands in `outgrow`; names are imported when they are asked for.",
    ]
    for name in sorted(outgrow.__all__, key=str.lower):
        value = getattr(outgrow, name)
        if not callable(value):
            continue
        text.append(f"## outgrow.{name}")
        if inspect.isclass(value):
            text.append(_docs(value))
            for method, function in vars(value).items():
                raw = function.__func__ if isinstance(function, classmethod | staticmethod) else function
                if method.startswith("_") or not inspect.isfunction(raw):
                    continue
                text += [f"### {name}.{method}", _signature(method, raw), _docs(raw)]
        else:
            text += [_signature(name, value), _docs(value)]
    return "\n\n".join(filter(None, text)) + "\n"


def _signature(name: str, function: Any) -> str:
    words = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(function)))
    words = re.sub(r"<function [^,)]*?>+(?: at 0x[0-9a-f]+>)?", "...", words)
    return f"```python\n{name}{words}\n```"


def _docs(value: Any) -> str:
    """A docstring as markdown: examples become code."""
    out: list[str] = []
    code = False
    for line in (inspect.getdoc(value) or "").splitlines():
        inside = line.startswith((">>>", "...")) or (code and bool(line.strip()))
        if inside != code:
            out.append("```python" if inside else "```")
            code = inside
        out.append(line)
    return "\n".join([*out, "```"] if code else out)


def _title(model: type[BaseModel]) -> str:
    named = model.model_fields.get("name")
    if named is not None and get_origin(named.annotation) is Literal:
        return f"`name: {get_args(named.annotation)[0]}`"
    name = model.__name__.removesuffix("Config")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower() if name != "Run" else "the file"


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """The string below each field, own or inherited."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if kind.__module__.split(".")[0] != "outgrow":
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, words in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(words, ast.Expr)
                and isinstance(words.value, ast.Constant)
            ):
                found[field.target.id] = " ".join(str(words.value.value).split())
    return found


def _parts(annotation: Any) -> Iterator[Any]:
    """The annotation's leaves: what a union, a list or an annotation is made of."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif origin in (Union, UnionType, tuple, list, dict):
        for part in get_args(annotation):
            yield from _parts(part)
    elif hasattr(annotation, "__value__"):
        yield from _parts(annotation.__value__)
    else:
        yield annotation


def _sections(annotation: Any) -> list[type[BaseModel]]:
    return [part for part in _parts(annotation) if inspect.isclass(part) and issubclass(part, BaseModel)]


def _allowed(annotation: Any) -> str:
    words = [
        str(word) for part in _parts(annotation) if get_origin(part) is Literal for word in get_args(part)
    ]
    return f"One of {', '.join(f'`{word}`' for word in words)}." if len(words) > 1 else ""


def _default(value: Any) -> str:
    if value is None or value is PydanticUndefined:
        return "none"
    if isinstance(value, BaseModel) or (
        isinstance(value, tuple) and value and isinstance(value[0], BaseModel)
    ):
        return "see below"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


def _plain(words: str) -> str:
    return re.sub(r"\[/?(?:bold|dim|italic)?\]", "", words).strip()


def _cell(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|")


PAGES = {"cli.md": cli, "run-yaml.md": run_yaml, "python.md": python}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (Path(sys.argv[1]) / name).write_text(page(), encoding="utf-8")
