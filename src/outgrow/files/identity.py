"""Whether a file is still the one that was opened: its inode, size and time of change.

A checkpoint is read while it is grown, for minutes. One that is written to meanwhile would give weights of two states.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from outgrow.errors import CheckpointError


@dataclass(frozen=True)
class FileIdentity:
    """What a file was when it was opened."""

    path: Path
    facts: tuple[int, int, int, int]
    """Device, inode, bytes, nanoseconds of the last change."""

    @classmethod
    def of(cls, path: Path) -> FileIdentity:
        """The file as it is now."""
        try:
            return cls(path, _facts(os.stat(path)))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read", got=error.strerror) from error

    def check(self, handle: int | None = None) -> None:
        """Raise CheckpointError where the file (or the open `handle`) is not the same any more."""
        try:
            now = os.stat(self.path) if handle is None else os.fstat(handle)
        except OSError as error:
            raise _changed(self.path, error.strerror) from error
        if _facts(now) != self.facts:
            raise _changed(
                self.path, f"{now.st_size:,} bytes, was {self.facts[2]:,}" * (now.st_size != self.facts[2])
            )


def _facts(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _changed(path: Path, how: str | None) -> CheckpointError:
    fix = "wait until whoever writes it is done, and start again; nothing was written"
    return CheckpointError(f"{path} was changed while it was read", got=how or None, fix=fix)
