"""The grammar of a parameter: what it says, and what it refuses."""

from __future__ import annotations

import pytest

from outgrow.algebra.axes import parse
from outgrow.errors import ArchitectureError

SIZES = {"embed": 6, "mlp": 10, "heads": 2, "kv_heads": 3, "group": 4, "dim": 5, "vocab": 11}


@pytest.mark.parametrize(
    ("text", "shape", "roles"),
    [
        ("mlp <- embed", (10, 6), ["writes", "reads"]),
        ("embed -> (3 heads dim)", (6, 30), ["reads", "writes"]),
        ("(kv_heads group dim) <- embed", (60, 6), ["writes", "reads"]),
        ("vocab -> embed", (11, 6), ["reads", "writes"]),
        ("vocab <- embed", (11, 6), ["writes", "reads"]),
        ("mlp", (10,), ["writes"]),
        ("scale embed", (6,), ["scales"]),
        ("(mlp + mlp) <- embed", (20, 6), ["writes", "reads"]),
        ("(heads dim + kv_heads dim + 7) <- embed", (32, 6), ["writes", "reads"]),
        ("embed <- heads dim", (6, 2, 5), ["writes", "reads", "reads"]),
        ("  mlp<-embed ", (10, 6), ["writes", "reads"]),
        ("1 embed", (1, 6), ["writes", "writes"]),
    ],
)
def test_shapes_and_roles(text: str, shape: tuple[int, ...], roles: list[str]) -> None:
    signature = parse(text)
    assert signature.shape(SIZES) == shape
    assert [dim.role for dim in signature.dims] == roles
    assert str(signature) == text


def test_axes_by_role() -> None:
    signature = parse("embed -> (heads dim + 2)")
    assert signature.axes("reads") == {"embed"}
    assert signature.axes("writes") == {"heads", "dim"}
    assert signature.axes("scales") == frozenset()
    assert str(signature.dims[1]) == "(heads dim + 2)"
    assert str(signature.dims[0]) == "embed"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mlp <-",
        "<- embed",
        "->",
        "a <- b <- c",
        "a <- b -> c",
        "mlp <- Embed",
        "(mlp + ) <- embed",
        "() <- embed",
        "(mlp <- embed",
        "mlp) <- embed",
        "0 <- embed",
        "-3 <- embed",
        "a * b",
        "a, b",
    ],
)
def test_what_is_no_signature(text: str) -> None:
    with pytest.raises(ArchitectureError, match="signature"):
        parse(text)
