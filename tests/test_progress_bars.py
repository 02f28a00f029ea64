"""While a checkpoint is read or written, a terminal shows how far it is and the time left; a pipe and `--json` get nothing of it."""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from outgrow.cli import main
from outgrow.engine.progress import make_progress
from outgrow.parallel.ranks import ALONE
from outgrow.store.safetensors_folder import SafetensorsSource
from outgrow.training.session import Session, open_saved_state
from test_cli import small

__all__ = ["small"]  # the fixture of a model folder

COMMANDS = {
    "inspect": ("reading",),
    "export": ("reading", "writing"),
    "convert": ("reading", "writing"),
    "grow": ("reading", "writing"),
    "verify": ("reading",),
}
OPTIONS = {
    "convert": ["--as", "mixtral"],
    "grow": ["--to", "num_hidden_layers=3", "--depth", "identity"],
    "verify": ["--steps", "0"],
}


class Terminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        return True


def shown(error: io.StringIO, *words: str | Path) -> tuple[str, str]:
    """What a command writes to standard output, which is a pipe, and to standard error."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
        patch.setattr(sys, "argv", ["outgrow", *map(str, words)])
        patch.setenv("TERM", "xterm")
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code, error.getvalue()
    return out.getvalue(), error.getvalue()


@pytest.fixture(scope="module")
def states(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A native state, which has checksums to read, and one grown from it."""
    state, large = (tmp_path_factory.mktemp("states") / name for name in ("state", "large"))
    shown(io.StringIO(), "export", small, state)
    shown(io.StringIO(), "grow", state, large, *OPTIONS["grow"])
    return state, large


def words(name: str, states: tuple[Path, Path], out: Path) -> list[str | Path]:
    place = {"inspect": [], "verify": [states[1]]}.get(name, [out])
    return [name, states[0], *place, *OPTIONS.get(name, [])]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_terminal_sees_how_far_it_is(states: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    output, error = shown(Terminal(), *words(name, states, tmp_path / "out"))
    for what in COMMANDS[name]:
        assert what in error
        assert what not in output
    assert error.count("0:00:00") >= len(COMMANDS[name])  # the time left, once all is done


@pytest.mark.parametrize("name", COMMANDS)
def test_json_and_pipes_get_no_bar(states: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    assert shown(Terminal(), *words(name, states, tmp_path / "out"), "--json")[1] == ""
    output, error = shown(io.StringIO(), *words(name, states, tmp_path / "piped"))
    assert error == ""
    assert output.strip()


@pytest.mark.parametrize("name", ["convert", "grow", "verify"])
def test_a_dry_run_reads_no_tensor(
    states: tuple[Path, Path], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_read(source: SafetensorsSource, tensor: str, slot: str, rows: Any = None) -> Any:
        raise AssertionError(f"{slot} of {tensor} was read")

    monkeypatch.setattr(SafetensorsSource, "read", no_read)
    shown(io.StringIO(), *words(name, states, tmp_path / "out"), "--dry-run")
    assert not (tmp_path / "out").exists()


def test_a_run_that_resumes_shows_that_it_reads(
    states: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own checkpoint: bytes on a terminal, plain lines elsewhere where it takes long."""
    told: list[tuple[str, int, int]] = []
    reader = SimpleNamespace(read=lambda *seen: told.append(seen))
    open_saved_state(cast(Session, SimpleNamespace(ranks=ALONE, progress=reader)), states[0])
    name, done, total = told[-1]
    assert name == "state"
    assert done == total > 0
    error = Terminal()
    monkeypatch.setattr(sys, "stderr", error)
    monkeypatch.setenv("TERM", "xterm")
    with make_progress(show=True) as view:
        view.stage("small", 2, 9)
        view.read("step-00000004", 512, 2000)
        view.step(3, {})
    assert "read 512B of 2.00 KB" in error.getvalue()
    assert "3/9" in error.getvalue()
