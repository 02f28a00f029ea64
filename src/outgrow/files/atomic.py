"""A folder appears whole or not at all.

It is written into a neighbour `<name>.tmp-<pid>-<host>-<random>`, synced, and renamed. Replacing an old folder is one
exchange of two names (`renameat2`), so at every moment the destination is the old folder or the new one.
The writer holds a lock on its neighbour: what a killed process left behind is unlocked and is removed by the next save.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from outgrow.errors import CheckpointError

TEMPORARY = re.compile(r"\.(?:tmp|old)-(\d+)-([0-9a-f]{8})[0-9a-f]{8}$")


@contextmanager
def publishing(destination: Path, *, overwrite: bool = False, needed_bytes: int = 0) -> Iterator[Path]:
    """A folder to write into, that becomes `destination` when the block ends well and vanishes when it does not.

    Raises `CheckpointError` where the destination exists and `overwrite` is not given or it is no model folder, cannot
    be written, is too full for `needed_bytes`, or is being written by another process.
    """
    destination = Path(os.path.realpath(destination))
    before = check_destination(destination, overwrite=overwrite)
    with _as_checkpoint_error(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(destination)
        check_space(destination.parent, needed_bytes)
        temporary = _neighbour(destination, "tmp")
        temporary.mkdir()
        lock = os.open(temporary, os.O_RDONLY)
    try:
        with _as_checkpoint_error(destination):
            _lock(lock)
            yield temporary
            sync_tree(temporary)
            if os.path.lexists(destination) and not (destination.is_dir() and not any(destination.iterdir())):
                _replace(temporary, destination, before)
            else:
                _rename_new(temporary, destination)
            sync_path(destination.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


def check_destination(destination: Path, *, overwrite: bool) -> int | None:
    """The inode of the folder that would be replaced, None where there is none; an error where it may not be."""
    above = next(path for path in destination.absolute().parents if os.path.lexists(path))
    if not above.is_dir():
        raise CheckpointError(
            f"{destination} cannot be written: {above} is not a folder", fix="choose another destination"
        )
    if not os.path.lexists(destination):
        return None
    if not destination.is_dir():
        raise CheckpointError(f"{destination} exists and is not a folder", fix="choose another destination")
    content = {path.name for path in destination.iterdir()}
    if content and not overwrite:
        raise CheckpointError(
            f"{destination} already exists",
            fix="choose another destination, or replace it: --overwrite, overwrite=True in Python",
        )
    if content and not content & {"outgrow.json", "config.json", "operator.json"}:
        raise CheckpointError(
            f"{destination} is not a model folder, so it is not overwritten",
            got=", ".join(sorted(content)[:5]),
            fix="choose another destination",
        )
    if folders := sorted(path.name for path in destination.iterdir() if path.is_dir()):
        raise CheckpointError(
            f"{destination} holds folders, which no saved model does: all in it would be lost",
            got=", ".join(folders[:5]),
            fix="choose another destination, or move them away",
        )
    return destination.stat().st_ino if content else None


def check_space(folder: Path, needed: int) -> None:
    """An error where the disk of `folder` has less than `needed` bytes free."""
    usage = shutil.disk_usage(folder)
    available = usage.free
    if usage.total and available < needed:  # pseudo file systems have no size at all
        raise CheckpointError(
            f"the disk of {folder} is too full",
            got=f"{available / 1e9:.2f} GB free",
            expected=f"{needed / 1e9:.2f} GB",
            fix="free some space or choose another destination",
        )


def write_json_atomic(path: Path, data: Any) -> None:
    """Write JSON so that `path` holds the old content or the new one, never a part."""
    write_text_atomic(path, json_text(data))


def write_text_atomic(path: Path, text: str) -> None:
    """Write text so that `path` holds the old content or the new one, never a part."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """Write bytes so that `path` holds the old content or the new one, never a part."""
    temporary = _neighbour(path, "tmp")
    try:
        with _as_checkpoint_error(path):
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_path(path.parent)
    finally:
        with suppress(OSError):  # the disk takes nothing: what went wrong is on its way already
            temporary.unlink(missing_ok=True)


def json_text(data: Any) -> str:
    """Indented JSON with a newline at the end."""
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def is_temporary(path: Path) -> bool:
    """Whether this is what an interrupted save left behind."""
    return TEMPORARY.search(path.name) is not None


def sync_tree(folder: Path) -> None:
    """Wait until every file and folder under `folder` is on the disk."""
    for root, _, files in os.walk(folder):
        for name in files:
            sync_path(Path(root) / name)
        sync_path(Path(root))


def sync_path(path: Path) -> None:
    """fsync of one file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _host() -> str:
    return f"{zlib.crc32(os.uname().nodename.encode()):08x}"


def _neighbour(path: Path, kind: str) -> Path:
    return path.with_name(f"{path.name}.{kind}-{os.getpid()}-{_host()}{secrets.token_hex(4)}")


def _lock(handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.ENOLCK, errno.EINVAL, errno.ENOTSUP):
            raise  # some network file systems lock no folders: the rename at the end still decides


def _clear_leftovers(destination: Path) -> None:
    """Remove what dead processes of this host left of a save to this destination; refuse beside a live one."""
    for path in sorted(destination.parent.glob(_escape(destination.name) + ".*-*")):
        found = TEMPORARY.search(path.name)
        if found is None or path.name[: found.start()] != destination.name or found[2] != _host():
            continue
        with suppress(FileNotFoundError):  # another process is clearing the same leftover
            _clear_leftover(path, destination, int(found[1]))


def _clear_leftover(path: Path, destination: Path, pid: int) -> None:
    if path.is_dir():
        handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"process {pid} is writing to {destination} at this moment", fix="wait for it to end"
            ) from None
        except OSError:  # cannot be known here
            return
        finally:
            os.close(handle)
    if _alive(pid):
        return
    if ".old-" in path.name and not os.path.lexists(destination):
        os.rename(path, destination)  # the process died between the two renames of `_replace`
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _escape(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _rename_new(temporary: Path, destination: Path) -> None:
    try:
        os.rename(temporary, destination)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise _overtaken(destination) from error


def _replace(temporary: Path, destination: Path, before: int | None) -> None:
    """Swap the new folder for the old one that was seen at the start, and remove the old one."""
    if before is None or not destination.is_dir():
        raise _overtaken(destination)
    if _exchange(temporary, destination):
        if temporary.stat().st_ino != before:
            _exchange(temporary, destination)
            raise _overtaken(destination)
        return  # the caller removes what is now the old folder
    if destination.stat().st_ino != before:
        raise _overtaken(destination)
    aside = _neighbour(destination, "old")
    os.rename(destination, aside)
    _rename_new(temporary, destination)
    shutil.rmtree(aside)


def _overtaken(destination: Path) -> CheckpointError:
    fix = "what that process wrote is whole and was kept; choose another destination"
    return CheckpointError(f"another process wrote {destination} in the meantime", fix=fix)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step (Linux); False where the system or file system cannot."""
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    at_working_folder, exchange = -100, 2
    if function(at_working_folder, os.fsencode(first), at_working_folder, os.fsencode(second), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(first))


@contextmanager
def _as_checkpoint_error(destination: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "free some space or choose another destination; nothing was changed"
            raise CheckpointError(
                f"the disk became full while writing {destination}", got=error.strerror, fix=fix
            ) from error
        fix = "choose a destination that you may write to"
        raise CheckpointError(
            f"{destination} cannot be written", got=error.strerror or error, fix=fix
        ) from error
