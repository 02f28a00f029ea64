"""What users wrote stands in tables, pictures and reports as it is: no markup, no formula, no HTML."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.table import Table

from outgrow.commands.console import open_console
from outgrow.report.compare_tables import fenced
from outgrow.report.html import html_page
from outgrow.report.plot import STYLE, save_figure
from outgrow.text.table import TextTable, as_markdown

WORDS = (
    "a[/]b",
    "[bold]x",
    "$\\frac{$",
    "\x1b[2J",
    "<script>",
    ":smile:",
    "| a",
    "`x`",
    "\u202e",
    "\udcff",
    "x" * 9999,
)


@pytest.mark.parametrize("date", ["x", "0"])
def test_a_picture_has_no_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, date: str) -> None:
    """SOURCE_DATE_EPOCH changes no byte, and is no fault where it is no number; matplotlib reads it to lay out."""
    for name in ("a.svg", "b.svg"):
        with rc_context(STYLE):
            figure = Figure(layout="constrained")
            figure.add_subplot().plot([1, 2])
            save_figure(figure, tmp_path / name)
        monkeypatch.setenv("SOURCE_DATE_EPOCH", date)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert os.environ["SOURCE_DATE_EPOCH"] == date


@pytest.mark.parametrize("word", WORDS)
def test_every_printer(word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title=word, caption=word)
    table.add_column(word)
    table.add_row(word)
    console = open_console()
    console.print(word)
    console.print(table)
    console.print(TextTable(word, (word, word), [(word, word)], word).rich())
    print(TextTable(word, (word, word), [(word, word)], word))
    shown = capsys.readouterr().out
    assert not {"\x1b", "\u202e"} & set(shown)
    if len(word) < 20 and word.isascii() and word.isprintable():
        assert shown.count(word) == 17
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([1, 2], label=word)
    axes.set_title(word)
    axes.set_yscale("log")
    axes.legend()
    for name in ("a.png", "a.svg"):
        save_figure(figure, tmp_path / name)
    text = html_page(
        title=word,
        verdict=word,
        lead=word,
        picture_svg=b"",
        tables=[],
        configuration=word,
        facts={word: word},
        command=word,
    )
    assert not {"\x1b", "\u202e", "\udcff"} & set(text)
    assert "<script>" not in text
    assert "<script>" not in as_markdown(word)
    assert "\n" not in as_markdown(word + "\n")


def test_a_fence_is_longer_than_those_inside() -> None:
    assert fenced("a\n```\n# b", "yaml") == ["````yaml", "a\n```\n# b", "````", ""]
