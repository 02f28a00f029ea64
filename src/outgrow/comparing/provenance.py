"""Where the pieces of a study come from. A piece is known by its configuration, and that names a file, not what is in it.

Pieces may lie there for months and on several machines: all must have seen the same data, and a report says what trained them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from outgrow.comparing.pieces import Piece
from outgrow.data.opening import open_data
from outgrow.errors import ConfigError
from outgrow.training.folder import RunFolder, read_metrics


def check_data(pieces: Sequence[Piece], folder: str) -> None:
    """Before pieces are added to finished ones: those agree, and what the study names now is what they have seen.

    Raises `ConfigError` where not.
    """
    check_same_data(pieces, folder)
    runs = {piece.key: RunFolder(Path(folder) / piece.key) for piece in pieces}
    done = [piece for piece in pieces if runs[piece.key].is_finished]
    if not done or len(done) == len(pieces):
        return
    pointer = runs[done[0].key].pointer()
    assert pointer is not None, "it is finished"
    now = _facts(open_data(done[0].run(folder), runs[done[0].key].tokenizer).record)
    if now != _facts(pointer.data):
        raise ConfigError(
            f"the data of this study has changed since its first pieces were trained ({folder})",
            got=now,
            expected=_facts(pointer.data),
            fix="bring the data back, or choose another folder of pieces",
        )


def check_same_data(pieces: Sequence[Piece], folder: str) -> None:
    """Raises `ConfigError` where finished pieces saw different data: the file that the study names has changed in between."""
    seen: dict[str, list[str]] = {}
    for piece in pieces:
        pointer = RunFolder(Path(folder) / piece.key).pointer()
        if pointer is not None and pointer.finished:
            seen.setdefault(json.dumps(_facts(pointer.data), sort_keys=True), []).append(piece.key)
    if len(seen) > 1:
        fewest, most = sorted(seen.values(), key=len)[:: len(seen) - 1]
        raise ConfigError(
            f"the pieces in {folder} were trained on different data: the source has changed since the first of them",
            got=f"{len(fewest)} pieces ({', '.join(fewest[:3])} ...) and {len(most)} ({', '.join(most[:3])} ...)",
            expected="one corpus, tokenizer and validation set for all arms",
            fix="bring the data back and delete the pieces of the other, or choose another folder of pieces",
        )


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies data; where they lie does not."""
    return {name: value for name, value in record.items() if name != "description"}


def machines(pieces: Sequence[Piece], folder: str) -> tuple[dict[str, Any], ...]:
    """The different machines, devices and versions that trained finished pieces."""
    found: dict[str, dict[str, Any]] = {}
    for piece in pieces:
        for row in read_metrics(RunFolder(Path(folder) / piece.key).metrics):
            if row["kind"] == "machine":
                facts = {name: row[name] for name in ("system", "processors", "python", "device", "versions")}
                found.setdefault(json.dumps(facts, sort_keys=True), facts)
    return tuple(found.values())
