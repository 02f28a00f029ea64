"""What a state remembers of its growths: JSON in every format, an entry a growth, oldest first. Read, checked and written here.

    {"growth": {"to": sizes, "width": ..., "moments": ..., "noise": ..., "seed": ...}, ...}    by operators
    {"growth": {"operator": digest, "moments": ...}, ...}                                      by a fitted operator
    {"conversion": {"from": type, "to": type, "moments": ..., "seed": ...}, ...}               described as another type

Beside these stand sizes (`from`, `to`), what was kept, and what became of the source's `files`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from outgrow.errors import CheckpointError
from outgrow.files.reading import parse_json

_WORDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number"}
_KINDS: Mapping[str, type] = {
    "growth": dict,
    "growth.to": dict,
    **{f"growth.{name}": str for name in ("operator", "width", "depth", "experts", "moments")},
    "growth.noise": float,
    "growth.seed": int,
    "conversion": dict,
    **{f"conversion.{name}": str for name in ("from", "to", "moments")},
    "conversion.seed": int,
    **dict.fromkeys(("from", "to", "files"), dict),
    "moments": str,
    "axes": list,
}
"""What the keys hold that are read; others are carried as they are."""


@dataclass(frozen=True)
class Described:
    """A conversion: the model types before and after, and how it was done."""

    before: str
    after: str
    moments: str
    seed: int


@dataclass(frozen=True)
class LineageEntry:
    """One growth or conversion. Raises CheckpointError where a key that is read holds another kind of value.

    >>> entry = LineageEntry({"growth": {"to": {"n_layer": 4}, "width": "pad", "seed": 0}})
    >>> entry.sizes_asked, entry.operators
    ({'n_layer': 4}, {'width': 'pad', 'seed': 0})
    """

    content: dict[str, Any]
    """The JSON as it is written."""

    def __post_init__(self) -> None:
        for path, kind in _KINDS.items():
            *outer, name = path.split(".")
            owner = self.content.get(outer[0], {}) if outer else self.content
            if name in owner and not _is(owner[name], kind):
                raise CheckpointError(
                    f"'{path}' of a lineage entry is not {_WORDS[kind]}", got=repr(owner[name])
                )
        for axis in self.content.get("axes", ()):
            if not isinstance(axis, dict):
                raise CheckpointError("'axes' of a lineage entry is not a list of objects", got=repr(axis))

    @property
    def conversion(self) -> Described | None:
        """The conversion that this is, or None. Raises CheckpointError where it does not say which."""
        told = self.content.get("conversion")
        if told is None:
            return None
        missing = [name for name in ("from", "to", "moments", "seed") if name not in told]
        if missing:
            raise CheckpointError(
                "a lineage entry does not say how the state was converted",
                got=", ".join(told) or "nothing",
                expected="conversion." + missing[0],
            )
        return Described(told["from"], told["to"], told["moments"], told["seed"])

    @property
    def _growth(self) -> dict[str, Any]:
        found: dict[str, Any] = self.content.get("growth", {})
        return found

    @property
    def fitted(self) -> str | None:
        """The digest of the fitted operator that it was grown by, or None."""
        return self._growth.get("operator")

    @property
    def sizes_asked(self) -> dict[str, Any] | None:
        """Config fields and the sizes that they grew to; None where operators did not make it."""
        return self._growth.get("to")

    @property
    def operators(self) -> dict[str, Any]:
        """How it was grown to these sizes: the options of a growth by name, in the order that they are told."""
        return {name: value for name, value in self._growth.items() if name not in ("to", "operator")}

    @property
    def sizes(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """All sizes before and after; empty where the entry does not say."""
        return self.content.get("from", {}), self.content.get("to", {})

    @property
    def moments(self) -> str:
        """What became of the moments."""
        return str(self.content.get("moments", "none"))

    @property
    def keeps_function(self) -> bool:
        """Whether the function was kept, up to rounding."""
        return bool(self.content.get("keeps_function"))

    @property
    def keeps_gradient_law(self) -> bool:
        """Whether gradients of old entries were kept."""
        return bool(self.content.get("keeps_gradient_law"))

    @property
    def reasons(self) -> tuple[tuple[str, str], ...]:
        """Axes that something is to be said of, each with it."""
        axes = self.content.get("axes", ())
        return tuple((str(axis.get("axis")), str(axis["why"])) for axis in axes if axis.get("why"))

    @property
    def lacks_files(self) -> bool:
        """Whether it is still to be said what became of the source's files, which the format decides."""
        return bool(self.content.get("files") == {})

    def saying(self, **more: Any) -> LineageEntry:
        """The entry with more keys, or other values."""
        return LineageEntry({**self.content, **more})


@final
class Lineage(tuple[dict[str, Any], ...]):
    """The entries of a state as JSON, oldest first: a tuple, so that whoever reads it sees what is in the file.

    >>> Lineage.read([{"growth": {"operator": "0f", "moments": "reset"}}], "outgrow.json").last.fitted
    '0f'
    """

    __slots__ = ()

    @classmethod
    def read(cls, content: object, where: str) -> Lineage:
        """The lineage that `where` holds, as parsed JSON. Raises CheckpointError, with the entry's place, where it is none."""
        if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
            raise CheckpointError(f"{where} is not a list of growths", got=type(content).__name__)
        for place, entry in enumerate(content, start=1):
            try:
                LineageEntry(entry)
            except CheckpointError as error:
                raise CheckpointError(f"{where}, growth {place} of {len(content)}: {error}") from None
        return cls(content)

    @classmethod
    def parse(cls, text: str, where: str) -> Lineage:
        """The lineage that a text holds as JSON. Raises CheckpointError where it is none."""
        return cls.read(parse_json(text, where, CheckpointError), where)

    @property
    def entries(self) -> tuple[LineageEntry, ...]:
        """Every growth, oldest first."""
        return tuple(LineageEntry(entry) for entry in self)

    @property
    def last(self) -> LineageEntry:
        """The newest growth. Raises CheckpointError where there was none."""
        if not self:
            raise CheckpointError("the state has no lineage", fix="grow it with outgrow")
        return LineageEntry(self[-1])

    def then(self, entry: LineageEntry) -> Lineage:
        """The lineage with one more growth."""
        return Lineage((*self, entry.content))

    def with_last(self, entry: LineageEntry) -> Lineage:
        """The lineage with this in place of its newest growth."""
        return Lineage((*self[:-1], entry.content))


def _is(value: object, kind: type) -> bool:
    """Whether a JSON value is of a kind; a whole number is a number, and true, NaN and infinity are none."""
    if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        return False
    return isinstance(value, (int, float) if kind is float else kind)
