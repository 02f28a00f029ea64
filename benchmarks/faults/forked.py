"""One process imports outgrow once; every run of the campaign is a forked child that calls the command line.

A child writes its output into files, may be killed by the clock, and may have its n-th file-system call fail: `preload.c`,
compiled and loaded before the C library, counts the calls under one folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = (
    *("open-write", "write", "fsync", "rename", "mkdir", "rmdir", "unlink"),
    *("resize", "close", "lock", "open-read", "read", "map"),
)
CHANGING = ("open-write", "write", "fsync", "rename", "mkdir", "rmdir", "unlink", "resize", "lock")
READING = ("open-read", "read", "map")
COUNT, FAIL, KILL_BEFORE, KILL_AFTER, HALF, FAIL_FROM, TERMINATE, INTERRUPT = range(8)


@dataclass(frozen=True)
class Fault:
    """What happens to the `number`-th call of some kinds under a folder."""

    folder: Path
    number: int
    how: int
    error: int = 0
    kinds: tuple[str, ...] = CHANGING
    log: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `code` is the exit code, minus the signal, or None where it took too long."""

    code: int | None
    out: str
    err: str
    seconds: float
    cpu: float
    """Seconds of a processor: what other work on the machine does not change."""

    @property
    def message(self) -> str:
        """The line that says what was wrong."""
        lines = self.err.strip().splitlines()
        if "Traceback" in self.err:
            return self.err.strip()[-900:]
        return next((line for line in lines if line.startswith("outgrow:")), lines[-1] if lines else "")


def preloaded(source: Path) -> None:
    """Start this program again with the library of faults loaded; returns in the process that has it."""
    library = Path(tempfile.gettempdir()) / f"outgrow-faults-{os.getuid()}-{_digest(source)[:16]}.so"
    if os.environ.get("LD_PRELOAD") == str(library):
        return
    if not library.exists():
        building = library.with_suffix(f".{os.getpid()}")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", building, source, "-ldl"], check=True)
        building.rename(library)
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def run(
    words: Sequence[object],
    *,
    fault: Fault | None = None,
    after: float | None = None,
    by: int = signal.SIGKILL,
    seconds: float = 120.0,
    cwd: Path | None = None,
    environment: Mapping[str, str | None] | None = None,
    memory: int | None = None,
    prepare: Callable[[], None] | None = None,
) -> Outcome:
    """`outgrow words...` in a child; after `after` seconds it gets the signal `by`; it may use `seconds` of a processor."""
    with tempfile.TemporaryDirectory(prefix="outgrow-campaign-") as temporary:
        streams = Path(temporary) / "out", Path(temporary) / "err"
        sys.stdout.flush()
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            _in_child(words, streams, fault, cwd, environment or {}, memory, int(seconds) + 1, prepare)
        code, cpu = _wait(child, after, by, seconds)
        out, err = (path.read_text(encoding="utf-8", errors="replace") for path in streams)
        return Outcome(code, out, err, time.monotonic() - began, cpu)


def _in_child(
    words: Sequence[object],
    streams: tuple[Path, Path],
    fault: Fault | None,
    cwd: Path | None,
    environment: Mapping[str, str | None],
    memory: int | None,
    limit: int,
    prepare: Callable[[], None] | None,
) -> None:
    """Never returns."""
    code = 99
    import torch

    try:
        os.setpgid(0, 0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        out, err = (os.open(path, os.O_WRONLY | os.O_CREAT, 0o644) for path in streams)
        for descriptor, number in ((nothing, 0), (out, 1), (err, 2)):
            os.dup2(descriptor, number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for name, value in environment.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        if cwd is not None:
            os.chdir(cwd)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        if prepare is not None:
            prepare()
        if fault is not None:
            _arm(fault)
        torch.set_num_threads(
            1
        )  # torch makes its pool anew after a fork, and two threads that do so at once fail
        sys.argv = ["outgrow", *map(str, words)]
        from outgrow.cli import main

        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1 if end.code else 0
        except BaseException:
            traceback.print_exc()
            code = 98
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(code)


def _arm(fault: Fault) -> None:
    library: Any = ctypes.CDLL(None)
    mask = sum(1 << KINDS.index(kind) for kind in fault.kinds)
    log = b"" if fault.log is None else os.fsencode(fault.log)
    library.arm.argtypes = (
        *(ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_ulong, ctypes.c_char_p),
    )
    library.arm(os.fsencode(fault.folder), fault.number, fault.how, fault.error, mask, log)


def _wait(child: int, after: float | None, by: int, seconds: float) -> tuple[int | None, float]:
    began, sent = time.monotonic(), after is None
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            return code, used.ru_utime + used.ru_stime
        now = time.monotonic() - began
        if not sent and after is not None and now >= after:
            os.kill(child, by)
            sent = True
        if now > 6 * seconds:  # other work on the machine may have all its processors
            os.kill(child, signal.SIGKILL)
            _, _, used = os.wait4(child, 0)
            return None, used.ru_utime + used.ru_stime
        time.sleep(0.003)


def tree(folder: Path) -> dict[str, str]:
    """Every name under a folder, and what it holds."""
    if not folder.is_dir() or folder.is_symlink():
        return {"": "absent" if not os.path.lexists(folder) else "no folder"}
    found = {}
    for root, folders, files in os.walk(folder):
        place = Path(root).relative_to(folder)
        for name in folders:
            found[str(place / name) + "/"] = "folder"
        for name in files:
            path = Path(root) / name
            found[str(place / name)] = _digest(path) if path.is_file() else "special"
    return found


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def emptied(folder: Path) -> Path:
    """The folder, new."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
