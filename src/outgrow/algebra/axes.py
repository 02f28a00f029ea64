"""What every tensor writes, reads or scales, said in one line.

A weight that writes axis `mlp` and reads axis `embed` is `"mlp <- embed"`. That sentence is all that growth needs to
know about it. Dimensions stand in storage order and the arrow shows what is read:

    "mlp <- embed"                        Linear, stored (out, in)
    "embed -> (3 heads head_dim)"         GPT-2's Conv1D, fused, stored (in, out)
    "(kv_heads group dim) <- embed"       a grouped query: the agreement of the heads is structural
    "vocab -> embed"                      an embedding table reads tokens and writes the stream
    "mlp"   "scale embed"                 a bias only writes, a norm's gain scales
    "(mlp + mlp) <- embed"                concatenation

Parentheses are products (row-major, outermost first), `+` is concatenation, an integer never grows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from outgrow.errors import ArchitectureError

Role = Literal["writes", "reads", "scales"]
Atom = str | int
Product = tuple[Atom, ...]


@dataclass(frozen=True)
class Dim:
    """One tensor dimension: what it does, and the sum of products of axes that it spans."""

    role: Role
    blocks: tuple[Product, ...]

    def size(self, sizes: Mapping[str, int]) -> int:
        """Length of the dimension, given the size of each axis.

        >>> parse("(mlp + mlp) <- embed").dims[0].size({"mlp": 10, "embed": 6})
        20
        """
        return sum(
            _product(atom if isinstance(atom, int) else sizes[atom] for atom in block)
            for block in self.blocks
        )

    @property
    def axes(self) -> frozenset[str]:
        """Names of the axes in this dimension."""
        return frozenset(atom for block in self.blocks for atom in block if isinstance(atom, str))

    def __str__(self) -> str:
        blocks = [" ".join(str(atom) for atom in block) for block in self.blocks]
        return blocks[0] if len(blocks) == 1 and len(self.blocks[0]) == 1 else f"({' + '.join(blocks)})"


@dataclass(frozen=True)
class Signature:
    """The dimensions of a tensor in storage order."""

    text: str
    dims: tuple[Dim, ...]

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The tensor's shape, given the size of each axis.

        >>> parse("embed -> (3 heads head_dim)").shape({"embed": 6, "heads": 2, "head_dim": 5})
        (6, 30)
        """
        return tuple(dim.size(sizes) for dim in self.dims)

    def axes(self, role: Role) -> frozenset[str]:
        """Axes that the tensor writes, reads or scales."""
        return frozenset[str]().union(*(dim.axes for dim in self.dims if dim.role == role))

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=4096)
def parse(text: str) -> Signature:
    """Read one line of the grammar.

    >>> [dim.role for dim in parse("vocab -> embed").dims]
    ['reads', 'writes']
    >>> parse("(kv_heads group 2) <- embed").dims[0].blocks
    (('kv_heads', 'group', 2),)
    """
    source = text.strip()
    if source.startswith("scale "):
        return Signature(text, _dims(source.removeprefix("scale "), "scales", text))
    if source.count("<-") + source.count("->") > 1:
        raise ArchitectureError(f"signature '{text}' has more than one arrow", fix="use one '<-' or one '->'")
    if "<-" in source:
        left, right = source.split("<-")
        return Signature(text, _dims(left, "writes", text) + _dims(right, "reads", text))
    if "->" in source:
        left, right = source.split("->")
        return Signature(text, _dims(left, "reads", text) + _dims(right, "writes", text))
    return Signature(text, _dims(source, "writes", text))


def _dims(side: str, role: Role, text: str) -> tuple[Dim, ...]:
    """Split one side of the arrow into dimensions: a word or a parenthesis each."""
    parts = re.findall(r"\([^()]*\)|[a-z_][a-z0-9_]*|\S", side)
    dims = []
    for part in parts:
        inner = part[1:-1] if part.startswith("(") else part
        blocks = tuple(tuple(_atom(word, text) for word in block.split()) for block in inner.split("+"))
        if not all(blocks):
            raise ArchitectureError(f"signature '{text}' has an empty term in '{part}'")
        dims.append(Dim(role, blocks))
    if not dims:
        raise ArchitectureError(
            f"signature '{text}' has an empty side", expected='for example "mlp <- embed"'
        )
    return tuple(dims)


def _atom(word: str, text: str) -> Atom:
    if word.isdigit() and int(word) > 0:
        return int(word)
    if re.fullmatch(r"[a-z_][a-z0-9_]*", word):
        return word
    raise ArchitectureError(
        f"signature '{text}': '{word}' is not an axis", expected="a lower-case word or a number"
    )


def _product(numbers: Iterable[int]) -> int:
    total = 1
    for number in numbers:
        total *= number
    return total
