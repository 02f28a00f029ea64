"""LESA (arXiv 2502.13794): a layer between two others is predicted from them, by an SVD and a small network.

For every kind of matrix, with layers W_1 ... W_L side by side:

    [W_1 | ... | W_L] = U Σ Vᵀ,   C_i = Uᵀ W_i = Σ V_iᵀ,   G(C_{i-1}, C_{i+1}) ≈ C_i,   new layer  W = U G(C_i, C_{i+1})

G is fitted on the triples of the model itself: mean squared error plus λ times the error of the norm. Here G is the mean
of the neighbours plus a small network on the columns of both, whose last layer begins at zero, so that the fit begins at
interpolation. Norms and biases are the mean of their neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.architectures import resolve
from outgrow.errors import GrowthError
from outgrow.growth import Growth, Part
from outgrow.maps import LayerMap
from outgrow.operators import build
from outgrow.state import TrainingState

_NORM_WEIGHT = 5e-5  # λ of the paper


def fit_lesa(
    state: TrainingState,
    to: Mapping[str, Any],
    *,
    width: str = "isometric",
    noise: float = 0.0,
    steps: int = 200,
    hidden: int = 64,
    rank: int = 128,
    seed: int = 0,
) -> Growth:
    """A growth whose new layers stand between old neighbours, predicted from them; width grows as `width` says.

    `hidden` units and `rank` singular vectors at most for each kind of matrix, `steps` Adam steps each: seconds on
    small models. The predicted layers are held in memory, in `Growth.tensors`. Keeps neither function nor gradient law;
    moments of a new layer are those of the layer before it. Raises GrowthError with fewer than three layers (there is no
    triple to learn from) and for more new layers than gaps.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=3,
    ...     num_attention_heads=2, bos_token_id=1, eos_token_id=2)
    >>> small = TrainingState.from_model(LlamaForCausalLM(config))
    >>> fit_lesa(small, {"num_hidden_layers": 4}, steps=2).layers.rows
    (((0, 1.0),), ((1, 1.0),), ((1, 1.0),), ((2, 1.0),))
    """
    small = resolve(state.config)
    growth = build(small, to, width=width, depth="interleave", noise=noise, seed=seed)
    gaps = _gaps(small.layers, growth.large.layers)
    order: list[tuple[int, int | None]] = []  # (layer, the layer after it that it is mixed with)
    for layer in range(small.layers):
        order += [(layer, None), *([(layer, layer + 1)] if layer in gaps else [])]
    rows = tuple(((left, 1.0),) for left, _ in order)
    tensors: dict[str, Tensor] = {}
    parts = dict(growth.parts)
    errors: list[tuple[float, float]] = []
    for pattern in dict.fromkeys(one.pattern for one in small.parameters.values() if one.layer is not None):
        names = [pattern.replace("{L}", str(layer)) for layer in range(small.layers)]
        values = [state.source.read(name, "weight").float() for name in names]
        fit = _Predictor.fit(values, steps, hidden, rank, seed) if values[0].dim() > 1 else None
        if fit is not None:
            errors.append((fit.error_of_mean, fit.error))
        for new, (left, right) in enumerate(order):
            if right is not None:
                pair = values[left], values[right]
                source, name = f"lesa/{pattern.replace('{L}', str(new))}", pattern.replace("{L}", str(new))
                tensors[source] = fit.between(*pair) if fit is not None else (pair[0] + pair[1]) / 2
                parts[name] = tuple(replace(one, source=source) for one in parts.get(name, (Part(),)))
    learned = {
        "depth": "lesa",
        "steps": steps,
        "hidden": hidden,
        "rank": rank,
        "error_of_mean": sum(mean for mean, _ in errors) / len(errors),
        "error": sum(error for _, error in errors) / len(errors),
    }
    return replace(
        growth,
        layers=LayerMap(rows, small.layers),
        parts=parts,
        tensors=tensors,
        inexact="; ".join(filter(None, (growth.inexact, "new layers are predicted from their neighbours"))),
        provenance=(learned, *(entry for entry in growth.provenance if "width" in entry)),
    )


def _gaps(small: int, large: int) -> list[int]:
    """Layers after which a new one stands, evenly spread.

    >>> _gaps(5, 7)
    [1, 3]
    """
    new = large - small
    if small < 3:
        raise GrowthError(
            "LESA learns from triples of neighbouring layers, and this model has fewer than three layers",
            got=small,
            fix="use stack, interleave or identity",
        )
    if new > small - 1:
        raise GrowthError(
            f"LESA puts one layer between two neighbours, and {small} layers have {small - 1} gaps",
            got=f"{new} new layers",
            fix=f"choose at most {2 * small - 1} layers and grow again, or use stack or interleave (any depth)",
        )
    return [(2 * place + 1) * (small - 1) // (2 * new) for place in range(new)]


@dataclass(frozen=True)
class _Predictor:
    """G for one kind of matrix; errors are mean squares in units of the coefficients' own."""

    basis: Tensor  # U, (rows, rank)
    scale: float
    network: nn.Module
    error: float
    error_of_mean: float

    @classmethod
    def fit(cls, layers: Sequence[Tensor], steps: int, hidden: int, rank: int, seed: int) -> _Predictor:
        """Fit G on all triples of neighbours, with randomness of its own."""
        basis = torch.linalg.svd(torch.cat(list(layers), dim=1), full_matrices=False).U[:, :rank]
        found = torch.stack([basis.T @ layer for layer in layers])
        scale = max(float(found.square().mean().sqrt()), torch.finfo(torch.float32).tiny)
        found = found / scale
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            last = nn.Linear(hidden, basis.shape[1])
            network = nn.Sequential(nn.Linear(2 * basis.shape[1], hidden), nn.GELU(), last)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        before, wanted, after = found[:-2], found[1:-1], found[2:]
        with torch.enable_grad():
            for _ in range(steps):
                made = _between(network, before, after)
                norms = (made.norm(dim=(1, 2)) - wanted.norm(dim=(1, 2))).abs().mean()
                loss = (made - wanted).square().mean() + _NORM_WEIGHT * norms
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            error = float((_between(network, before, after) - wanted).square().mean())
        return cls(basis, scale, network, error, float(((before + after) / 2 - wanted).square().mean()))

    @torch.no_grad()
    def between(self, left: Tensor, right: Tensor) -> Tensor:
        """The layer between two: predicted inside the basis, the mean of both outside it."""
        pair = (self.basis.T @ left / self.scale, self.basis.T @ right / self.scale)
        made = _between(self.network, *(one[None] for one in pair))[0]
        mean = (left + right) / 2
        return mean + self.basis @ (made * self.scale - self.basis.T @ mean)


def _between(network: nn.Module, before: Tensor, after: Tensor) -> Tensor:
    """(layers, rank, columns), twice -> the mean of both plus what the network adds, column by column."""
    both = torch.cat([before, after], dim=1).transpose(1, 2)
    added: Tensor = network(both).transpose(1, 2)
    return (before + after) / 2 + added
