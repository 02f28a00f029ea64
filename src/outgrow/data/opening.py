"""The data of a run, by the objective of its model: what they ask of a model first, then the data themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outgrow.cost.spans import MASK_SHARE
from outgrow.data import masked, spans
from outgrow.data.images import load_images
from outgrow.data.windows import Data, TrainingData, load_data
from outgrow.errors import ConfigError
from outgrow.files.reading import expanded
from outgrow.models.architecture import architecture_of
from outgrow.run.config import RunConfig
from outgrow.store.config_file import load_config


def run_objective(run: RunConfig) -> str:
    """`causal`, `masked`, `denoising` or `image`, as the architecture file of the run's first model says.

    Raises ConfigError where the data are of another kind.
    """
    if run.model is not None:
        config: Mapping[str, Any] = run.model
    else:
        assert run.stages[0].start is not None, "RunConfig asks for a model or a checkpoint"
        config = load_config(expanded(run.stages[0].start))
    model_type, objective = config["model_type"], architecture_of(config).objective
    if (objective == "image") != (run.data.images is not None):
        raise ConfigError(
            f"{model_type} learns from {'images' if objective == 'image' else 'text'}",
            got="data.images" if run.data.images is not None else "data.source",
            expected="data.images: an .npz file" if objective == "image" else "data.source: text",
        )
    if objective not in ("masked", "denoising") and run.data.mask_share != MASK_SHARE:
        raise ConfigError(f"data.mask_share: {model_type} hides no tokens", fix="leave it out")
    return objective


def open_data(run: RunConfig, tokenizer_folder: Path) -> Data:
    """Everything that a run reads."""
    objective = run_objective(run)
    if objective == "image":
        return load_images(run.data)
    text = load_data(
        run.data,
        tokenizer_folder,
        start=run.stages[0].start,
        special_tokens=special_tokens(run, objective),
        longest=run.window,
    )
    return as_learned(text, objective, run.data.mask_share)


def as_learned(text: TrainingData, objective: str, share: float = MASK_SHARE) -> Data:
    """The text as a model of this objective learns it, a share of it hidden."""
    if objective == "masked":
        return masked.hide(text, share)
    return spans.corrupt(text, share) if objective == "denoising" else text


def special_tokens(run: RunConfig, objective: str) -> Mapping[str, str]:
    """What a tokenizer that the run trains needs besides a token that ends a document: name in its settings -> token."""
    if objective == "masked":
        return masked.SPECIAL_TOKENS
    longest = max(run.window, run.data.sequence_length)
    return spans.sentinel_tokens(longest, run.data.mask_share) if objective == "denoising" else {}
