"""Where architecture files are found, and how one that extends another is put together.

A model type's file is the first `<model_type>.yaml` of

    the folders of $OUTGROW_ARCHITECTURES (or --architectures), in their order
    packages that an installed distribution names as entry points of the group `outgrow.architectures`
    outgrow's own files
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from outgrow.errors import ArchitectureError, ConfigError, near
from outgrow.files.yaml_file import parse_yaml
from outgrow.models.expressions import FIELD, fields

FOLDERS = "OUTGROW_ARCHITECTURES"
"""Environment variable: folders of architecture files, separated as in PATH."""
GROUP = "outgrow.architectures"
"""Entry points of packages that hold architecture files."""


def folders() -> tuple[Traversable, ...]:
    """Folders of architecture files: the user's, those of installed packages, outgrow's own."""
    found: list[Traversable] = []
    for folder in filter(None, os.environ.get(FOLDERS, "").split(os.pathsep)):
        if not Path(folder).is_dir():
            raise ArchitectureError(f"{folder} is no folder of architecture files", fix=f"mend ${FOLDERS}")
        found.append(Path(folder))
    return (*found, *_installed(), files("outgrow") / "architectures")


@cache
def _installed() -> tuple[Traversable, ...]:
    """Folders of installed packages, asked once: it reads the metadata of every installed distribution."""
    found = sorted(entry_points(group=GROUP), key=lambda one: one.name)
    return tuple(files(entry.value) for entry in found)


def use_folders(paths: Sequence[Path]) -> None:
    """Search these folders first, in this process and in those that it starts."""
    if paths:
        before = filter(None, [os.environ.get(FOLDERS)])
        os.environ[FOLDERS] = os.pathsep.join([*(str(path.resolve()) for path in paths), *before])
        folders()


def known() -> tuple[str, ...]:
    """Model types that have an architecture file.

    >>> "llama" in known()
    True
    """
    names = {entry.name for folder in folders() for entry in folder.iterdir()}
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def file_of(model_type: str) -> Traversable | None:
    """The file of a model type, or None."""
    return next(iter(_files_of(model_type)), None)


def is_ours(path: Traversable) -> bool:
    """Whether a file came with outgrow, and not from a folder or a package of the user's."""
    return isinstance(path, Path) and path.parent == Path(str(files("outgrow") / "architectures"))


def _files_of(model_type: str) -> list[Traversable]:
    """All files of a model type: the first counts, and may extend the next."""
    if not re.fullmatch(r"[\w-]+", model_type):
        return []
    found = (folder / f"{model_type}.yaml" for folder in folders())
    return [path for path in found if path.is_file()]


def merged(model_type: str, inner: tuple[str, ...] = ()) -> dict[str, Any]:
    """The content of a file, with what it extends, renames and puts under another config worked in.

    A file that extends its own model type extends the next file of that name. `inner` are the files that led here.
    """
    place = inner.count(model_type)
    found = _files_of(model_type)
    if place >= len(found):
        why = "extends itself" if place else "is extended, and there is no file of it"
        raise ArchitectureError(
            f"the architecture file of '{model_type}' {why} ({near(model_type, known())})",
            got=" extends ".join((*inner, model_type)),
        )
    return _put_together(read(found[place]), (*inner, model_type))


def read(path: Traversable) -> dict[str, Any]:
    """One architecture file as plain data."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise ArchitectureError(f"architecture file {path} cannot be read", got=error) from error
    except ConfigError as error:
        raise ArchitectureError(str(error)) from None


def _put_together(content: dict[str, Any], inner: tuple[str, ...]) -> dict[str, Any]:
    """What a file says over what it extends: maps entry by entry (null takes one away), all else as a whole."""
    own = dict(content)
    parent, renames, under = own.pop("extends", None), own.pop("rename", {}), own.pop("under", None)
    if parent is None:
        return own
    whole = merged(str(parent), inner)
    if under is not None:
        whole = _under(whole, str(under))
    whole = _renamed(whole, renames)
    for key, value in own.items():
        if key != "example" and isinstance(value, dict) and isinstance(whole.get(key), dict):
            entries = {**whole[key], **value}
            taken = () if key in _NULLS else [name for name, one in entries.items() if one is None]
            whole[key] = {name: one for name, one in entries.items() if name not in taken}
        else:
            whole[key] = value
    return whole


_NULLS = ("requires", "requires_for_depth")
"""Maps in which null is a value."""


def _renamed(content: dict[str, Any], renames: dict[str, str]) -> dict[str, Any]:
    """Inherited parameters under new names: whatever begins with an old one."""

    def new(text: str) -> str:
        for old, name in renames.items():
            if text.startswith(old):
                return str(name) + text[len(old) :]
        return text

    parameters = {
        new(name): {**one, **({"tied_to": new(one["tied_to"])} if "tied_to" in one else {})}
        for name, one in content["parameters"].items()
    }
    return {**content, "parameters": parameters, "ignored": [new(one) for one in content.get("ignored", [])]}


_SIZED = {
    "axes": ("size", "active", "eps"),
    "parameters": ("when", "when_tied", "times", "eps"),
    "kinds": ("list", "first", "indices"),
    "routers": ("active", "normalised", "times", "groups", "groups_chosen"),
    "scans": ("chunk",),
}
"""Keys of a file's entries that name config fields."""


def _under(content: dict[str, Any], prefix: str) -> dict[str, Any]:
    """A file whose config fields all stand in a config inside the config (`text_config.hidden_size`); bare names are aliases."""

    def inner(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        words = ("sqrt", "if", "not")
        return re.sub(FIELD, lambda one: one[0] if one[0] in words else f"{prefix}.{one[0]}", text)

    def entries(key: str, found: dict[str, Any]) -> dict[str, Any]:
        return {
            name: {word: inner(value) if word in _SIZED[key] else value for word, value in one.items()}
            for name, one in found.items()
        }

    layers = {**content["layers"], "count": inner(content["layers"]["count"])}
    for key in ("lists", "runs", "prefixes", "index_lists"):
        layers[key] = [inner(one) for one in layers.get(key, ())]
    layers["kinds"] = entries("kinds", layers.get("kinds", {}))
    if layers.get("parallel"):
        layers["parallel"] = inner(layers["parallel"])
    bare = {content["layers"]["count"], *fields(content.get("length") or "")} | {
        one for axis in content["axes"].values() for one in fields(axis["size"])
    }
    aliases = {name: inner(name) for name in sorted(bare)}
    return {
        **content,
        "axes": entries("axes", content["axes"]),
        "parameters": entries("parameters", content["parameters"]),
        "layers": layers,
        "routers": entries("routers", content.get("routers", {})),
        "scans": entries("scans", content.get("scans", {})),
        "length": inner(content.get("length")),
        "aliases": aliases | {name: inner(one) for name, one in content.get("aliases", {}).items()},
        "pin": {inner(name): inner(one) for name, one in content.get("pin", {}).items()},
        "follow": {inner(name): inner(one) for name, one in content.get("follow", {}).items()},
        "requires": {inner(name): one for name, one in content.get("requires", {}).items()},
        "requires_for_depth": {
            inner(name): one for name, one in content.get("requires_for_depth", {}).items()
        },
        "whole": [inner(one) for one in content.get("whole", ())],
    }
