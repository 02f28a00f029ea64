"""Mistakes in a file of sections, told by key: what is unknown, what is missing, and what belongs to another kind of section.

A section may be of several kinds (a law: chinchilla, kaplan, fit). The file chooses one, by a word (`kind: kaplan`) or by a key
that no other has (`loss: 3.2`); a key of another kind is no unknown key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from outgrow.errors import brief, cut, near

_MOST_MISTAKES = 20
_WANTED = {
    "tuple_type": "a list, as [1, 2]",
    "list_type": "a list, as [1, 2]",
    "dict_type": "keys and values, as {{key: value}}",
    "model_type": "keys and values, as {{key: value}}",
    "model_attributes_type": "keys and values, as {{key: value}}",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
}
"""What pydantic says in Python's words, in those of a file."""


def explain(
    error: ValidationError,
    data: Mapping[str, Any],
    place: str | Callable[[Sequence[int | str]], str],
    form: type[BaseModel],
) -> str:
    """One block per mistake of a file of this form: the dotted key, what was found, what is expected, what to do.

    `place` is the file, or what says it with the line of a key.
    """
    blocks, where = [], place if isinstance(place, str) else place(())
    for problem in error.errors()[:_MOST_MISTAKES]:
        kind, given = problem["type"], problem["input"]
        if kind == "too_short" and given:
            continue  # pydantic counts only the valid items; their own mistakes are already listed
        parts = _location(problem["loc"], data, missing=kind == "missing")
        key = ".".join(map(str, parts))
        where = place if isinstance(place, str) else place(parts)
        choices = _choices(form, data, parts) if kind.startswith("union_tag") else []
        tag = choices[0].by if choices else ""
        words = [word for one in choices for word in one.words]
        if kind == "extra_forbidden":
            text = f"{where}: {_unknown(key, str(parts[-1]), _choices(form, data, parts[:-1]))}"
        elif kind == "union_tag_invalid" and words:
            said = str(problem["ctx"]["tag"])
            text = f"{where}: unknown {tag} '{said}'\n  expected: {near(said, words)}"
        elif kind == "union_tag_not_found" and words and isinstance(given, Mapping):
            text = f"{where}: the key {tag} is missing\n  expected: one of {', '.join(sorted(words))}"
        elif kind == "missing":
            text = f"{where}: the key {key} is missing"
        else:
            text = f"{f'{where}: {key}' if key else where}: {_said(kind, problem)}"
            text += "" if isinstance(given, dict) else f"\n  got:      {brief(given)}"
        blocks.append(text)
    if error.error_count() > _MOST_MISTAKES:
        blocks.append(f"{where}: {error.error_count() - _MOST_MISTAKES} mistakes more")
    return "\n".join(map(cut, blocks))


def _said(kind: str, problem: Mapping[str, Any]) -> str:
    """What is wrong with a value."""
    if kind in _WANTED:
        return "expected " + _WANTED[kind].format(**problem.get("ctx", {}))
    return str(problem["msg"]).removeprefix("Value error, ")


def _location(location: tuple[int | str, ...], data: Any, *, missing: bool) -> list[int | str]:
    """The place in the user's file: pydantic also names the branch of a union, which is not a key."""
    parts: list[int | str] = []
    for position, part in enumerate(location):
        last = position == len(location) - 1
        in_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if in_list or (isinstance(data, Mapping) and part in data):
            parts.append(part)
            data = data[part]
        elif last and missing:
            parts.append(part)
    return parts


@dataclass(frozen=True)
class _Choice:
    """A kind of section that may stand at a place, what chooses it, and whether the file does."""

    section: type[BaseModel]
    by: str = ""
    """The key that chooses it, as `law.kind`; empty where nothing was to be chosen."""
    words: tuple[str, ...] = ()
    """What that key says then; nothing, where the key alone chooses it."""
    chosen: bool = True

    @property
    def keys(self) -> list[str]:
        """The keys that it has, as a file says them."""
        return [name for name, _ in _fields(self.section)]


def _unknown(key: str, last: str, choices: Sequence[_Choice]) -> str:
    """What is wrong with a key that the chosen kind of section does not have."""
    others = [one for one in choices if last in one.keys]
    here = [one for one in choices if one.chosen and one not in others]
    if not (others and here):
        known = {name for one in here or choices for name in one.keys}
        return f"unknown key {key}\n  expected: {near(last, known)}"
    if others[0].by == key:
        return f"{key} and {here[0].by} choose two kinds of section\n  to do:    leave one of them out"
    belongs, own = _told(others), _told(here)
    return f"{key} belongs to {belongs}, and here is {own}\n  to do:    give {belongs}, or leave {last} out"


def _told(choices: Sequence[_Choice]) -> str:
    words = " or ".join(word for one in choices for word in one.words)
    return f"{choices[0].by}: {words}" if words else choices[0].by


def _choices(form: type[BaseModel], data: Any, parts: Sequence[int | str]) -> list[_Choice]:
    """All kinds of section that may stand at a place of a file, those included that the file has not chosen."""
    found, name_is_free, place = [_Choice(form)], False, ""
    for part in parts:
        data, place = data[part], f"{place}.{part}" if place else str(part)
        if isinstance(part, int) or name_is_free:  # of a list, or of a map whose names are the user's
            name_is_free = False
            continue
        fields = [(one, field) for one in found for name, field in _fields(one.section) if name == part]
        name_is_free = any(get_origin(field.annotation) is dict for _, field in fields)
        found = [inner for one, field in fields for inner in _variants(one, field.annotation, place, data)]
    return found


def _variants(outer: _Choice, annotation: Any, place: str, data: Any) -> Iterator[_Choice]:
    """The kinds of section that an annotation allows; one alone is chosen by what chose the section around it."""
    sections, said = list(_sections(annotation)), data if isinstance(data, Mapping) else {}
    tag = _tag(sections)
    for section in sections:
        if len(sections) == 1:
            yield replace(outer, section=section)
        elif tag:
            words, usual = get_args(section.model_fields[tag].annotation), section.model_fields[tag].default
            yield _Choice(section, f"{place}.{tag}", words, outer.chosen and said.get(tag, usual) in words)
        else:
            mark = next(name for name, field in _fields(section) if field.is_required())
            yield _Choice(section, f"{place}.{mark}", (), outer.chosen and mark in said)


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections in an annotation, whatever stands around them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def _fields(section: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """The fields of a section under the names that a file gives them."""
    for name, field in section.model_fields.items():
        yield field.serialization_alias or name, field


def _tag(sections: Sequence[type[BaseModel]]) -> str:
    """The key whose word chooses among sections: in all of them a `Literal`, and no word in two; empty where there is none."""
    for name in sections[0].model_fields if len(sections) > 1 else ():
        kinds = [one.model_fields[name].annotation if name in one.model_fields else None for one in sections]
        words = [word for kind in kinds for word in get_args(kind)]
        if all(get_origin(kind) is Literal for kind in kinds) and len(set(words)) == len(words):
            return name
    return ""
