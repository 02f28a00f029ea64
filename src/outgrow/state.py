"""A training state: weights, moments, steps, options and records of one model, wherever its bytes are.

Nothing is read until it is needed: a state is its config, a `TensorSource`, and some JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from outgrow.errors import CheckpointError
from outgrow.store.contents import OptimizerInfo, ParamGroup
from outgrow.store.source import MemorySource, TensorSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from outgrow.store.layouts import Format
    from outgrow.store.writer import Progress

MOMENTS = ("exp_avg", "exp_avg_sq")

__all__ = ["OptimizerInfo", "ParamGroup", "TrainingState"]


@dataclass(frozen=True)
class TrainingState:
    """The whole state of a training.

    Without an optimizer: `steps` is empty, `optimizer` None, and the source has weights only. With an optimizer that
    has not stepped: `steps` is empty and `optimizer` is there.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
    ...     num_attention_heads=2, bos_token_id=1, eos_token_id=2)
    >>> state = TrainingState.from_model(LlamaForCausalLM(config))
    >>> state.source.meta("model.embed_tokens.weight", "weight").shape
    (11, 8)
    """

    config: dict[str, Any]
    """The content of `config.json`, defaults filled in."""
    source: TensorSource
    steps: dict[str, float] = field(default_factory=dict)
    """Optimizer steps that each parameter has seen, by name."""
    optimizer: OptimizerInfo | None = None
    records: dict[str, Any] = field(default_factory=dict)
    """JSON: "schedule", "data", "rng", "trainer" (trainer_state.json), "scheduler" (scheduler.pt)."""
    lineage: tuple[dict[str, Any], ...] = ()
    """One entry per growth, oldest first."""
    assets: tuple[Path, ...] = ()
    """Tokenizer files and the like, copied along."""

    @classmethod
    def from_pretrained(cls, path: str | Path, *, allow_nonfinite: bool = False) -> TrainingState:
        """Open a native state, a Trainer checkpoint or a Hugging Face model folder.

        All of it is checked before this returns: files, names, shapes, and that every number is finite (unless
        `allow_nonfinite`). The tensors stay on the disk. Raises `CheckpointError`.
        """
        from outgrow.store.opening import load

        opened = load(Path(path), allow_nonfinite=allow_nonfinite)
        found = opened.contents
        return cls(
            opened.config,
            found.source,
            found.steps,
            found.optimizer,
            found.records,
            found.lineage,
            opened.assets,
        )

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
        from outgrow.store.models import config_of

        config = config_of(model)
        parameters = dict(model.named_parameters())
        tensors: dict[str, dict[str, Tensor]] = {
            "weight": {name: value.detach() for name, value in parameters.items()}
        }
        info, steps = None, dict[str, float]()
        if optimizer is not None:
            info, moments, steps = _read_optimizer(parameters, optimizer)
            tensors |= moments
        return cls(config, MemorySource(tensors), steps, info, dict(records or {}), (), tuple(assets))

    def save_pretrained(
        self,
        path: str | Path,
        *,
        format: Format = "native",
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Path:
        """Write the state, streaming: a few row blocks in memory, and `path` appears whole or not at all.

        `format`: "native" keeps everything; "trainer" is a checkpoint that `Trainer` resumes; "hub" is the model alone.
        """
        from outgrow.store import layouts

        return layouts.save(self, path, format=format, overwrite=overwrite, progress=progress)

    def load_into(self, model: PreTrainedModel, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Copy weights (and moments and steps) into live objects; names and shapes are all checked first.

        Values are cast to the parameter's dtype, moments too, as torch's own loader does. The optimizer's options
        (learning rate ...) stay as they are. Raises `CheckpointError` and changes nothing where anything does not fit.
        """
        parameters = dict(model.named_parameters())
        slots = ("weight",) if optimizer is None or not self.steps else ("weight", *MOMENTS)
        if optimizer is not None and self.optimizer is None:
            raise CheckpointError("the state has no optimizer to load", fix="call load_into(model) alone")
        for slot in slots:
            _check_fit(self.source, slot, parameters)
        names = None if optimizer is None else [name for _, name in _grouped(parameters, optimizer)]
        if names is not None and set(names) != set(parameters):
            wrong = sorted(set(parameters) - set(names))
            raise CheckpointError(
                "the optimizer does not hold all parameters of the model", got=", ".join(wrong[:5])
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(self.source.read(name, "weight"))
            if optimizer is not None:
                _fill_optimizer(self, parameters, optimizer)


def _check_fit(source: TensorSource, slot: str, parameters: Mapping[str, Tensor]) -> None:
    wrong = sorted(set(source.names(slot)) ^ set(parameters))
    if wrong:
        raise CheckpointError(
            f"the state's {slot} tensors are not the model's parameters", got=", ".join(wrong[:5])
        )
    for name, parameter in parameters.items():
        shape = source.meta(name, slot).shape
        if shape != tuple(parameter.shape):
            raise CheckpointError(
                f"{slot} of {name} has another shape", got=shape, expected=tuple(parameter.shape)
            )


def _grouped(
    parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> Iterator[tuple[dict[str, Any], str]]:
    """(group, name) of every parameter in the optimizer."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in names:
                fix = "build the optimizer from model.parameters(), after the model has its final device and dtype"
                raise CheckpointError("the optimizer holds a parameter that is not the model's", fix=fix)
            yield group, names[id(parameter)]


def _read_optimizer(
    parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> tuple[OptimizerInfo, dict[str, dict[str, Tensor]], dict[str, float]]:
    from outgrow.store.optimizer_file import option

    _require_adam(optimizer)
    named = list(_grouped(parameters, optimizer))
    if {name for _, name in named} != set(parameters):
        wrong = sorted(set(parameters) - {name for _, name in named})
        raise CheckpointError(
            "the optimizer does not hold all parameters of the model", got=", ".join(wrong[:5])
        )
    groups = tuple(
        ParamGroup(
            tuple(name for owner, name in named if owner is group),
            {key: option(value) for key, value in group.items() if key not in ("params", "param_names")},
        )
        for group in optimizer.param_groups
    )
    info = OptimizerInfo(type(optimizer).__name__, groups)
    if not any(optimizer.state.get(parameter) for parameter in parameters.values()):
        return info, {}, {}
    moments: dict[str, dict[str, Tensor]] = {slot: {} for slot in MOMENTS}
    steps: dict[str, float] = {}
    for name, parameter in parameters.items():
        entry = optimizer.state.get(parameter) or {
            "step": 0
        }  # never had a gradient: what Adam would start from
        if not set(entry) <= {"step", *MOMENTS}:
            raise CheckpointError(
                f"{name} has other optimizer state than Adam's", got=", ".join(entry), expected="no amsgrad"
            )
        for slot in MOMENTS:
            moments[slot][name] = entry[slot].detach() if slot in entry else torch.zeros_like(parameter)
        steps[name] = float(entry["step"])
    return info, moments, steps


def _fill_optimizer(
    state: TrainingState, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    _require_adam(optimizer)
    for group, name in list(_grouped(parameters, optimizer)):
        parameter = parameters[name]
        if not state.steps:
            optimizer.state.pop(parameter, None)
            continue
        on_device = group.get("fused") or group.get("capturable")
        device = parameter.device if on_device else torch.device("cpu")
        entry: dict[str, Tensor] = {
            "step": torch.tensor(state.steps[name], dtype=torch.float32, device=device)
        }
        for slot in MOMENTS:
            entry[slot] = torch.empty_like(parameter, memory_format=torch.preserve_format).copy_(
                state.source.read(name, slot)
            )
        optimizer.state[parameter] = entry


def _require_adam(optimizer: torch.optim.Optimizer) -> None:
    if not isinstance(optimizer, torch.optim.Adam):  # AdamW is an Adam since torch 2.6
        fix = "use torch.optim.AdamW or Adam"
        raise CheckpointError(
            "outgrow carries the state of Adam and AdamW", got=type(optimizer).__name__, fix=fix
        )
