"""What every tensor writes, reads or scales, said in one line.

A weight that writes axis `mlp` and reads axis `embed` is `"mlp <- embed"`. That sentence is all that growth needs to
know about it. Dimensions stand in storage order and the arrow shows what is read:

    "mlp <- embed"                        Linear, stored (out, in)
    "embed -> (3 heads head_dim)"         GPT-2's Conv1D, fused, stored (in, out)
    "(kv_heads group dim) <- embed"       a grouped query: the agreement of the heads is structural
    "vocab -> embed"                      an embedding table reads tokens and writes the stream
    "mlp"   "scale embed"                 a bias only writes, a norm's gain scales
    "(mlp + mlp) <- embed"                concatenation
    "(heads (key_dim + value_dim))"       concatenation inside a product: key and value of each head side by side
    "raw(embed) <- mlp"                   the input of a norm whose output writes `embed` (a norm behind a branch)

Parentheses are products (row-major, outermost first), `+` is concatenation, an integer never grows. What a norm does
to the map of its input is derived from the map of its output, so `raw(...)` is no axis of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from typing import Literal, TypeAlias

from outgrow.errors import ArchitectureError

Role = Literal["writes", "reads", "scales"]


@dataclass(frozen=True)
class Sum:
    """A concatenation of products inside a product: the `(key_dim + value_dim)` of `(heads (key_dim + value_dim))`."""

    blocks: tuple[Product, ...]

    def __str__(self) -> str:
        return f"({_text(self.blocks)})"


@dataclass(frozen=True)
class Raw(Sum):
    """The input of a norm whose output is what stands inside: `raw(embed)`."""

    def __str__(self) -> str:
        return f"raw({_text(self.blocks)})"


Atom: TypeAlias = "str | int | Sum"
Product: TypeAlias = "tuple[Atom, ...]"


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
        return _size(self.blocks, sizes)

    @property
    def axes(self) -> frozenset[str]:
        """Names of the axes in this dimension, those inside `raw(...)` too."""
        return frozenset(_names(self.blocks))

    @property
    def products(self) -> tuple[tuple[str | int, ...], ...]:
        """The plain products that it is a sum of, those inside parentheses multiplied out.

        >>> parse("(heads (key_dim + value_dim)) <- embed").dims[0].products
        (('heads', 'key_dim'), ('heads', 'value_dim'))
        """
        return tuple(_products(self.blocks))

    @property
    def raw(self) -> tuple[Raw, ...]:
        """The inputs of norms that stand in it.

        >>> [str(one) for one in parse("(raw(latent) + rope) <- embed").dims[0].raw]
        ['raw(latent)']
        """
        return tuple(atom for block in self.blocks for atom in block if isinstance(atom, Raw))

    def __str__(self) -> str:
        text = _text(self.blocks)
        return text if len(self.blocks) == 1 and len(self.blocks[0]) == 1 else f"({text})"


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

    @property
    def is_gain(self) -> bool:
        """Whether it only scales: a norm's gain, or a branch's."""
        return bool(self.dims) and self.dims[0].role == "scales"

    @property
    def raw(self) -> tuple[Raw, ...]:
        """The inputs of norms in its first dimension."""
        return self.dims[0].raw if self.dims else ()

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
    tokens = re.findall(r"raw\(|[()+]|[a-z0-9_]+|\S", side)
    tokens.reverse()
    dims = []
    while tokens:
        atom = _next(tokens, text)
        plain = isinstance(atom, Sum) and not isinstance(atom, Raw)
        dims.append(Dim(role, atom.blocks if plain and isinstance(atom, Sum) else ((atom,),)))
    if not dims:
        raise ArchitectureError(
            f"signature '{text}' has an empty side", expected='for example "mlp <- embed"'
        )
    return tuple(dims)


def _next(tokens: list[str], text: str) -> Atom:
    """Take one word, number or parenthesis from the end of a reversed list of tokens."""
    token = tokens.pop()
    if token not in ("(", "raw("):
        return _atom(token, text)
    blocks: list[list[Atom]] = [[]]
    while tokens and tokens[-1] != ")":
        if tokens[-1] == "+":
            tokens.pop()
            blocks.append([])
        else:
            blocks[-1].append(_next(tokens, text))
    if not tokens:
        raise ArchitectureError(f"signature '{text}' has an open parenthesis")
    tokens.pop()
    if not all(blocks):
        raise ArchitectureError(f"signature '{text}' has an empty term in a parenthesis")
    return (Raw if token == "raw(" else Sum)(tuple(map(tuple, blocks)))


def _atom(word: str, text: str) -> Atom:
    if word.isdigit() and int(word) > 0:
        return int(word)
    if re.fullmatch(r"[a-z_][a-z0-9_]*", word):
        return word
    raise ArchitectureError(
        f"signature '{text}': '{word}' is not an axis", expected="a lower-case word or a number"
    )


def _text(blocks: tuple[Product, ...]) -> str:
    return " + ".join(" ".join(str(atom) for atom in block) for block in blocks)


def _names(blocks: tuple[Product, ...]) -> Iterator[str]:
    for block in blocks:
        for atom in block:
            if isinstance(atom, Sum):
                yield from _names(atom.blocks)
            elif isinstance(atom, str):
                yield atom


def _products(blocks: tuple[Product, ...]) -> Iterator[tuple[str | int, ...]]:
    for block in blocks:
        choices = [tuple(_products(atom.blocks)) if isinstance(atom, Sum) else ((atom,),) for atom in block]
        for chosen in product(*choices):
            yield tuple(atom for part in chosen for atom in part)


def _size(blocks: tuple[Product, ...], sizes: Mapping[str, int]) -> int:
    return sum(prod(_atom_size(atom, sizes) for atom in block) for block in blocks)


def _atom_size(atom: Atom, sizes: Mapping[str, int]) -> int:
    if isinstance(atom, Sum):
        return _size(atom.blocks, sizes)
    return atom if isinstance(atom, int) else sizes[atom]
