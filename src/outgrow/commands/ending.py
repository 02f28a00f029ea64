"""How the command line ends: one exit code for each way, and one message where something is wrong.

0    done                         70   a fault of outgrow: please report it
1    a proof that failed          130  Ctrl-C       training saves a checkpoint first,
2    a mistake in the input, or   143  SIGTERM      and the same command goes on from it
     the system refused           141  who read the output is gone (as SIGPIPE)

Of several processes of one launch the first that has something to say says it.
"""

from __future__ import annotations

import io
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from outgrow.engine.stopping import Stopped, stoppable
from outgrow.errors import OutgrowError, cut, printable
from outgrow.parallel.process import ElsewhereError, speaks

DONE, MISTAKE, FAULT, NO_READER = 0, 2, 70, 141
_LAST_SECONDS = 2.0
"""A process that only heard of an error ends after the one that has it, whose code so becomes the launch's."""


def ended(work: Callable[[], object]) -> int:
    """Do some work of the command line; returns the exit code, whatever happens in it."""
    with _streams():
        try:
            code = _code(work)
            sys.stdout.flush()
        except _ReaderGoneError:
            return NO_READER
        except OutgrowError as error:  # standard output takes nothing more
            _say(str(error))
            return MISTAKE
        return code


def _code(work: Callable[[], object]) -> int:
    try:
        with stoppable():
            work()
        return DONE
    except SystemExit as end:  # how typer says every code, 0 too
        return end.code if isinstance(end.code, int) else DONE if end.code is None else MISTAKE
    except ElsewhereError:
        time.sleep(_LAST_SECONDS)
    except OutgrowError as error:
        _say(str(error))
    except Stopped as stop:
        _say(f"{stop}; what was saved before is whole: start the same command again to go on")
        return stop.code
    except (_ReaderGoneError, KeyboardInterrupt):
        raise
    except OSError as error:  # a full disk, a file that vanished: the system says what and where
        _say(f"the system refused: {error}")
    except Exception as error:  # any: 1 means a proof that failed, and a fault of ours is none
        if not _is_memory(error):
            _say("this is a fault of outgrow; please report what is above", traceback.format_exc())
            return FAULT
        _say(
            f"not enough memory\n  got:      {cut(str(error), 200)}\n  to do:    use a machine, or a limit, with more"
        )
    return MISTAKE


def _is_memory(error: Exception) -> bool:
    """torch and the loader of libraries say it in words alone."""
    if isinstance(error, SystemError):  # of C code that could not say what it lacked
        return "without exception set" in str(error)
    words = (
        "not enough memory",
        "out of memory",
        "allocate memory",
        "failed to map segment",
        "can't start new thread",
    )
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


def _say(text: str, above: str = "") -> None:
    if speaks():
        print(printable(f"{above}\noutgrow: {text}".lstrip()), file=sys.stderr, flush=True)


class _ReaderGoneError(BaseException):
    """Nobody reads the output any more. Not an `Exception`: it is no mistake, and nothing else may handle it."""


class _Guarded(io.RawIOBase):
    """A standard stream whose failures are told from those of files."""

    def __init__(self, raw: Any, name: str) -> None:
        self._raw, self._of = raw, name

    def write(self, data: Any) -> int:
        try:
            return int(self._raw.write(data) or 0)
        except BrokenPipeError:
            self._silence()
            raise _ReaderGoneError from None
        except OSError as error:
            self._silence()
            raise OutgrowError(f"standard {self._of} cannot be written", got=error.strerror) from None

    def _silence(self) -> None:
        """What is still buffered goes nowhere, so that the end of the process does not fail once more."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._raw.fileno())
        os.close(nowhere)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._raw.fileno())

    def isatty(self) -> bool:
        return bool(self._raw.isatty())


@contextmanager
def _streams() -> Iterator[None]:
    """Both standard streams are open, guarded, and show what their encoding lacks as `\\u...`."""
    for number in (0, 1, 2):  # a closed one would be the number of the next file that is opened
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _stream(sys.stdout, "output"), _stream(sys.stderr, "error")
    try:
        yield
    finally:
        guarded = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = kept
        for stream, old in zip(guarded, kept, strict=True):
            if stream is not old:
                stream.flush()
                stream.detach()


def _stream(stream: Any, name: str) -> Any:
    """The stream itself where it is not the system's: a test's, a notebook's."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # python -u has no buffer between
    if not isinstance(raw, io.FileIO):
        return stream
    stream.flush()
    by_line = stream.line_buffering or raw is buffer
    buffered = io.BufferedWriter(_Guarded(raw, name))
    return io.TextIOWrapper(
        buffered, encoding=stream.encoding, errors="backslashreplace", line_buffering=by_line
    )
