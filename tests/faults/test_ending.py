"""How the command line ends: one exit code for each way, whatever is the matter with its surroundings."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from outgrow.commands.ending import ended
from outgrow.engine.stopping import Stopped, noted, stoppable
from outgrow.errors import ConfigError, brief, printable

RUN = f"exec {sys.executable} -m outgrow"
"""`--help` imports no torch."""


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (f"{RUN} --help >&- 2>&- <&-", 0),
        (f"{RUN} nonsense 2>&-", 2),
        (f"{RUN} --help > /dev/full", 2),
        (f"PYTHONUNBUFFERED=1 {RUN} --help > /dev/full", 2),
        (f"LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {RUN} --help > /dev/null", 0),
    ],
)
def test_surroundings(command: str, code: int) -> None:
    """Streams that are closed or full, with and without a buffer of Python's own; a locale of ASCII."""
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_is_gone_is_no_failed_proof() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "outgrow", "--help"], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr == b""


def test_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def raising(error: BaseException) -> int:
        def work() -> None:
            raise error

        return ended(work)

    assert ended(lambda: None) == 0
    assert raising(SystemExit(1)) == 1
    assert raising(ConfigError("\x1b[2J")) == 2
    assert raising(OSError(5, "Input/output error", "a")) == 2
    assert raising(MemoryError()) == 2
    assert raising(RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory")) == 2
    assert raising(RuntimeError("boom")) == 70
    assert raising(Stopped(15)) == 143
    assert raising(Stopped(2)) == 130
    told = capsys.readouterr().err
    assert "\x1b" not in told
    assert "outgrow: \\x1b[2J" in told
    assert told.count("Traceback") == 1


def test_a_noted_signal_acts_at_the_end_of_the_block() -> None:
    steps = []
    with pytest.raises(Stopped, match="SIGTERM"), stoppable(), noted() as request:  # noqa: PT012
        for step in range(5):
            if step == 2:
                os.kill(os.getpid(), 15)
            steps.append(step)
            if request.number is not None:
                break
    assert steps == [0, 1, 2]
    with pytest.raises(Stopped), stoppable(), noted():  # noqa: PT012
        os.kill(os.getpid(), 15)
        os.kill(os.getpid(), 2)  # the second acts at once
        raise AssertionError("not reached")


def test_what_others_wrote_is_shown_and_cut() -> None:
    deep: list[object] = []
    for _ in range(100):
        deep = [deep, deep]  # as a text, of 2**100 brackets
    assert len(brief(deep)) < 1000
    assert len(str(ConfigError("a", got="x" * 10**6, expected=10**5000, fix="y" * 10**6))) < 5000
    assert printable("a\nb\tc\u202ed\udc80") == "a\nb\tc\\u202ed\\udc80"
