"""The cache, folders that are either whole or absent, and the lock of a run."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from outgrow.errors import ConfigError


def cache_folder() -> Path:
    """`$OUTGROW_CACHE`, or `~/.cache/outgrow`."""
    folder = Path(os.environ.get("OUTGROW_CACHE") or Path.home() / ".cache" / "outgrow")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the cache folder cannot be made: {folder}", got=error.strerror, fix="set OUTGROW_CACHE"
        ) from None
    return folder


def write_folder(target: Path, write: Callable[[Path], None]) -> Path:
    """Fill a new folder by `write`; two processes may do so at once, the first one wins."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        temporary.chmod(0o755)
        write(temporary)
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        try:
            os.rename(temporary, target)
        except OSError:
            if not target.is_dir():  # not another process that was first
                raise
    except OSError as error:
        raise ConfigError(
            f"cannot be written: {target}", got=error.strerror, fix="make room or choose another place"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


class RunBusyError(ConfigError):
    """Another process is working in this run's folder."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder: a second run in it is an error, and a killed one lets go by itself."""
    with (folder / ".lock").open("w") as file:
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
