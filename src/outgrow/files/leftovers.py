"""Temporary neighbours `<name>.tmp-<token>` of what is being written: locked while their process lives, cleared when it does not.

The system lets a lock go however a process ends, in a container or on another host that shares the disk: so a neighbour that
nobody holds is what a killed process left. Where folders cannot be locked (NFS), a file `<name>.lock-<token>` stands for them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from outgrow.errors import CheckpointError

_NAME = re.compile(r"\.(tmp|old|lock)-([0-9a-f]{16})$")
_NO_LOCKS = (errno.EBADF, errno.ENOLCK, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)


def is_temporary(path: Path) -> bool:
    """Whether this is what an interrupted save left behind."""
    return _NAME.search(path.name) is not None


def aside(temporary: Path) -> Path:
    """Where the old folder waits while a temporary one takes its place, if the two cannot be exchanged in one step."""
    return temporary.with_name(_NAME.sub(r".old-\2", temporary.name))


@contextmanager
def held_folder(path: Path) -> Iterator[Path]:
    """A new, empty neighbour of `path`, held; it is gone at the end of the block, unless it was renamed."""
    with ExitStack() as stack:
        temporary = _held(path, True, stack)
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def held_file(path: Path) -> Iterator[tuple[Path, int]]:
    """The same for a file: its path and an open handle."""
    with ExitStack() as stack:
        temporary = _held(path, False, stack)
        handle = os.open(temporary, os.O_RDWR)
        stack.callback(os.close, handle)
        try:
            yield temporary, handle
        finally:
            with suppress(OSError):  # the disk takes nothing: what went wrong is on its way already
                temporary.unlink(missing_ok=True)


def clear_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left in a folder of ours, or of one destination in it.

    A folder that was set aside and whose successor never came is put back. Raises CheckpointError where a living process is
    writing the folder `name`.
    """
    for one in _leftovers(folder, name):
        with suppress(FileNotFoundError), ExitStack() as stack:  # another process may clear the same
            alive = one.is_alive(stack)
            if alive and name is not None and one.has_folder:
                raise CheckpointError(
                    f"another process is writing to {one.destination} at this moment",
                    fix="wait for it to end",
                )
            if alive is not True:
                one.put_back()
            if alive is False:
                one.remove()


@dataclass(frozen=True)
class _Leftover:
    """What belongs to one save."""

    destination: Path
    paths: dict[str, Path] = field(default_factory=dict)
    """`tmp`, `old` and `lock` to what is there."""

    @property
    def has_folder(self) -> bool:
        return "old" in self.paths or ("tmp" in self.paths and self.paths["tmp"].is_dir())

    def is_alive(self, stack: ExitStack) -> bool | None:
        """Whether a process holds it; None where that cannot be known. What is free is held until the stack is left."""
        decides = self.paths.get("lock") or self.paths.get("tmp")
        if decides is None:
            return False
        free = _lock(decides, stack)
        return None if free is None else not free

    def put_back(self) -> None:
        """The old folder, where the process died between two renames."""
        if "old" in self.paths and not os.path.lexists(self.destination):
            os.rename(self.paths.pop("old"), self.destination)

    def remove(self) -> None:
        for path in self.paths.values():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _leftovers(folder: Path, name: str | None) -> list[_Leftover]:
    found: dict[str, _Leftover] = {}
    for entry in sorted(os.listdir(folder)) if folder.is_dir() else ():
        match = _NAME.search(entry)
        if match is not None and name in (None, entry[: match.start()]):
            one = found.setdefault(match[2], _Leftover(folder / entry[: match.start()]))
            one.paths[match[1]] = folder / entry
    return list(found.values())


def _held(path: Path, is_folder: bool, stack: ExitStack) -> Path:
    """A new neighbour with a lock on it. One that another process took for a leftover, before it was locked, is made anew."""
    while True:
        token = secrets.token_hex(8)
        temporary, lock = (path.with_name(f"{path.name}.{kind}-{token}") for kind in ("tmp", "lock"))
        if is_folder:
            temporary.mkdir()
        else:
            os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        with suppress(FileNotFoundError):
            held = _lock(temporary, stack)
            if held is None and is_folder:
                os.close(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
                stack.callback(lock.unlink, missing_ok=True)
                held = _lock(lock, stack)
            if held is not False and os.path.lexists(temporary):
                return temporary


def _lock(path: Path, stack: ExitStack) -> bool | None:
    """Hold a path until the stack is left: False where another process does, None where the file system has no locks."""
    kind = os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else os.O_RDWR
    handle = os.open(path, kind | os.O_NONBLOCK | os.O_NOFOLLOW)
    stack.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True
