"""Files that people give us, read within bounds: no pipe that never ends, no line that fills the memory, no home that is nobody's."""

from __future__ import annotations

import json
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from outgrow.errors import ConfigError, OutgrowError, brief

LONGEST_LINE = 64 << 20
"""Bytes: a line of text, a row of a log or table. Beyond it, a file is of another kind."""
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def expanded(path: str | Path) -> Path:
    """The path with `~` as the home it stands for."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{path} names the home of nobody here", got=error, fix="write the path out"
        ) from None


def check_regular(path: Path, error: type[OutgrowError] = ConfigError) -> Path:
    """The path; an error where it is there and no regular file: a pipe would be waited for without end."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # who opens it says what is wrong
        return path
    for is_kind, name in _KINDS:
        if is_kind(mode):
            raise error(
                f"{path} is {name}, not a file", fix="give a regular file: write what comes through it to one"
            )
    return path


def read_text(path: Path, most: int) -> str:
    """The whole of a small text file; `most` is the number of bytes that is more than anybody writes by hand."""
    check_regular(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(most + 1)
    except OSError as error:
        raise ConfigError(f"the file cannot be read: {path}", got=error.strerror) from None
    if len(raw) > most:
        raise ConfigError(f"{path} is too long to be such a file", got=f"more than {most:,} bytes")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the file is not UTF-8 text: {path}", got=str(error)) from None


def read_lines(path: Path, longest: int = LONGEST_LINE) -> Iterator[bytes]:
    """The lines of a file with their ends, one at a time."""
    check_regular(path)
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(longest + 1), b""), start=1):
                if len(line) > longest:
                    raise ConfigError(
                        f"{path}, line {number}: longer than {longest:,} bytes", fix="is this the right file?"
                    )
                yield line
    except OSError as error:
        raise ConfigError(f"the file cannot be read: {path}", got=error.strerror) from None


def parse_json(raw: bytes | str, where: str, error: type[OutgrowError] = ConfigError) -> Any:
    """JSON, as every reader of it takes it: UTF-8 text that gives no key twice; `where` is what a mistake is told of.

    Python alone would take UTF-16 too, which transformers does not, and of two values of one key the second.

    >>> parse_json('{"a": 1, "a": 2}', "config.json")
    Traceback (most recent call last):
    outgrow.errors.ConfigError: config.json is not valid JSON
      got:      the key 'a' is given 2 times
    """
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8")
        return json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as mistake:
        marked = isinstance(raw, bytes) and raw[:2] in (b"\xef\xbb", b"\xff\xfe", b"\xfe\xff")
        raise error(
            f"{where} is not valid JSON",
            got="a byte order mark at its beginning" if marked else mistake,
            fix="save it as UTF-8 without a byte order mark" if marked else None,
        ) from None


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What `json` makes of an object (`object_pairs_hook`). Raises ValueError where a key is given twice."""
    content = dict(pairs)
    if len(content) != len(pairs):
        [(twice, times)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {brief(twice)} is given {times} times")
    return content
