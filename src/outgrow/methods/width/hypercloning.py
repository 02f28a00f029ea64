"""HyperCloning: W tiled n × n and divided by n, or n times along the diagonal (Samragh et al., arXiv 2409.12903).

    symmetric   W' = [[W, W], [W, W]] / 2          = `duplicate`
    diagonal    W' = [[W, 0], [0, W]]              = `staged`, with one factor per model
    ± noise     W' + N, N F = 0                    cancels, since inputs are repeated: [[W + N, W - N], ...] / 2

The noise is given as a signal-to-noise ratio against the source weight, in dB: std = 10^(-snr/20) · rms(W).
"""

from __future__ import annotations

from dataclasses import replace
from math import inf, isfinite, isnan
from typing import Literal

from outgrow.errors import GrowthError
from outgrow.growth.growth import Growth
from outgrow.methods.registry import Operator
from outgrow.methods.width.basic import duplicate
from outgrow.methods.width.staged import block_diagonal, one_factor
from outgrow.methods.width.units import refuse_head_dim
from outgrow.models.model import Model


def hypercloning(
    small: Model,
    large: Model,
    *,
    seed: int = 0,
    noise: float = 0.0,
    variant: Literal["symmetric", "diagonal"] = "symmetric",
    snr: float = inf,
) -> Growth:
    """Tiled or block-diagonal copies, with noise at `snr` dB (the paper's is near 10) that no reader sees.

    With `snr`, the common `noise` is left out. Heads are added whole; sizes are multiples.
    Keeps: function; gradient law without noise.

    >>> from outgrow.models.architecture import resolve
    >>> from outgrow.growth.target import target
    >>> small = resolve({"model_type": "gpt2", "n_embd": 6, "n_head": 2, "n_layer": 1, "n_positions": 7, "vocab_size": 11})
    >>> hypercloning(small, target(small, {"n_embd": 12, "n_head": 4}), snr=20.0).noise
    0.1
    """
    if isnan(snr) or snr == -inf:
        raise GrowthError("option snr of width operator 'hypercloning'", got=snr, expected="decibels, as 10")
    refuse_head_dim(small, large, "hypercloning")
    growth = duplicate(small, large, seed=seed, noise=noise)
    if variant == "diagonal":
        growth = replace(
            growth, parts=block_diagonal(growth, one_factor(small, large, "hypercloning:variant=diagonal"))
        )
    return replace(growth, noise=10 ** (-snr / 20), noise_unit="weight") if isfinite(snr) else growth


OPERATORS = (
    Operator(
        name="hypercloning",
        kind="width",
        grow=hypercloning,
        title="Weights tiled and divided, or set along the diagonal; noise in decibels that no reader sees.",
        paper="HyperCloning (Samragh et al., arXiv 2409.12903)",
        tensors={
            "embeddings": "columns repeated",
            "attention": "symmetric: as duplicate; diagonal: as staged",
            "MLP": "symmetric: as duplicate; diagonal: as staged",
            "norms": "gains repeated; tied: the last gain × 1/n (the released Llama code unties instead)",
            "biases": "repeated",
            "head": "tied: kept tied; untied: columns × 1/n",
        },
        function="kept at multiples, under every norm, noise included",
        gradient="kept without noise",
        escape="with snr: noise; without: none",
        use="duplicate with noise that follows each weight's own size",
        published_moments="reset",
        options={
            "variant": "copies tile the whole matrix (symmetric), or its diagonal (diagonal)",
            "snr": "noise that no reader sees, as weight to noise in dB, about 10 in the paper; inf: none",
        },
    ),
)
