"""The pages for people: short enough to be read, their links lead somewhere, and their examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from outgrow.models.architecture import resolve

ROOT = Path(__file__).parent.parent
HOWTO = sorted((ROOT / "docs" / "howto").glob("*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts),
]


def words(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


@pytest.mark.parametrize("page", HOWTO, ids=[page.stem for page in HOWTO])
def test_a_how_to_is_short(page: Path) -> None:
    """80 lines of words; one that shows a whole file may have 100 with it."""
    assert words(page).count("\n") <= 80
    assert page.read_text(encoding="utf-8").count("\n") <= 102


@pytest.mark.parametrize(("page", "most"), [("README.md", 150), ("CONTRIBUTING.md", 120)])
def test_the_front_pages_are_short(page: str, most: int) -> None:
    assert (ROOT / page).read_text(encoding="utf-8").count("\n") <= most


def test_no_page_opens_a_model_without_its_head() -> None:
    """`AutoModel` drops the head's weights, and transformers prints a table about them."""
    shown = [page for page in (*PAGES, *(ROOT / "examples").iterdir()) if page.is_file()]
    wrong = [page.name for page in shown if "AutoModel.from_pretrained" in page.read_text(encoding="utf-8")]
    assert not wrong


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", words(page), flags=re.M)
    found: list[str] = []
    for heading in headings:
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        before = sum(other == name for other in found)
        found += [name] if not before else [name, f"{name}-{before}"]
    return set(found)


def test_every_link_leads_somewhere() -> None:
    broken = []
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", words(page)):
            if link.startswith(("http:", "https:", "mailto:")):
                continue
            name, _, anchor = link.partition("#")
            there = (page.parent / name).resolve() if name else page
            if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert not broken, broken


def test_the_operator_of_the_how_to_keeps_what_it_says() -> None:
    """Its first block is a whole file: F as isometric, shares of readers 3/(n+2) and 1/(n+2)."""
    text = (ROOT / "docs" / "howto" / "add-an-operator.md").read_text(encoding="utf-8")
    code = re.search(r"^   ```python\n(.*?)^   ```$", text, flags=re.S | re.M)
    assert code is not None
    names: dict[str, object] = {"__name__": "uneven"}
    exec(compile(re.sub(r"^   ", "", code[1], flags=re.M), "add-an-operator.md", "exec"), names)
    sizes = {"vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    small, large = (
        resolve(LlamaConfig(**sizes, intermediate_size=size).to_dict() | {"model_type": "llama"})
        for size in (4, 6)
    )
    axis = names["uneven"](small, large).axes["mlp"]  # type: ignore[operator]
    share = axis.backward.matrix()
    assert torch.allclose(share.T @ axis.forward.matrix(), torch.eye(4, dtype=share.dtype))
    assert sorted(share[share > 0].tolist()) == [0.25, 0.25, 0.75, 0.75, 1.0, 1.0]
