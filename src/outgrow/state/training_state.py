"""A training state: weights, moments, steps, options and records of one model, wherever its bytes are.

Nothing is read until it is needed: a state is its config, a `TensorSource`, and some JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outgrow.algebra.slots import SLOTS
from outgrow.errors import CheckpointError
from outgrow.store.contents import Contents
from outgrow.store.source import MemorySource, TensorSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from outgrow.store.layouts import Format
    from outgrow.store.writer import BytesProgress


@dataclass(frozen=True)
class TrainingState(Contents):
    """The whole state of a training (its fields: `Contents`), with the doors to folders and live models.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
    ...     num_attention_heads=2, bos_token_id=1, eos_token_id=2)
    >>> state = TrainingState.from_model(LlamaForCausalLM(config))
    >>> state.source.meta("model.embed_tokens.weight", "weight").shape
    (11, 8)
    """

    @classmethod
    def from_pretrained(cls, path: str | Path, *, allow_nonfinite: bool = False) -> TrainingState:
        """Open a native state, a Trainer checkpoint or a Hugging Face model folder.

        All of it is checked before this returns: files, names, shapes, and that every number is finite (unless
        `allow_nonfinite`). The tensors stay on the disk. Raises `CheckpointError`.
        """
        from outgrow.store.opening import open_state

        return cls(**vars(open_state(Path(path), allow_nonfinite=allow_nonfinite)))

    @classmethod
    def from_model(
        cls,
        model: PreTrainedModel,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        records: Mapping[str, Any] | None = None,
        assets: Sequence[Path] = (),
    ) -> TrainingState:
        """The state of live objects, without a copy: training on changes what this state reads."""
        from outgrow.models.library import config_of
        from outgrow.state.live import read_optimizer

        config = config_of(model)
        parameters = dict(model.named_parameters())
        tensors: dict[str, dict[str, Tensor]] = {
            "weight": {name: value.detach() for name, value in parameters.items()}
        }
        info, steps = None, dict[str, float]()
        if optimizer is not None:
            live = read_optimizer(parameters, optimizer)
            info, steps = live.info, live.steps
            tensors |= live.moments
        return cls(config, MemorySource(tensors), steps, info, dict(records or {}), (), tuple(assets))

    def save_pretrained(
        self,
        path: str | Path,
        *,
        format: Format = "native",
        overwrite: bool = False,
        progress: BytesProgress | None = None,
    ) -> Path:
        """Write the state, streaming: a few row blocks in memory, and `path` appears whole or not at all.

        `format`: "native" keeps everything; "trainer" is a checkpoint that `Trainer` resumes; "hub" is the model alone.
        """
        from outgrow.store import layouts

        return layouts.save(self, path, format=format, overwrite=overwrite, progress=progress)

    def load_into(self, model: PreTrainedModel, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Copy weights (and moments and steps) into live objects, or, of a model cut by FSDP2, into this rank's shards.
        Names and shapes are all checked first.

        Values are cast to the parameter's dtype, moments too, as torch's own loader does. The optimizer's options
        (learning rate ...) stay as they are. Raises `CheckpointError` and changes nothing where anything does not fit.
        """
        from outgrow.parallel.pieces import fill
        from outgrow.state.live import check_optimizer, fill_optimizer

        parameters = dict(model.named_parameters())
        _check_fit(self.source, parameters)
        if optimizer is not None:
            if self.optimizer is None:
                raise CheckpointError("the state has no optimizer to load", fix="call load_into(model) alone")
            check_optimizer(self.source, parameters, optimizer, self.optimizer)
        for name, parameter in parameters.items():
            fill(self.source, name, "weight", parameter)
        if optimizer is not None:
            fill_optimizer(self.source, self.steps, parameters, optimizer)


def _check_fit(source: TensorSource, parameters: Mapping[str, Tensor]) -> None:
    """An error unless the weights are the model's, and every moment has the shape that its slot gives it."""
    wrong = sorted(set(source.names("weight")) ^ set(parameters))
    if wrong:
        raise CheckpointError(
            "the state's weight tensors are not the model's parameters", got=", ".join(wrong[:5])
        )
    for slot in SLOTS.values():
        for name in source.names(slot.name):
            found, expected = source.meta(name, slot.name).shape, slot.shape(tuple(parameters[name].shape))
            if found != expected:
                raise CheckpointError(
                    f"{slot.name} of {name} has another shape", got=found, expected=expected
                )
