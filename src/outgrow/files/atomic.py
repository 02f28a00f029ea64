"""A folder appears whole or not at all.

It is written into a temporary neighbour, synced, and renamed. Replacing an old folder is one exchange of two names
(`renameat2`), so at every moment the destination is the old folder or the new one. What a killed process left behind is
removed by the next save (see `leftovers`).
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from outgrow.errors import CheckpointError
from outgrow.files.leftovers import aside, clear_leftovers, held_file, held_folder
from outgrow.text.numbers import amount

_OF_A_STATE = frozenset(
    {"pytorch_model_fsdp_0", "optimizer_0", "model_and_optim", "additional_chat_templates"}
)
"""The folders that a saved state may hold: those of sharded checkpoints, and further chat templates."""
_TENSORS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.distcp", ".metadata")
_TOKENIZERS = (
    "*.model",
    "*.model.v[0-9]*",
    "*.spm",
    "*.tiktoken",
    "vocab*",
    "*merges.txt",
    "*bpe.codes",
    "dict.txt",
)
_TERMS = ("[Ll][Ii][Cc][Ee][Nn][CcSs][Ee]*", "*[Ll]icen[cs]e.*", "COPYING*", "NOTICE*", "USE_POLICY*")
_FILES_OF_A_STATE = (
    *_TENSORS,
    *_TOKENIZERS,
    *_TERMS,
    "*.json",
    "*.jinja",
    "README*.md",
    ".git*",
    ".DS_Store",
)
"""The files that a model folder has (patterns of `fnmatch`)."""
_LONGEST_NAME = 255 - len(".lock-0123456789abcdef")
"""Bytes of a file name, less what a temporary neighbour has more."""


@contextmanager
def publishing(destination: Path, *, overwrite: bool = False, needed_bytes: int = 0) -> Iterator[Path]:
    """A folder to write into, that becomes `destination` when the block ends well and vanishes when it does not.

    Raises `CheckpointError` where the destination exists and `overwrite` is not given or it is no model folder, cannot
    be written, is too full for `needed_bytes`, or is being written by another process.
    """
    destination = Path(os.path.realpath(destination))
    before = check_destination(destination, overwrite=overwrite)
    with _as_checkpoint_error(destination), _made_or_gone(destination.parent):
        clear_leftovers(destination.parent, destination.name)
        check_space(destination.parent, needed_bytes)
        with held_folder(destination) as temporary:
            yield temporary
            sync_tree(temporary)
            if os.path.lexists(destination) and not (destination.is_dir() and not any(destination.iterdir())):
                _replace(temporary, destination, before)
            else:
                _rename_new(temporary, destination)
            sync_path(destination.parent)


@contextmanager
def _made_or_gone(folder: Path) -> Iterator[None]:
    """A folder with all above it; what was made for it is gone again where the block ends badly."""
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for path in made:
            with suppress(OSError):  # it is not empty: something else is in it by now
                path.rmdir()
        raise


def discard(folder: Path) -> None:
    """Delete a folder so that a part of it is never seen under its name."""
    temporary = folder.with_name(f"{folder.name}.tmp-{secrets.token_hex(8)}")
    os.rename(folder, temporary)
    shutil.rmtree(temporary)


def check_destination(destination: Path, *, overwrite: bool, sources: Iterable[Path] = ()) -> int | None:
    """The inode of the folder that would be replaced, None where there is none; an error where it may not be.

    `sources` are the folders that are read.
    """
    check_apart(destination, sources)
    above = next((path for path in destination.absolute().parents if os.path.lexists(path)), destination)
    if not above.is_dir():
        raise CheckpointError(
            f"{destination} cannot be written: {above} is not a folder", fix="choose another destination"
        )
    if len(os.fsencode(destination.name)) > _LONGEST_NAME:
        raise CheckpointError(
            f"{destination} cannot be written: its name is too long",
            got=f"{len(os.fsencode(destination.name))} bytes",
            expected=f"at most {_LONGEST_NAME}: it is written under a longer name first",
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
    if strange := sorted(path.name for path in destination.iterdir() if not _is_of_a_state(path)):
        raise CheckpointError(
            f"{destination} holds files or folders that no saved model does, and they would be lost",
            got=", ".join(strange[:5]),
            fix="choose another destination, or move them away",
        )
    return destination.stat().st_ino if content else None


def check_apart(destination: Path, sources: Iterable[Path]) -> None:
    """An error where something would be written inside a folder that is read: that would no longer be what was opened."""
    place = Path(os.path.realpath(destination))
    for source in sources:
        if Path(os.path.realpath(source)) in place.parents:
            fix = "choose a destination beside it"
            raise CheckpointError(f"{destination} lies inside {source}, which is read", fix=fix)


def _is_of_a_state(path: Path) -> bool:
    if path.is_dir():
        return path.name in _OF_A_STATE
    return any(fnmatchcase(path.name, pattern) for pattern in _FILES_OF_A_STATE)


def check_space(folder: Path, needed: int) -> None:
    """An error where the disk of `folder`, which may be one that is yet to be made, has less than `needed` bytes free."""
    usage = shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.is_dir()))
    available = usage.free
    if usage.total and available < needed:  # pseudo file systems have no size at all
        raise CheckpointError(
            f"the disk of {folder} is too full",
            got=f"{amount(available)}B free",
            expected=f"{amount(needed)}B",
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
    with _as_checkpoint_error(path):
        clear_leftovers(path.parent, path.name)
        with held_file(path) as (temporary, handle):
            with open(handle, "wb", closefd=False) as file:
                file.write(content)
            os.fsync(handle)
            os.replace(temporary, path)
        sync_path(path.parent)


def json_text(data: Any) -> str:
    """Indented JSON with a newline at the end; a file name that is no text is spelled out."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    whole = all(not "\ud800" <= letter <= "\udfff" for letter in text)
    return (text if whole else json.dumps(data, indent=2)) + "\n"


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
    old = aside(temporary)
    os.rename(destination, old)
    _rename_new(temporary, destination)
    shutil.rmtree(old)


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
        if error.errno in (errno.EMFILE, errno.ENFILE):
            fix = "allow this process more of them: ulimit -n; nothing was changed"
            raise CheckpointError(
                f"{destination} cannot be written: too many files are open", fix=fix
            ) from error
        if error.errno == errno.EFBIG:
            fix = "allow larger files: ulimit -f, or another disk; nothing was changed"
            raise CheckpointError(
                f"{destination} cannot be written: a file is larger than this process or disk allows",
                got=error.strerror,
                fix=fix,
            ) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            fix = "free some space or choose another destination; nothing was changed"
            raise CheckpointError(
                f"the disk became full while writing {destination}", got=error.strerror, fix=fix
            ) from error
        fix = "choose a destination that you may write to"
        if error.errno == errno.EIO:
            fix = "look at the disk, or choose a destination on another; nothing was changed"
        raise CheckpointError(f"{destination} cannot be written", got=error, fix=fix) from error
