"""Where text comes from: a source in words becomes a stream of documents and a key that names its content.

    "stdlib" | file | glob | folder | .xz | .gz | json/csv/parquet | "hub:<name>"  ->  Corpus(key, documents())

Text files are split into documents at lines `<|endoftext|>`; every other file is one document. Tables may be packed too,
as .jsonl.gz is; of a table a column of text is read, and nothing else is turned into words.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import importlib.util
import json
import lzma
import sys
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from outgrow.errors import ConfigError
from outgrow.files.reading import LONGEST_LINE, check_regular, expanded

DOCUMENT_BREAK = "<|endoftext|>"
_TABLES = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_TEXTS = {".txt", ".text", ".md", ".py", ".rst", ".xz", ".gz"}
_WORDS = {"string", "large_string", "string_view", "null"}
"""Types of columns; one without a single value is `null`, and has no text."""
_PACKED = {".gz", ".xz", ".bz2", ".zst"}
_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class Corpus:
    """Documents, read again by every call, and the identity of what they are read from.

    A row of a table that has no text is an empty document: who reads it says how many there are.
    """

    key: str
    description: str
    documents: Callable[[], Iterator[str]]


def open_corpus(
    source: str,
    *,
    limit_bytes: int | None = None,
    text_field: str = "text",
    split: str = "train",
    subset: str | None = None,
    place: str = "data.source",
) -> Corpus:
    """Find a source of text; nothing is read yet but names, sizes and times. `place`: where the user named it, for messages.

    >>> next(open_corpus("stdlib").documents())[:0]
    ''
    """
    if source == "stdlib":
        corpus = _standard_library()
    elif source.startswith("hub:"):
        corpus = _hub(source.removeprefix("hub:"), subset, split, text_field)
    else:
        paths = _find(source, place)
        kinds = sorted({_table_kind(path) or "text" for path in paths})
        if len(kinds) > 1:
            raise ConfigError(
                f"{place} mixes kinds of files: {source}", got=", ".join(kinds), fix="give one kind of file"
            )
        corpus = _texts(paths) if kinds == ["text"] else _tables(paths, kinds[0], split, text_field)
    if limit_bytes is None:
        return corpus
    return Corpus(
        _key("limit", corpus.key, limit_bytes),
        f"{corpus.description}, first {limit_bytes:,} bytes",
        lambda: _limited(corpus.documents(), limit_bytes),
    )


def _standard_library() -> Corpus:
    """The Python sources of this interpreter's standard library, without tests, in an order that mixes packages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    names = [path.relative_to(root) for path in root.rglob("*.py") if path.stat().st_size]
    names = sorted(name for name in names if not _NOT_LIBRARY.intersection(name.parts))
    # The end of the corpus is held out: hash order makes it a sample of all packages instead of the letters t to z.
    names.sort(key=lambda name: hashlib.sha256(name.as_posix().encode()).digest())

    def documents() -> Iterator[str]:
        for name in names:
            yield (root / name).read_text(encoding="utf-8", errors="replace")

    sizes = [(name.as_posix(), (root / name).stat().st_size) for name in names]
    version = ".".join(map(str, sys.version_info[:3]))
    return Corpus(
        _key("stdlib", version, sizes), f"Python {version} standard library, {len(names)} files", documents
    )


def _table_kind(path: Path) -> str | None:
    """The kind of table that a file's name says, packed or not; None for text.

    >>> [_table_kind(Path(name)) for name in ("a.jsonl", "a.JSON.gz", "a.txt.gz", "a.gz")]
    ['json', 'json', None, None]
    """
    endings = [ending.lower() for ending in path.suffixes]
    if endings and endings[-1] in _PACKED:
        endings.pop()
    return _TABLES.get(endings[-1]) if endings else None


def _find(source: str, place: str) -> list[Path]:
    path = expanded(source)
    if path.is_dir():
        found = sorted(
            p for p in path.rglob("*") if p.is_file() and (p.suffix.lower() in _TEXTS or _table_kind(p))
        )
    elif path.is_file():
        found = [path]
    else:
        found = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
    if not found:
        raise ConfigError(
            f"{place} finds no text: {source}",
            expected="stdlib, a file, a glob, a folder with text files, or hub:<name of a dataset>",
            fix="check the path; it is relative to where the command is started",
        )
    return found


def _texts(paths: list[Path]) -> Corpus:
    def documents() -> Iterator[str]:
        for path in paths:
            yield from _split(path)

    return Corpus(_key("texts", _stamps(paths)), _describe(paths), documents)


@contextmanager
def open_text(path: Path, *, encoding: str = "utf-8", newline: str | None = None) -> Iterator[IO[str]]:
    """A text file, .xz and .gz unpacked; ConfigError where it is missing, broken or no text, also in the middle of reading."""
    opener: Any = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix.lower(), open)
    try:
        check_regular(path)
        with opener(path, "rt", encoding=encoding, newline=newline) as file:
            yield file
    except (OSError, EOFError, lzma.LZMAError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(f"the text file cannot be read: {path}", got=str(error)) from None


def _split(path: Path) -> Iterator[str]:
    lines: list[str] = []
    with open_text(path, encoding="utf-8-sig") as file:
        for line in iter(lambda: file.readline(LONGEST_LINE + 1), ""):
            if len(line) > LONGEST_LINE or "\0" in line:
                raise ConfigError(
                    f"this is no text: {path}", got=f"a line with null bytes, or longer than {LONGEST_LINE:,}"
                )
            if line.strip() == DOCUMENT_BREAK:
                if lines:
                    yield "".join(lines)
                lines = []
            else:
                lines.append(line)
    if lines:
        yield "".join(lines)


def _tables(paths: list[Path], kind: str, split: str, text_field: str) -> Corpus:
    files = [str(path) for path in paths]
    name, tabs = ("csv", {"sep": "\t"}) if kind == "tsv" else (kind, {})

    def documents() -> Iterator[str]:
        rows = _load_dataset(name, data_files={split: files}, split=split, **tabs)
        yield from _column(rows, text_field, ", ".join(files))

    return Corpus(_key("tables", _stamps(paths), split, text_field), _describe(paths), documents)


def _hub(name: str, subset: str | None, split: str, text_field: str) -> Corpus:
    rows = _load_dataset(name, subset, split=split)

    def documents() -> Iterator[str]:
        yield from _column(rows, text_field, name)

    return Corpus(
        _key("hub", name, subset, split, text_field, rows._fingerprint), f"{name} ({split})", documents
    )


def _load_dataset(*arguments: Any, **options: Any) -> Any:
    if importlib.util.find_spec("datasets") is None:
        raise ConfigError(
            f"data.source {arguments[0]} needs the library `datasets`",
            fix="pip install -e '.[datasets]' in outgrow's clone",
        )
    import datasets

    try:
        return datasets.load_dataset(*arguments, **options)
    except Exception as error:  # any of a dozen kinds: not found, no network, damaged file, unknown split
        files = [path for paths in options.get("data_files", {}).values() for path in paths]
        reason = error.__cause__ or error  # what failed to be generated is all that the outer one says
        raise ConfigError(
            f"the dataset cannot be read: {', '.join(files) or arguments[0]}",
            got=f"{type(reason).__name__}: {reason}",
        ) from error


def _column(rows: Any, text_field: str, where: str) -> Iterator[str]:
    if text_field not in rows.column_names:
        raise ConfigError(
            f"{where} has no column {text_field!r}",
            expected=", ".join(rows.column_names),
            fix="set data.text_field",
        )
    kind = getattr(rows.features[text_field], "dtype", None)
    if kind not in _WORDS:
        words = [name for name, one in rows.features.items() if getattr(one, "dtype", None) in _WORDS]
        raise ConfigError(
            f"{where}: the column {text_field!r} holds no text",
            got=kind or rows.features[text_field],
            expected=f"a column of text: {', '.join(words) or 'it has none'}",
            fix="set data.text_field, or write each document as one text",
        )
    for row in rows.select_columns([text_field]):
        yield str(row[text_field] or "")


def _limited(documents: Iterator[str], limit_bytes: int) -> Iterator[str]:
    left = limit_bytes
    for document in documents:
        content = document.encode()
        yield document if len(content) <= left else content[:left].decode(errors="ignore")
        left -= len(content)
        if left <= 0:
            return


def _stamps(paths: list[Path]) -> list[tuple[str, int, int]]:
    stats = [(path, path.stat()) for path in paths]
    return [(str(path.resolve()), stat.st_size, stat.st_mtime_ns) for path, stat in stats]


def _describe(paths: list[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{len(paths)} files in {paths[0].parent}"


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:32]
