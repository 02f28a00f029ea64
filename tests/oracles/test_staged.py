"""Staged Training a second time: the paper's table entry by entry (arXiv 2203.06211), and what 1.10 says of symmetry."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from battery import growing, zoo
from outgrow.errors import GrowthError

Array = NDArray[np.float64]


def block_diagonal(value: Array, factor: int) -> Array:
    rows, columns = value.shape
    grown = np.zeros((factor * rows, factor * columns))
    for copy in range(factor):
        for row in range(rows):
            for column in range(columns):
                grown[copy * rows + row, copy * columns + column] = value[row, column]
    return grown


def chunks(name: str, value: Array) -> list[Array]:
    return np.split(value, 3, axis=-1) if "c_attn" in name else [value]


def expected(name: str, value: Array, slot: str, factor: int, *, published: bool) -> Array:
    """Weights as the paper's table; moments as its code (`published`) or in all blocks (the exact law)."""
    power = {"weight": 0, "exp_avg": 1, "exp_avg_sq": 2}[slot]
    share = factor**-power
    if "ln_f" in name:  # the last norm of a tied head is divided by g, and so its gradient is whole
        return np.tile(value, factor) / (factor if slot == "weight" else 1)
    if "lm_head" in name:  # [U | U] / g reads the whole of each copy, and so its gradient is whole
        return np.tile(value, (1, factor)) / (factor if slot == "weight" else 1)
    if value.ndim == 1:
        return np.concatenate([np.tile(chunk, factor) * share for chunk in chunks(name, value)])
    if "wte" in name or "wpe" in name or "embed_tokens" in name:
        return np.tile(value, (1, factor)) * share
    whole = slot != "weight" and not published
    grown = [
        np.tile(one, (factor, factor)) if whole else block_diagonal(one, factor)
        for one in chunks(name, value)
    ]
    return np.concatenate(grown, axis=1) * share


@pytest.mark.parametrize("moments", ["transport", "parts"])
@pytest.mark.parametrize(("name", "which", "factor"), [("gpt2", "triple", 3), ("llama", "double", 2)])
def test_every_entry(name: str, which: str, factor: int, moments: str) -> None:
    to = {field: size for field, size in growing.shape(name, which).items() if "layer" not in field}
    plan = growing.planned(name, to, width="staged", moments=moments)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(3)
    weights = growing.weights(zoo.build(zoo.config(name)))
    old = {
        slot: {
            tensor: torch.rand(value.shape, generator=generator, dtype=torch.float64)
            for tensor, value in weights.items()
        }
        for slot in ("weight", "exp_avg", "exp_avg_sq")
    }
    view = growing.view(plan, **old)
    for slot, tensors in old.items():
        for tensor, value in tensors.items():
            wanted = expected(tensor, value.numpy(), slot, factor, published=moments == "parts")
            np.testing.assert_allclose(
                view.read(tensor, slot).numpy(), wanted, rtol=1e-14, err_msg=f"{slot} {tensor}"
            )


def test_gradients_fill_all_blocks_and_published_moments_miss_half() -> None:
    """Off-diagonal blocks get the same gradient as diagonal ones: a block-diagonal m is off by 1/√2 (papers.md 1.10)."""
    to = {"n_embd": 48, "n_head": 8, "n_inner": 80}
    small = zoo.build(zoo.config("gpt2"))
    _, before = zoo.loss_and_gradients(small, zoo.batch())
    exact, published = (
        growing.planned("gpt2", to, width="staged", moments=how) for how in ("transport", "parts")
    )
    _, after = zoo.loss_and_gradients(growing.grown(exact, small), zoo.batch())
    name = "transformer.h.1.mlp.c_fc.weight"
    gradient = after[name]
    torch.testing.assert_close(gradient[:24, :40], gradient[24:, :40], rtol=1e-10, atol=1e-15)
    errors = []
    for plan in (exact, published):
        wanted = growing.view(plan, exp_avg=before).read(name, "exp_avg")
        errors.append(float((gradient - wanted).norm() / gradient.norm()))
    assert errors[0] < 1e-12
    assert errors[1] == pytest.approx(0.5**0.5, rel=1e-9)


@pytest.fixture(scope="module")
def symmetry() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "staged_symmetry.py"
    spec = importlib.util.spec_from_file_location("staged_symmetry", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_only_exact_moments_commute(symmetry: ModuleType) -> None:
    assert symmetry.drift("transport", 3) < 1e-6
    assert symmetry.drift("parts", 3) > 1e-3
    assert symmetry.drift("reset", 3) > 1e-3


@pytest.mark.parametrize(
    ("moments", "dropout", "noise", "mirrored", "part"),
    [
        ("transport", 0.0, 0.0, False, False),
        ("parts", 0.0, 0.0, False, False),
        ("transport", 0.0, 0.1, True, False),  # e = e': still exchangeable
        ("transport", 0.0, 0.1, False, True),
        ("parts", 0.1, 0.0, False, True),
    ],
)
def test_halves_part_by_dropout_or_unequal_noise_only(
    symmetry: ModuleType, moments: str, dropout: float, noise: float, mirrored: bool, part: bool
) -> None:
    after = symmetry.partings(moments, dropout, noise, (3,), mirrored)[0]
    assert after > 1e-3 if part else after < 1e-8


@pytest.mark.parametrize(
    ("name", "to", "says"),
    [
        ("gpt2", {"n_inner": 43}, "no multiple"),
        ("gpt2", {"n_embd": 48}, "keeps head_dim"),
        ("gpt2", {"n_embd": 48, "n_head": 8}, None),
        ("gpt2", {"n_embd": 48, "n_head": 8, "n_inner": 120}, "one factor"),
        ("llama", {"hidden_size": 48, "num_key_value_heads": 4, "num_attention_heads": 16}, "one factor"),
    ],
)
def test_refusals(name: str, to: dict[str, int], says: str | None) -> None:
    if says is None:
        assert growing.planned(name, to, width="staged").keeps_function
    else:
        with pytest.raises(GrowthError, match=says):
            growing.planned(name, to, width="staged")
