"""docs/reference/operators.md is what the registry says, and `outgrow operators` shows the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from outgrow.cli import app
from outgrow.errors import GrowthError
from outgrow.methods.build import DEPTH, EXPERTS, WIDTH
from outgrow.report.operators_page import one, read_measured, render

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_is_written_from_the_registry() -> None:
    measured = read_measured(DOCS / "_static" / "operators.json")
    assert (DOCS / "reference" / "operators.md").read_text() == render(WIDTH, DEPTH, EXPERTS, measured), (
        "run: python -m outgrow.report.operators_page docs/reference/operators.md"
    )


def test_every_operator_has_a_section_and_measured_rows_are_shown() -> None:
    page = render(WIDTH, DEPTH, EXPERTS, {"staged": {"saving": "12 %"}})
    for name in (*WIDTH, *DEPTH, *EXPERTS):
        assert f"### `{name}`" in page
    assert "| `staged` | 12 % |" in page


def test_the_command_lists_and_shows() -> None:
    assert "lemon" in CliRunner().invoke(app, ["operators"]).output
    assert "split" in CliRunner().invoke(app, ["operators", "lemon"]).output
    with pytest.raises(GrowthError, match="did you mean lemon"):
        one("lemo")


def test_every_option_has_a_line_and_no_line_is_without_an_option() -> None:
    for operator in (*WIDTH.values(), *DEPTH.values(), *EXPERTS.values()):
        assert list(operator.options) == list(operator.kinds), operator.name
