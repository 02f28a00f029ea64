"""A live model and its optimizer, grown in memory: into new objects, or inside the old ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from outgrow.errors import GrowthError
from outgrow.growth.plan import GrowthPlan
from outgrow.methods.options import GrowthOptions
from outgrow.models.library import (
    build_model,
    config_of,
    hollow_model,
    meta_model,
    model_tensors,
    tie,
    tied_names,
    unlike_config,
)
from outgrow.parallel.sharding import is_sharded_model, let_go
from outgrow.state.asked import plan_options
from outgrow.state.growing import apply
from outgrow.state.grown_view import GrownView
from outgrow.state.live import in_model_order, make_optimizer
from outgrow.state.shared_statistics import know_statistics
from outgrow.state.training_state import TrainingState
from outgrow.state.wrappers import plain_optimizer
from outgrow.store.contents import OptimizerInfo
from outgrow.store.lineage import Lineage
from outgrow.store.source import TensorSource

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def grow_model(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    to: Mapping[str, Any],
    shard: Callable[[torch.nn.Module], object] | None = None,
    **how: Any,
) -> tuple[PreTrainedModel, torch.optim.Optimizer | None, GrowthPlan]:
    """A larger model that continues this one, its optimizer with moments and steps, and the plan by which both grew.

    The old objects stay as they are, with their hooks. `how` is what `plan_growth` takes: `width`, `depth`, `moments`, `noise`, `seed`.
    The new optimizer has the class, groups and options of the old one, without Accelerate's wrapper; a learning-rate
    scheduler has to be made anew.

    A model that is cut among ranks grows into one that is cut by `shard`, the function that cut the old one. It may use
    `fully_shard`, `parallelize_module` or both. All ranks call this together, and each computes its own parts. One tensor of
    the small model at a time is gathered.

    Raises GrowthError, before any work, where sizes or operators do not fit.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
    ...     num_attention_heads=2, bos_token_id=1, eos_token_id=2)
    >>> small = LlamaForCausalLM(config)
    >>> large, optimizer, plan = grow_model(small, torch.optim.AdamW(small.parameters()), to={"num_hidden_layers": 2})
    >>> large.config.num_hidden_layers, len(optimizer.param_groups), plan.keeps_function
    (2, 1, False)
    """
    options = GrowthOptions.of(how)
    check_live(model)
    _check_sharded(model, shard)
    let_go(model)
    optimizer = None if optimizer is None else plain_optimizer(optimizer)
    state = TrainingState.from_model(model, optimizer)
    plan = plan_options(state.config, to, options)
    grown = apply(plan, state)
    if shard is not None:
        assert isinstance(grown.source, GrownView)
        know_statistics(grown.source)
    large = built_like(model, grown, shard)
    if optimizer is None or grown.optimizer is None:
        grown.load_into(large)
        return large, None, plan
    made = make_optimizer(type(optimizer), dict(large.named_parameters()), grown.optimizer)
    grown.load_into(large, made)
    return large, made, plan


def grow_in_place(model: PreTrainedModel, optimizer: torch.optim.Optimizer, plan: GrowthPlan) -> Lineage:
    """Grow a model and its optimizer inside: who holds them, as a Trainer and its scheduler do, goes on with larger ones.

    The model keeps its identity and what was hung on it (hooks of precision, generation settings); its groups keep
    theirs. Returns the entries of the lineage.
    """
    grown = apply(plan, TrainingState.from_model(model, optimizer))
    large = built_like(model, grown)
    grown.load_into(large)
    assert grown.optimizer is not None, "a state of a live optimizer has one"
    _keep_hooks(model, large)
    old = dict(vars(model))
    vars(model).clear()
    kept = {name: old[name] for name in _KEPT if name in old}
    vars(model).update({**old, **vars(large), **kept})
    _regroup(model, optimizer, grown.optimizer)
    grown.load_into(model, optimizer)
    return grown.lineage


def built_like(
    model: PreTrainedModel, grown: TrainingState, shard: Callable[[torch.nn.Module], object] | None = None
) -> PreTrainedModel:
    """A fresh model of the grown sizes, in the dtypes, on the device and in the mode of the old one; cut by `shard`.

    It generates, and computes attention and experts, as the old one does. The user's random numbers stay as they are.
    """
    check_growable(model)
    like = next(model.parameters())
    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn, and overwritten
        if shard is None:
            large = _in_own_dtypes(build_model(grown.config, like.dtype, model), grown.source).to(like.device)
        else:
            large = _cut(grown, model, shard)
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        large.gradient_checkpointing_enable()
    if (generation := getattr(model, "generation_config", None)) is not None:
        large.generation_config = deepcopy(generation)
    return large.train(model.training)


def _in_own_dtypes(large: PreTrainedModel, source: TensorSource) -> PreTrainedModel:
    """Every tensor in the dtype of its source: a head in float32 stays so over a body in bfloat16."""
    for name, tensor in model_tensors(large).items():
        tensor.data = tensor.data.to(source.meta(name, "weight").dtype)
    return large


def _cut(
    grown: TrainingState, model: PreTrainedModel, shard: Callable[[torch.nn.Module], object]
) -> PreTrainedModel:
    """A model whose parameters are never whole: cut on the meta device, then given memory for its shards."""
    like = next(model.parameters())
    large = _in_own_dtypes(hollow_model(grown.config, like.dtype, model), grown.source)
    buffers = {name: buffer.clone() for name, buffer in large.named_buffers()}
    tied = tied_names(large)
    shard(large)
    large.to_empty(device=like.device)
    tie(large, tied)
    for name, buffer in large.named_buffers():
        buffer.copy_(buffers[name])
    return large


def _check_sharded(model: torch.nn.Module, shard: object) -> None:
    if shard is not None and not is_sharded_model(model):
        fix = "leave out shard, and cut the large model afterwards"
        raise GrowthError("shard is for a model that is cut among ranks, and this one is whole", fix=fix)
    if shard is None and is_sharded_model(model):
        fix = "give shard=..., the function that cut your model (fully_shard, parallelize_module)"
        raise GrowthError(
            "this model is cut among ranks, and nothing says how the larger one is to be", fix=fix
        )


def check_live(model: object) -> None:
    """Raises GrowthError for what is no plain model of a library: a wrapped, compiled or adapted one."""
    kind = next(one for one in type(model).__mro__ if not one.__module__.startswith("torch.distributed."))
    if isinstance(model, torch.nn.Module) and kind.__module__.split(".")[0] in ("transformers", "timm"):
        return
    inner = next((name for name in ("module", "_orig_mod", "base_model") if hasattr(model, name)), None)
    raise GrowthError(
        "this is no plain model of transformers or timm",
        got=f"{kind.__module__}.{kind.__qualname__}",
        fix=f"give what it wraps: .{inner}" if inner else "give a model such as LlamaForCausalLM",
    )


def check_growable(model: torch.nn.Module) -> None:
    """Raises GrowthError where parameters are frozen, or modules are not what the config says: the large model is built by it."""
    if (number := unlike_config(model)) is not None:
        fix = "set it in model.config too; or as the config says now, and anew after the growth"
        raise GrowthError("the model is not what its config says", got=number, fix=fix)
    built = dict(meta_model(config_of(model)).named_parameters())
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and (name not in built or built[name].requires_grad):
            fix = "grow before freezing, or freeze anew afterwards (`plan.new_parameters` names what is new)"
            raise GrowthError("a model with frozen parameters is not grown", got=name, fix=fix)


def _keep_hooks(model: torch.nn.Module, large: torch.nn.Module) -> None:
    """What hangs on modules that are still there, as NEFTune's noise, goes on, and its handles remove it.

    What transformers hangs on every layer to record outputs it hangs anew, on new layers too.
    """
    vars(model).pop("_output_capturing_hooks_installed", None)
    found = dict(large.named_modules())
    for name, part in model.named_modules():
        new = found[name].__dict__ if name in found else {}
        for key, hung in vars(part).items():
            if key == "neftune_noise_alpha":
                new[key] = hung
            elif "_hooks" in key and isinstance(hung, dict) and not new.get(key):
                for number in [n for n, hook in hung.items() if getattr(hook, "__module__", "") == _RECORDER]:
                    del hung[number]
                new[key] = hung


_RECORDER = "transformers.utils.output_capturing"
_KEPT = ("generation_config", "forward", "_original_forward", "name_or_path")
"""What belongs to the user or to accelerate, and not to the sizes; bound to the model, whose identity stays."""


def _regroup(model: torch.nn.Module, optimizer: torch.optim.Optimizer, info: OptimizerInfo) -> None:
    """The new parameters in the old groups; their options, which a scheduler holds, are the same objects."""
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for group, named in zip(optimizer.param_groups, info.groups, strict=True):
        names = in_model_order(named.names, parameters)
        group["params"] = [parameters[name] for name in names]
        if "param_names" in group:
            group["param_names"] = names
