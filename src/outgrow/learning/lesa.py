"""LESA (arXiv 2502.13794): a layer between two others is predicted from them, by an SVD and a small network.

For every kind of matrix, with layers W_1 ... W_L side by side:

    [W_1 | ... | W_L] = U Σ Vᵀ,   C_i = Uᵀ W_i = Σ V_iᵀ,   G(C_{i-1}, C_{i+1}) ≈ C_i,   new layer  W = U G(C_i, C_{i+1})

G is fitted on the triples of the model itself: mean squared error plus λ times the error of the norm. Here G is the mean
of the neighbours plus a small network on the columns of both, whose last layer begins at zero, so that the fit begins at
interpolation. Norms and biases are the mean of their neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from outgrow.errors import GrowthError
from outgrow.growth.growth import Growth
from outgrow.growth.target import target
from outgrow.methods.learned.fitted import FittedOperator, describe_source
from outgrow.methods.learned.lesa import Lesa, name
from outgrow.models.architecture import resolve
from outgrow.run.learn_options import LesaOptions
from outgrow.state.operator_file import sampled
from outgrow.state.training_state import TrainingState
from outgrow.store.source import TensorSource

_NORM_WEIGHT = 5e-5  # λ of the paper


@dataclass(frozen=True)
class Predicted:
    """Tensors of new layers, and how well old ones are predicted from their neighbours.

    Errors are mean squares in units of the matrices' own coefficients, on the triples that were fitted, averaged over the
    kinds of matrices: of the prediction, and of the neighbours' mean.
    """

    tensors: dict[str, Tensor]
    error: float
    error_of_mean: float


def fit_lesa(
    state: TrainingState,
    to: Mapping[str, Any],
    *,
    width: str = LesaOptions.width,
    noise: float = 0.0,
    steps: int = LesaOptions.steps,
    hidden: int = LesaOptions.hidden,
    rank: int = LesaOptions.rank,
    seed: int = LesaOptions.seed,
) -> Growth:
    """A growth whose new layers stand between old neighbours, predicted from them; width grows as `width` says.

    See LesaOptions: seconds on small models. The predicted layers are held in memory, in `Growth.tensors`. Keeps neither
    function nor gradient law; moments of a new layer are those of the layer before it. Raises GrowthError with fewer than
    three layers (there is no triple to learn from) and for more new layers than gaps.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=3,
    ...     num_attention_heads=2, bos_token_id=1, eos_token_id=2)
    >>> small = TrainingState.from_model(LlamaForCausalLM(config))
    >>> fit_lesa(small, {"num_hidden_layers": 4}, steps=2).layers.rows
    (((0, 1.0),), ((1, 1.0),), ((1, 1.0),), ((2, 1.0),))
    """
    options = LesaOptions(width, noise, steps, hidden, rank, seed)
    form = lesa_form(state.config, to, options)
    found = predict_layers(state, form, options)
    growth = form.growth(found.tensors)
    told = {"steps": steps, "hidden": hidden, "rank": rank, **_errors(found)}
    depth, *rest = growth.provenance
    return replace(growth, provenance=({**depth, **told}, *rest))


def learn_lesa(
    state: TrainingState, to: Mapping[str, Any], options: LesaOptions
) -> tuple[FittedOperator, Predicted]:
    """The same as an operator that can be saved and applied again. It needs no data: the model's own layers are the task."""
    form = lesa_form(state.config, to, options)
    found = predict_layers(state, form, options)
    names = [name(pattern, layer) for pattern in form.patterns for layer in range(form.small.layers)]
    sample = sampled(state.source, names)
    made = lesa_operator(form, options, to, found.tensors, {"fit": asdict(options), **_errors(found)})
    return replace(made, source={**made.source, "sample": sample}), found


def lesa_operator(
    form: Lesa,
    options: LesaOptions,
    to: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    record: Mapping[str, Any],
) -> FittedOperator:
    """Predicted layers as an operator."""
    spec = form.small.spec
    sizes = {spec.aliases.get(field, field): value for field, value in to.items()}
    own = {"width": options.width, "noise": options.noise, "seed": options.seed}
    return FittedOperator("lesa", own, sizes, {}, describe_source(form.small), tensors, record)


def lesa_flops(form: Lesa, options: LesaOptions) -> int:
    """FLOPs of all fits: for each kind of matrix an SVD of the layers side by side, and steps of the network on the triples.

    An SVD of (long, short) takes 6 long short² + 20 short³ (Golub and Van Loan, R-SVD); a network 6 per weight and column.
    """
    total = 0
    for pattern in form.patterns:
        shape = form.small.shape(name(pattern, 0))
        if len(shape) < 2:
            continue
        rows, columns = shape[0], shape[1]
        short, long = sorted((rows, columns * form.small.layers))
        rank = min(options.rank, short)
        network = 3 * rank * options.hidden
        total += 6 * long * short**2 + 20 * short**3
        total += options.steps * 6 * network * columns * (form.small.layers - 2)
    return total


def lesa_memory(form: Lesa, options: LesaOptions, source: TensorSource) -> tuple[int, int]:
    """Bytes at the peak of all fits: above Python's own, and of mapped files, which the system takes back where it needs them.

    Kinds are fitted one after the other. Of a kind: its old layers in float32 (where they are not stored so), then an SVD of
    them side by side (they, a copy, U and V) or the network's steps (coefficients of all layers; on the triples inputs, hidden
    units, errors and their gradients). What is predicted stays.
    """
    layers, new = form.small.layers, form.large.layers - form.small.layers
    triples, held, peak, mapped = layers - 2, 0, 0, 0
    for pattern in form.patterns:
        old = [source.meta(name(pattern, layer), "weight") for layer in range(layers)]
        mapped += sum(meta.bytes for meta in old)
        rows, columns = old[0].shape[0], prod(old[0].shape[1:])
        read = sum(rows * columns for meta in old if meta.dtype != torch.float32)
        work = 0
        if len(old[0].shape) > 1:
            short = min(rows, layers * columns)
            rank = min(options.rank, short)
            svd = 2 * layers * rows * columns + short * (layers * columns + rows) + 4 * short**2
            steps = columns * (rank * (layers + 8 * triples) + 3 * options.hidden * triples)
            work = max(svd, rows * rank + steps)
        made = new * rows * columns
        peak = max(peak, held + read + max(work, made))
        held += made
    return peak * torch.float32.itemsize, mapped


def lesa_form(config: Mapping[str, Any], to: Mapping[str, Any], options: LesaOptions) -> Lesa:
    """Everything that can be refused, before any tensor is read."""
    small = resolve(config)
    form = Lesa(small, target(small, to), options.width, options.noise, options.seed)
    form.growth({})  # the width operator may refuse too
    return form


def predict_layers(state: TrainingState, form: Lesa, options: LesaOptions) -> Predicted:
    """Fit G for every kind of matrix, and put it between the neighbours; norms and biases are their mean."""
    tensors: dict[str, Tensor] = {}
    fits: list[_Predictor] = []
    for pattern in form.patterns:
        made, fit = _predict_kind(state, form, options, pattern)
        tensors |= made
        fits += [fit] if fit is not None else []
    if not fits:
        raise GrowthError("LESA learns from matrices, and the layers of this model have none")
    return Predicted(
        tensors,
        sum(fit.error for fit in fits) / len(fits),
        sum(fit.error_of_mean for fit in fits) / len(fits),
    )


def _predict_kind(
    state: TrainingState, form: Lesa, options: LesaOptions, pattern: str
) -> tuple[dict[str, Tensor], _Predictor | None]:
    """One kind's tensors of the new layers, and the fit that they come from, of matrices. The old layers are let go with it."""
    names = [name(pattern, layer) for layer in range(form.small.layers)]
    values = [state.source.read(one, "weight").float() for one in names]
    fit = None
    if values[0].dim() > 1:
        fit = _Predictor.fit(values, options.steps, options.hidden, options.rank, options.seed)
    tensors = {}
    for new, (left, right) in enumerate(form.order):
        if right is not None:
            pair = values[left], values[right]
            made = fit.between(*pair) if fit is not None else (pair[0] + pair[1]) / 2
            tensors[f"lesa/{name(pattern, new)}"] = made
    return tensors, fit


def _errors(found: Predicted) -> dict[str, float]:
    return {"error": found.error, "error_of_mean": found.error_of_mean}


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
        basis = torch.linalg.svd(torch.cat(list(layers), dim=1), full_matrices=False).U[:, :rank].clone()
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
