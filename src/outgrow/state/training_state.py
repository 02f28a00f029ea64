"""A training state: weights, moments, steps, options and records of one model, wherever its bytes are.

Nothing is read until it is needed: a state is its config, a `TensorSource`, and some JSON.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import torch
from torch import Tensor

from outgrow.algebra.slots import SLOTS
from outgrow.errors import CheckpointError, GrowthError
from outgrow.growth.summary import sizes_of
from outgrow.models.architecture import resolve
from outgrow.parallel.ranks import ALONE, Ranks
from outgrow.store.assets import GENERATION, Asset, generation_settings, live_generation
from outgrow.store.contents import Contents, training_step
from outgrow.store.source import MemorySource, TensorSource
from outgrow.text.numbers import amount
from outgrow.text.table import TextTable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from outgrow.store.layouts import Format
    from outgrow.store.writer import BytesProgress

OptimizerClass = Callable[..., torch.optim.Optimizer]
"""A class as `torch.optim.AdamW`, or what makes one from groups of parameters."""


@dataclass(frozen=True, repr=False)
class TrainingState(Contents):
    """The whole state of a training (its fields: `Contents`), with the doors to folders, the hub and live models.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
    ...     num_attention_heads=2, bos_token_id=1, eos_token_id=2)
    >>> state = TrainingState.from_model(LlamaForCausalLM(config))
    >>> state.source.meta("model.embed_tokens.weight", "weight").shape
    (11, 8)
    """

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | PreTrainedModel,
        *,
        revision: str | None = None,
        allow_nonfinite: bool = False,
        headers_only: bool = False,
        progress: BytesProgress | None = None,
        ranks: Ranks = ALONE,
    ) -> TrainingState:
        """Open a native state, a Trainer checkpoint or a model folder; a name of the hub; or a live model.

        All of it is checked before this returns: files, names, shapes, and that every number is finite (unless
        `allow_nonfinite`), of which `progress` tells. With `headers_only` names and shapes are, and no tensor is read.
        The tensors stay on the disk. Of the hub, in `revision`, only safetensors and text are fetched.
        A live model with its optimizer: `from_model`. Several `ranks` call this together: each reads its share for the
        check. Raises `CheckpointError`.
        """
        from outgrow.store.hub import local_folder
        from outgrow.store.opening import open_state

        if isinstance(source, torch.nn.Module):
            return cls.from_model(source)
        folder = local_folder(source, revision=revision)
        opened = open_state(
            folder,
            allow_nonfinite=allow_nonfinite,
            headers_only=headers_only,
            progress=progress,
            ranks=ranks,
        )
        return cls(**vars(opened))

    @classmethod
    def from_model(
        cls,
        model: PreTrainedModel,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        records: Mapping[str, Any] | None = None,
        assets: Sequence[Path | Asset] = (),
    ) -> TrainingState:
        """The state of live objects, without a copy: training on changes what this state reads."""
        from outgrow.models.library import config_of, model_tensors
        from outgrow.parallel.gathered import GatheredSource
        from outgrow.parallel.sharding import is_sharded_model
        from outgrow.state.live import read_optimizer
        from outgrow.state.wrappers import plain_model, plain_optimizer

        _check_model(model, "from_model")
        model = cast("PreTrainedModel", plain_model(model))
        optimizer = None if optimizer is None else plain_optimizer(optimizer)
        config = config_of(model)
        parameters = dict(model.named_parameters())
        tensors: dict[str, dict[str, Tensor]] = {
            "weight": {name: value.detach() for name, value in model_tensors(model).items()}
        }
        info, steps = None, dict[str, float]()
        if optimizer is not None:
            live = read_optimizer(parameters, optimizer)
            info, steps = live.info, live.steps
            tensors |= live.moments
        carried = tuple(one if isinstance(one, Asset) else Asset.of(one) for one in assets)
        if GENERATION not in {one.name for one in carried}:
            carried += live_generation(model)
        source = GatheredSource(tensors) if is_sharded_model(model) else MemorySource(tensors)
        return cls(config, source, steps, info, dict(records or {}), assets=carried)

    def save_pretrained(
        self,
        path: str | Path,
        *,
        format: Format = "native",
        overwrite: bool = False,
        progress: BytesProgress | None = None,
        ranks: Ranks = ALONE,
    ) -> Path:
        """Write the state, streaming: a few row blocks in memory, and `path` appears whole or not at all.

        `format`: "native" keeps everything; "trainer" is a checkpoint that `Trainer` resumes; "hub" is the model alone;
        "dcp", "accelerate", "torchtitan", "olmo-core" are sharded (docs/reference/formats.md). Under a launcher, all of
        `ranks` call this together: each writes its share of the same bytes.
        """
        from outgrow.store import layouts

        return layouts.save_contents(
            self, path, format=format, overwrite=overwrite, progress=progress, ranks=ranks
        )

    def push_to_hub(
        self,
        name: str,
        *,
        format: Format = "hub",
        private: bool = False,
        message: str = "A state of outgrow",
    ) -> str:
        """Write the state and upload it as `ORGANISATION/NAME`, made where it is not there; the address of the commit.

        With "hub" the model alone, with its tokenizer and model card; see `save_pretrained`. Raises `CheckpointError`.
        """
        from outgrow.store.hub import upload_folder

        with tempfile.TemporaryDirectory() as folder:
            written = self.save_pretrained(Path(folder) / "state", format=format)
            return upload_folder(written, name, private=private, message=message)

    @overload
    def to_model(self, *, device: str | torch.device = "cpu") -> PreTrainedModel: ...

    @overload
    def to_model(
        self, *, optimizer: OptimizerClass, device: str | torch.device = "cpu"
    ) -> tuple[PreTrainedModel, torch.optim.Optimizer]: ...

    def to_model(
        self, *, optimizer: OptimizerClass | None = None, device: str | torch.device = "cpu"
    ) -> PreTrainedModel | tuple[PreTrainedModel, torch.optim.Optimizer]:
        """A live model with these weights, in the dtype they are stored in; and an optimizer that goes on, if its class is given.

        It generates as the state's `generation_config.json` says.

        The optimizer has the state's groups and options (learning rate, betas ...), its moments and its steps.
        Raises `CheckpointError` where the state has no optimizer, or another one.

        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> config = LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
        ...     num_attention_heads=2, bos_token_id=1, eos_token_id=2)
        >>> TrainingState.from_model(LlamaForCausalLM(config)).to_model().num_parameters()
        744
        """
        from outgrow.models.library import build_model
        from outgrow.state.live import make_optimizer

        dtypes = {self.source.meta(name, "weight").dtype for name in self.source.names("weight")}
        model = build_model(self.config, dtypes.pop() if len(dtypes) == 1 else torch.float32).to(device)
        if (settings := generation_settings(self.assets)) is not None:
            model.generation_config = settings
        if optimizer is None:
            self.load_into(model)
            return model
        if self.optimizer is None:
            raise CheckpointError(
                "the state has no optimizer", fix="leave out optimizer=, and make a new one"
            )
        made = make_optimizer(optimizer, dict(model.named_parameters()), self.optimizer)
        self.load_into(model, made)
        return model, made

    def load_into(self, model: PreTrainedModel, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Copy weights (and moments and steps) into live objects, or, of a model cut by FSDP2, into this rank's shards.
        Names and shapes are all checked first.

        Values are cast to the parameter's dtype, moments too, as torch's own loader does. The optimizer's options
        (learning rate ...) stay as they are. Raises `CheckpointError` and changes nothing where anything does not fit.
        """
        from outgrow.models.library import model_tensors
        from outgrow.parallel.pieces import fill
        from outgrow.state.live import check_optimizer, fill_optimizer
        from outgrow.state.wrappers import plain_model, plain_optimizer

        _check_model(model, "load_into")
        model = cast("PreTrainedModel", plain_model(model))
        optimizer = None if optimizer is None else plain_optimizer(optimizer)
        parameters, tensors = dict(model.named_parameters()), model_tensors(model)
        _check_fit(self.source, tensors)
        if optimizer is not None:
            if self.optimizer is None:
                raise CheckpointError("the state has no optimizer to load", fix="call load_into(model) alone")
            check_optimizer(self.source, parameters, optimizer, self.optimizer)
        for group in self.source.groups("weight"):  # in this order, copies find what they copy in memory
            for name in group:
                fill(self.source, name, "weight", tensors[name])
        if optimizer is not None:
            fill_optimizer(self.source, self.steps, parameters, optimizer)

    @property
    def step(self) -> int:
        """Steps of the whole training, 0 where nothing says so."""
        return training_step(self)

    def facts(self) -> TextTable:
        """What the state holds: sizes, slots, optimizer, steps, growths."""
        sizes = sizes_of(resolve(self.config))
        slots = [slot for slot in SLOTS if self.source.names(slot)]
        rows = [
            ("parameters", f"{self._parameters():,}"),
            *((name, f"{size:,}") for name, size in sizes.items()),
            ("slots", ", ".join(slots)),
            ("optimizer", self._optimizer()),
            ("records", ", ".join(sorted(self.records)) or "none"),
            ("grown", times(len(self.lineage))),
        ]
        return TextTable(
            f"{self.config.get('model_type')}: a training state", ("what", "here"), rows, numbers=False
        )

    def __repr__(self) -> str:
        return (
            f"TrainingState({self.config.get('model_type')}, {amount(self._parameters())} parameters, "
            f"{self._optimizer()}, grown {times(len(self.lineage))})"
        )

    def __str__(self) -> str:
        return str(self.facts())

    def _repr_html_(self) -> str:
        return self.facts()._repr_html_()

    def _parameters(self) -> int:
        shapes = (self.source.meta(name, "weight").shape for name in self.source.names("weight"))
        return sum(math.prod(shape) for shape in shapes)

    def _optimizer(self) -> str:
        if self.optimizer is None:
            return "no optimizer"
        return (
            f"{self.optimizer.name} at step {self.step:,}"
            if self.step
            else f"{self.optimizer.name}, no steps yet"
        )


def times(count: int) -> str:
    """How often, in words.

    >>> times(0), times(1), times(3)
    ('never', 'once', '3 times')
    """
    return {0: "never", 1: "once"}.get(count, f"{count} times")


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


def check_state(state: object, verb: str) -> None:
    """Raises GrowthError for what is no training state, and says how to make one of it."""
    if isinstance(state, TrainingState):
        return
    fix = "see outgrow.TrainingState"
    if isinstance(state, torch.nn.Module):
        fix = "outgrow.TrainingState.from_model(model, optimizer), or outgrow.grow_model(model, optimizer, to=...)"
    elif isinstance(state, str | Path):
        fix = f"outgrow.TrainingState.from_pretrained({str(state)!r})"
    raise GrowthError(f"{verb} takes a training state", got=type(state).__name__, fix=fix)


def _check_model(model: object, verb: str) -> None:
    if isinstance(model, torch.nn.Module):
        return
    fix = "give the model first, then its optimizer"
    if isinstance(model, str | Path):
        fix = f"outgrow.TrainingState.from_pretrained({str(model)!r})"
    raise CheckpointError(f"{verb} takes a model", got=type(model).__name__, fix=fix)
