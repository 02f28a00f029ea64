"""The cache, folders that are either whole or absent, and the lock of a run."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from outgrow.errors import ConfigError
from outgrow.files.atomic import publishing
from outgrow.files.leftovers import clear_leftovers, is_temporary
from outgrow.files.reading import check_regular, expanded


def cache_folder() -> Path:
    """`$OUTGROW_CACHE`, or `~/.cache/outgrow`."""
    folder = expanded(os.environ.get("OUTGROW_CACHE") or "~/.cache/outgrow")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the cache folder cannot be made: {folder}", got=error.strerror, fix="set OUTGROW_CACHE"
        ) from None
    return folder


def write_folder(target: Path, write: Callable[[Path], None]) -> Path:
    """Fill a new folder by `write`, whole or not at all; of two processes one writes and the other waits for it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(f".{target.name}.lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"cannot be written: {target.parent}", got=error.strerror, fix="choose another place"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        clear_leftovers(target.parent)
        if not target.is_dir():
            with publishing(target) as temporary:
                write(temporary)
    return target


def claim(root: Path, own: str) -> None:
    """Make an output folder, or check that it is one of ours: our lock and the file `own` are in it.

    Raises `ConfigError` where it holds anything else, so that nothing of somebody else's is ever replaced, and where it cannot be made.
    """
    if root.exists() and not root.is_dir():
        raise ConfigError(f"output is a file: {root}", fix="choose another output")
    lock = root / ".lock"
    there = (
        {path.name for path in root.iterdir() if not path.name.startswith(".")} if root.is_dir() else set()
    )
    strange = {name for name in there if not (lock.is_file() and is_temporary(root / name))}
    if strange and not (lock.is_file() and (root / own).is_file()):
        raise ConfigError(
            f"output is not empty and was not made by outgrow: {root}",
            got=", ".join(sorted(strange)[:5]),
            fix="choose another output",
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise ConfigError(f"output cannot be written: {root}", got=error.strerror) from None


class RunBusyError(ConfigError):
    """Another process is working in this run's folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder: a second run in it is an error, and a killed one lets go by itself."""
    with check_regular(folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunBusyError(
                f"another run is working in {folder}", fix="wait for it, stop it, or choose another output"
            ) from None
        yield


def is_held(folder: Path) -> bool:
    """Whether another process works in a folder right now; one that is not there is free."""
    if not folder.is_dir():
        return False
    try:
        with locked(folder):
            return False
    except RunBusyError:
        return True
