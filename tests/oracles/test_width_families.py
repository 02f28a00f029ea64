"""Net2Net, AKI, LEMON, SPARKLING, MSG, SZP and µP a second time: one entry after the other, from the papers' formulas.

A grown matrix is given by what each new row and column takes: (old index, factor), or None for nothing.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from battery import growing, zoo
from outgrow.errors import GrowthError
from outgrow.growth.multipliers import multipliers
from outgrow.growth.plan import plan
from outgrow.methods.build import build
from outgrow.methods.width.mup import mup_multipliers
from outgrow.methods.width.net2net import drawn
from outgrow.models.architecture import load_architecture, resolve
from outgrow.proof import guard, tiny_model
from outgrow.proof.tiny_model import example
from outgrow.state.grown_view import GrownView
from outgrow.store.source import MemorySource

Array = NDArray[np.float64]
Takes = list[tuple[int, float] | None]

UP = {"llama": "model.layers.1.mlp.up_proj.weight", "gpt2": "transformer.h.1.mlp.c_fc.weight"}
DOWN = {"llama": "model.layers.1.mlp.down_proj.weight", "gpt2": "transformer.h.1.mlp.c_proj.weight"}
TABLE = {"llama": "model.embed_tokens.weight", "gpt2": "transformer.wte.weight"}
GAIN = {"llama": "model.layers.1.post_attention_layernorm.weight", "gpt2": "transformer.h.1.ln_2.weight"}
TO = {
    "llama": {"hidden_size": 56, "intermediate_size": 53},
    "gpt2": {"n_embd": 54, "n_head": 9, "n_inner": 53},
}
WIDE = {"llama": 56, "gpt2": 54}


def built(name: str, rows: Takes, columns: Takes, value: Array) -> Array:
    """W'[r, s] = factor(r) · factor(s) · W[old r, old s], in (out, in) order, for a stored tensor."""
    matrix = value if name.startswith("model") else value.T  # Conv1D is stored (in, out)
    grown = np.zeros((len(rows), len(columns)))
    for r, row in enumerate(rows):
        for s, column in enumerate(columns):
            if row is not None and column is not None:
                grown[r, s] = matrix[row[0], column[0]] * row[1] * column[1]
    return grown if name.startswith("model") else grown.T


def grown(
    name: str, width: str, to: dict[str, int] | None = None, **options: float
) -> tuple[dict[str, Array], dict[str, Array]]:
    plan = growing.planned(name, to or TO[name], width=width, **options)
    weights = growing.weights(zoo.build(zoo.config(name)))
    view = growing.view(plan, weight=weights)
    old = {tensor: value.numpy() for tensor, value in weights.items()}
    return old, {tensor: view.read(tensor, "weight").numpy() for tensor in view.names("weight")}


def close(found: Array, wanted: Array) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=1e-15)


def plain(index: list[int]) -> Takes:
    return [(unit, 1.0) for unit in index]


def shared(index: list[int]) -> Takes:
    return [(unit, 1 / index.count(unit)) for unit in index]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_net2net(name: str) -> None:
    old, new = grown(name, "net2net", seed=4)
    stream = drawn("embed", 24, WIDE[name], seed=4).tolist()
    units = drawn("mlp", 40, 53, seed=4).tolist()
    assert stream[:24] == list(range(24))
    assert units != drawn("mlp", 40, 53, seed=5).tolist()
    close(new[UP[name]], built(UP[name], plain(units), shared(stream), old[UP[name]]))
    close(new[DOWN[name]], built(DOWN[name], plain(stream), shared(units), old[DOWN[name]]))
    close(new[TABLE[name]], old[TABLE[name]][:, stream])
    close(new[GAIN[name]], old[GAIN[name]][stream])


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_net2net_noise_is_in_further_copies_alone(name: str) -> None:
    to = {"intermediate_size": 53}
    _, quiet = grown(name, "net2net", to)
    _, noisy = grown(name, "net2net:visible=0.5", to)
    moved = noisy[UP[name]] - quiet[UP[name]]
    moved = moved if name == "llama" else moved.T
    assert not moved[:40].any()
    assert moved[40:].all()
    assert np.std(moved[40:]) == pytest.approx(0.5 * 0.02, rel=0.2)
    assert np.array_equal(noisy[DOWN[name]], quiet[DOWN[name]])


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("layer", [1, 2])
def test_aki(name: str, layer: int) -> None:
    old, new = grown(name, "aki")
    stream = drawn("embed", 24, WIDE[name], seed=0).tolist()
    units = drawn("mlp", 40, 53, seed=0).tolist()
    for pattern, rows, columns, first in ((UP, units, stream, 40), (DOWN, stream, units, 24)):
        here = pattern[name].replace(".1.", f".{layer}.")
        after = pattern[name].replace(".1.", f".{min(layer + 1, 2)}.")
        own, others = (built(here, plain(rows), shared(columns), old[one]) for one in (here, after))
        wanted = (
            np.concatenate([own[:first], others[first:]])
            if name == "llama"
            else np.concatenate([own[:, :first], others[:, first:]], 1)
        )
        close(new[here], wanted)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_lemon(name: str) -> None:
    """24 to 2 · 24 + rest channels: the rest is zero (RMSNorm) or the mean (LayerNorm); shares 2/3 and 1/3."""
    old, new = grown(name, "lemon")
    wide = WIDE[name]
    units = [unit % 40 for unit in range(53)]
    read: Takes = [
        (unit % 40, (2 / 3 if unit < 40 else 1 / 3) if unit % 40 < 13 else 1.0) for unit in range(53)
    ]
    down = built(DOWN[name], [*plain([*range(24)] * 2), *[None] * (wide - 48)], read, old[DOWN[name]])
    table = np.zeros((37, wide))
    table[:, :48] = np.tile(old[TABLE[name]], 2)
    if name == "gpt2":
        down[:, 48:] = down[:, :24].mean(1, keepdims=True)
        table[:, 48:] = old[TABLE[name]].mean(1, keepdims=True)
    close(new[DOWN[name]], down)
    close(new[TABLE[name]], table)
    columns: Takes = [(channel % 24, 2 / 3 if channel < 24 else 1 / 3) for channel in range(48)]
    up = new[UP[name]] if name == "llama" else new[UP[name]].T
    wanted = built(UP[name], plain(units), columns, old[UP[name]])
    close(up[:, :48], wanted if name == "llama" else wanted.T)
    close(new[GAIN[name]][:48], np.tile(old[GAIN[name]], 2) * sqrt(2 * 24 / wide))


@pytest.mark.parametrize(
    ("fan_in", "factor"),
    [("copy", sqrt(40 / (3 * 53 - 80))), ("zero", sqrt(40 / 53)), ("random", sqrt(40 / 53))],
)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_sparkling(name: str, fan_in: str, factor: float) -> None:
    old, new = grown(name, f"sparkling:fan_in={fan_in}", {"intermediate_size": 53})
    units = [unit % 40 for unit in range(53)]
    close(new[UP[name]], built(UP[name], plain(units), plain([*range(24)]), old[UP[name]]))
    read: Takes = [(unit % 40, factor) if fan_in == "copy" or unit < 40 else None for unit in range(53)]
    wanted = built(DOWN[name], plain([*range(24)]), read, old[DOWN[name]])
    found = new[DOWN[name]]
    if fan_in == "random":
        drawn_ = (found - wanted) if name == "llama" else (found - wanted).T
        assert not drawn_[:, :40].any()
        size = sqrt(float(np.square(old[DOWN[name]]).mean()))
        assert np.std(drawn_[:, 40:]) == pytest.approx(factor * size, rel=0.15)
    else:
        close(found, wanted)
    close(new[GAIN[name]], old[GAIN[name]])


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_random_growth(name: str) -> None:
    """MSG: old block kept, all else drawn, gains 1; SZP: λ·W padded, all perturbed."""
    old, new = grown(name, "msg")
    inner = new[UP[name]] if name == "llama" else new[UP[name]].T
    before = old[UP[name]] if name == "llama" else old[UP[name]].T
    close(inner[:40, :24], before)
    assert inner[40:].all()
    assert inner[:, 24:].all()
    assert np.std(inner[40:]) == pytest.approx(0.02, rel=0.1)
    close(new[GAIN[name]], np.concatenate([old[GAIN[name]], np.ones(WIDE[name] - 24)]))
    _, still = grown(name, "szp:shrink=0.25,perturb=0")
    wanted = built(
        UP[name],
        [*plain([*range(40)]), *[None] * 13],
        [*plain([*range(24)]), *[None] * (WIDE[name] - 24)],
        old[UP[name]],
    )
    close(still[UP[name]], 0.25 * wanted)
    close(still[GAIN[name]], new[GAIN[name]])
    _, moved = grown(name, "szp:shrink=0.25,perturb=1")
    assert np.std(moved[UP[name]] - still[UP[name]]) == pytest.approx(0.02 * sqrt(24 / WIDE[name]), rel=0.1)


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama-tied-bias", "bert"])
def test_mup_multipliers(name: str) -> None:
    """For even copies they are those under which training commutes with growth: rates, and eps as gradients shrink."""
    plan = growing.planned(name, growing.shape(name, "double"), width="upscale", depth="stack")
    found, rates = mup_multipliers(plan), multipliers(plan)
    for tensor, one in found.items():
        assert one.learning_rate == pytest.approx(rates[tensor], rel=1e-12), tensor
        assert one.weight_decay == pytest.approx(1 / rates[tensor], rel=1e-12), tensor
        shrinks = 1.0
        for map_ in plan.recipes["exp_avg"][tensor].terms[0].maps:
            matrix = map_.matrix()
            shrinks *= float(matrix[matrix != 0][0])
        assert one.eps == pytest.approx(shrinks, rel=1e-12), tensor


@pytest.mark.parametrize("snr", [10.0, 20.0])
def test_hypercloning_noise_is_in_decibels(snr: float) -> None:
    """N - N F Gᵀ of N(0, σ²) over two copies leaves σ²/2 per entry."""
    to = {"intermediate_size": 80}
    old, quiet = grown("llama", "hypercloning", to)
    _, noisy = grown("llama", f"hypercloning:snr={snr}", to)
    size = sqrt(float(np.square(old[DOWN["llama"]]).mean()))
    noise = noisy[DOWN["llama"]] - quiet[DOWN["llama"]]
    assert np.std(noise) == pytest.approx(10 ** (-snr / 20) * size * sqrt(0.5), rel=0.1)
    close(noise[:, :40], -noise[:, 40:])


@pytest.mark.parametrize(
    ("name", "width", "to", "says"),
    [
        ("llama", "lemon", {"head_dim": 16}, "keeps head_dim"),
        ("llama", "lemon:split=0", {"intermediate_size": 80}, "above 0"),
        ("llama", "lemon:expansion=circular", {"hidden_size": 40}, "expansion=average"),
        ("llama", "lemon:expansion=round", {"hidden_size": 40}, "average or circular"),
        ("bert", "lemon", {"hidden_size": 36, "num_attention_heads": 6}, "post-norm"),
        ("llama", "hypercloning", {"hidden_size": 40}, "not a multiple"),
        ("gpt2", "hypercloning", {"n_embd": 48}, "keeps head_dim"),
        ("llama", "msg", {"num_key_value_heads": 4}, "fewer query heads"),
        ("llama", "szp", {"num_key_value_heads": 4}, "fewer query heads"),
        ("llama", "sparkling", {"num_attention_heads": 8}, "keeps heads"),
        ("gpt2", "sparkling", {"n_embd": 48}, "would grow|LayerNorm"),
        ("llama", "sparkling:fan_in=zero,factor=exact", {"intermediate_size": 53}, "divides among copies"),
        ("llama", "upscale:perturb=-1", {"hidden_size": 48}, "0 or more"),
        ("llama", "upscale", {"hidden_size": 40}, "not a multiple"),
    ],
)
def test_refusals(name: str, width: str, to: dict[str, int], says: str) -> None:
    with pytest.raises(GrowthError, match=says):
        growing.planned(name, to, width=width)


def test_msg_draws_from_the_seed() -> None:
    _, one = grown("llama", "msg", seed=1)
    _, same = grown("llama", "msg", seed=1)
    _, other = grown("llama", "msg", seed=2)
    assert np.array_equal(one[UP["llama"]], same[UP["llama"]])
    assert not np.array_equal(one[UP["llama"]], other[UP["llama"]])
    assert torch.is_tensor(drawn("mlp", 3, 5, seed=0))


@pytest.mark.parametrize("width", ["msg", "szp"])
@pytest.mark.parametrize("kind", ["olmoe", "glm4", "deepseek_v3", "clip_vision_model", "gemma2", "dinov2"])
def test_gains_of_norms_everywhere_are_known(kind: str, width: str) -> None:
    """Behind a branch, over all heads, over a latent, and LayerScale: a new gain is 1, or the mean of the old ones."""
    spec = load_architecture(kind)
    config = example(spec)
    assert spec.example is not None
    wanted = {"hidden_size", "num_attention_heads", "num_key_value_heads"} & set(spec.example.grow)
    to = {name: 2 * config[name] for name in sorted(wanted)}
    made = plan(build(resolve(config), to, width=width))
    old = {
        name: torch.full(made.small.shape(name), 3.0, dtype=torch.float64) for name in made.small.parameters
    }
    view = GrownView(made, MemorySource({"weight": old}))
    gains = [one for one in made.large.parameters.values() if one.signature.is_gain]
    for one in gains:
        new = view.read(one.name, "weight").flatten()[-1] + one.spec.plus
        grows = made.small.shape(one.name) != made.large.shape(one.name)
        if grows and not one.signature.raw:
            assert new == 1, one.name
    assert gains


@pytest.mark.parametrize(
    ("kind", "to"),
    [
        (
            "phi3",
            {"hidden_size": 48, "num_attention_heads": 8, "num_key_value_heads": 2},
        ),  # keys stay, beside queries
        ("falcon", {"hidden_size": 64, "num_attention_heads": 8}),
        ("falcon_h1", {"hidden_size": 48, "mamba_n_heads": 8}),  # groups stay, beside their heads
        ("gemma3", {"hidden_size": 48, "intermediate_size": 80}),  # a norm behind each branch
        (
            "olmo2",
            {"hidden_size": 48, "num_attention_heads": 8, "num_key_value_heads": 4},
        ),  # a norm over all heads
    ],
)
def test_staged_keeps_what_is_fused_and_what_a_norm_reads(kind: str, to: dict[str, int]) -> None:
    """Rows that do not grow read every copy by its share; copies under one norm are written as the whole asks."""
    found = guard.grown(tiny_model.example(load_architecture(kind)), to, "staged")
    assert found.promises_function
    assert found.promises_law
    assert found.holds, found
