"""Every tutorial, and the examples of the README, run as they stand: files are written, commands and Python executed, in order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from outgrow.cli import app

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted((DOCS / "tutorials").glob("*.md"))


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, code) of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.S | re.M)


def run_commands(code: str) -> None:
    """Every line of a block of commands."""
    for line in code.strip().splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "outgrow", line
        done = CliRunner().invoke(app, words[1:])
        assert done.exit_code == 0, (line, done.output, done.exception)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_tutorial_runs_as_it_stands(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OUTGROW_CACHE", str(tmp_path / "cache"))
    names: dict[str, Any] = {"__name__": "tutorial"}
    for language, code in blocks(page.read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(code, str(page), "exec"), names)
        elif language == "yaml":
            file = re.match(r"# file: (\S+)\n", code)
            assert file is not None, "a file in a tutorial says its name"
            (tmp_path / file[1]).write_text(code)
        elif language == "bash":
            run_commands(code)


def test_there_are_three_tutorials() -> None:
    assert len(PAGES) == 3


def test_the_readme_s_examples_run_and_go_on_where_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Python block, then the commands on the model that it saved; the first block is `make`, which sets up."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    (_, setup), (_, code), (_, commands) = blocks((DOCS.parent / "README.md").read_text(encoding="utf-8"))
    assert setup.startswith("make run")
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    before, after = map(float, capsys.readouterr().out.splitlines()[-1].split())
    assert names["plan"].keeps_function
    assert after < before  # the same batch, one step later
    run_commands(commands)
    grown = AutoModelForCausalLM.from_pretrained(tmp_path / "large")
    assert (grown.config.hidden_size, grown.config.num_hidden_layers) == (96, 6)
