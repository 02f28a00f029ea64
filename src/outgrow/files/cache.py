"""Folders of the cache: whole, and still what was written into them.

A folder holds `checksums.json`, the CRC-32 and size of each of its files. One that does not match is made anew: it is
a cache, and what it should hold is known.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

from outgrow.files.locks import cache_folder, write_folder

SUMS = "checksums.json"
_BLOCK = 16 << 20


def cached(name: str, write: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, filled by `write` where it is not there or not what it was."""
    target = cache_folder() / name

    def sealed(folder: Path) -> None:
        write(folder)
        (folder / SUMS).write_text(json.dumps(_sums(folder)), encoding="utf-8")

    if target.is_dir() and not is_sound(target):
        shutil.rmtree(target)
    return write_folder(target, sealed)


def is_sound(folder: Path) -> bool:
    """Whether every file of a folder is as it was written."""
    try:
        return bool(json.loads((folder / SUMS).read_bytes()) == _sums(folder))
    except (OSError, ValueError):
        return False


def _sums(folder: Path) -> dict[str, list[int]]:
    return {path.name: _sum(path) for path in sorted(folder.iterdir()) if path.name != SUMS}


def _sum(path: Path) -> list[int]:
    crc = size = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            crc, size = zlib.crc32(block, crc), size + len(block)
    return [crc, size]
