"""Sentences that are too long to read at once: `python tools/prose.py [--words 30] FILE ...` prints them, and exits with 1.

Code, tables, links' addresses and formulas do not count. A sentence ends at a full stop, a question mark, a colon that
ends a line, a list item or a paragraph.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path


def sentences(text: str) -> Iterator[str]:
    """The sentences of a markdown page."""
    text = re.sub(r"^---\n.*?\n---\n", "", text, flags=re.S)
    text = re.sub(r"^( *)(```|:::)[^\n]*\n.*?^\1\2\s*$", "\n\n", text, flags=re.S | re.M)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"\$\$.*?\$\$", "", text, flags=re.S)
    text = re.sub(r"^\s*\|.*$|^#.*$|^!\[.*$", "\n", text, flags=re.M)
    text = re.sub(r"\$[^$\n]+\$|`[^`\n]+`", "x", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    for block in re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.)\s+", text):
        yield from re.split(r"(?<=[.!?:;])[*_)\"]*\s+(?=[A-Z0-9*_(\"x\[])", " ".join(block.split()))


def too_long(path: Path, limit: int) -> list[str]:
    """Sentences of more words than the limit."""
    return [
        sentence
        for sentence in sentences(path.read_text(encoding="utf-8"))
        if sum(bool(re.search(r"\w", word)) for word in sentence.split()) > limit
    ]


if __name__ == "__main__":
    arguments = sys.argv[1:]
    most = int(arguments[arguments.index("--words") + 1]) if "--words" in arguments else 30
    found, pages = 0, [word for word in arguments if word.endswith(".md")]
    if not pages:
        sys.exit("prose: name the pages to read, as `make check` does")
    for name in pages:
        for sentence in too_long(Path(name), most):
            found += 1
            print(f"{name}: {sentence}")
    sys.exit(bool(found))
