"""Growth inside a run of Hugging Face's Trainer, and a Trainer that goes on from a grown checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from outgrow.api.live import check_growable, check_live, grow_in_place
from outgrow.errors import ConfigError, GrowthError
from outgrow.files.section import parse_count
from outgrow.growth.plan import GrowthPlan
from outgrow.growth.target import check_sizes, reached, target
from outgrow.methods.options import GrowthOptions
from outgrow.models.architecture import resolve
from outgrow.models.library import config_of
from outgrow.parallel.sharding import is_sharded_model
from outgrow.state.asked import plan_options
from outgrow.state.growing import apply
from outgrow.state.training_state import TrainingState
from outgrow.store.contents import OptimizerInfo
from outgrow.store.growth_log import GROWTHS, logged_lineage
from outgrow.store.lineage import Lineage

_LOG = logging.get_logger("transformers.outgrow")


class GrowAt(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """A callback for `Trainer`: after so many tokens, or steps, the model grows, and the training goes on.

    Weights, moments and step counts grow with it; the learning-rate schedule, the data and the step go on as they were.
    The Trainer's model and optimizer stay the same objects, larger inside. `how` is what `plan_growth` takes. Tokens are
    counted by Trainer. Nothing happens where the sizes are there already, so a checkpoint from after the growth goes on:
    build the Trainer with `from_pretrained(checkpoint)`. Several callbacks grow one after the other.

    One process and one model: not with DeepSpeed, FSDP, data-parallel wrappers, adapters or compiled models. What cannot
    grow is an error when training begins, not at the growth.

        trainer.add_callback(outgrow.GrowAt(tokens="1B", to={"num_hidden_layers": 12}, depth="stack"))

    >>> GrowAt(steps=100, to={"num_hidden_layers": 12})
    GrowAt(100 steps, to num_hidden_layers 12)
    """

    def __init__(
        self,
        *,
        tokens: int | str | None = None,
        steps: int | str | None = None,
        to: Mapping[str, Any],
        **how: Any,
    ) -> None:
        if (tokens is None) == (steps is None):
            raise ConfigError("GrowAt takes either tokens or steps", expected="tokens='1B', or steps=1000")
        self.unit = "steps" if tokens is None else "tokens"
        try:
            self.at = parse_count(steps if tokens is None else tokens)
        except ValueError as error:
            raise ConfigError(
                f"{self.unit} of GrowAt: {error}", got=steps if tokens is None else tokens
            ) from None
        if not isinstance(self.at, int) or self.at < 1:
            raise ConfigError(f"GrowAt needs a number of {self.unit} of at least 1", got=self.at)
        check_sizes(to)
        self.to, self.how = dict(to), GrowthOptions.of(how)
        self.plan: GrowthPlan | None = None
        """The plan, from the beginning of training on; None where nothing is left to grow."""

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {size:,}" for name, size in self.to.items())
        return f"GrowAt({self.at:,} {self.unit}, to {sizes})"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **live: Any
    ) -> None:
        """Work the growth out: whatever cannot be done is refused here."""
        model = live["model"]
        check_live(model)
        cut = is_sharded_model(model) or bool(args.fsdp)
        if args.parallel_mode.value not in ("not_parallel", "not_distributed") or args.deepspeed or cut:
            raise GrowthError(
                "GrowAt grows in one process alone: Trainer's other ranks would go on with the small model",
                got="a model that FSDP has cut" if cut else f"parallel mode '{args.parallel_mode.value}'",
                fix="grow a checkpoint between two starts (FSDP2: save SHARDED_STATE_DICT, then `outgrow grow checkpoint-N grown-N"
                " --format accelerate`, and resume from grown-N with a model of its config), or use `outgrow train --nproc`",
            )
        if args.torch_compile:
            raise GrowthError("GrowAt does not grow a compiled model", fix="leave out torch_compile")
        if self.unit == "tokens" and args.include_num_input_tokens_seen in (False, "no"):
            args.include_num_input_tokens_seen = "all"  # else Trainer counts none
        self.plan = self._plan(config_of(model), logged_lineage({"log_history": state.log_history}))
        if self.plan is not None:
            check_growable(model)
            grown = apply(self.plan, TrainingState.from_model(model, _inner(live["optimizer"])))
            if args.save_strategy != "no" and grown.optimizer is not None:
                _check_groups(self.plan, grown.optimizer)
            _LOG.info("to grow after %s %s:\n%s", f"{self.at:,}", self.unit, self.plan)

    def _plan(self, config: Mapping[str, Any], grown: Lineage) -> GrowthPlan | None:
        """The growth of a model that has grown so before; None where nothing is left to grow."""
        small = resolve(config)
        after = grown.last.sizes[1].get("parameters") if grown else None
        if after is not None and after != small.num_parameters:
            raise GrowthError(
                "the checkpoint that this Trainer resumes has grown, and its model has not",
                got=f"{small.num_parameters:,} parameters",
                expected=f"{after:,}",
                fix=f"build the Trainer with the checkpoint's model: {small.class_name}.from_pretrained(checkpoint)",
            )
        if grown and reached(small, self.to):
            return None
        large = target(small, self.to)
        same = large.sizes == small.sizes and large.layers == small.layers
        return None if same else plan_options(config, self.to, self.how)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **live: Any
    ) -> None:
        """Grow, once the time has come."""
        done = state.global_step if self.unit == "steps" else int(state.num_input_tokens_seen)
        if self.plan is None or done < self.at:
            return
        model, optimizer = live["model"], live["optimizer"]
        before = logged_lineage({"log_history": state.log_history})
        if self.plan.small.num_parameters != resolve(config_of(model)).num_parameters:  # another has grown it
            self.plan = self._plan(config_of(model), before)
            if self.plan is None:
                return
        entries = grow_in_place(model, _inner(optimizer), self.plan)
        state.log_history.append({"step": state.global_step, GROWTHS: [*before, *entries]})
        state.best_model_checkpoint = state.best_metric = state.best_global_step = None  # of the small model
        _LOG.warning("grown at step %d: %r", state.global_step, self.plan)
        self.plan = None


class OwnArguments(TrainerCallback):  # type: ignore[misc]
    """A callback for `Trainer`: what it logs, evaluates and saves, and when, follows its own arguments.

    A Trainer that resumes takes `logging_steps`, `eval_steps`, `save_steps` and `train_batch_size` from the checkpoint. After
    a growth those are the small model's. This sets them from `TrainingArguments` when training begins, as a new run does;
    shares of the run, as `save_steps=0.1`, are of its `max_steps`. Step, schedule, log and data go on.
    Where they begin anew (`--reset-schedule`), the first step has the rate that the schedule begins with; Trainer itself
    would take the peak, a warm-up or not.

    With `auto_find_batch_size` Trainer has found its batch before any callback is asked: it searches downward from the
    checkpoint's, and that number stays.

        Trainer(model=model, args=args, train_dataset=data, callbacks=[outgrow.OwnArguments()])

    >>> state = TrainerState(logging_steps=1, save_steps=3, train_batch_size=2)
    >>> arguments = TrainingArguments(logging_steps=10, save_steps=20, per_device_train_batch_size=4, use_cpu=True)
    >>> OwnArguments().on_train_begin(arguments, state, TrainerControl())
    >>> state.logging_steps, state.save_steps, state.train_batch_size
    (10, 20, 4)
    """

    def __repr__(self) -> str:
        return "OwnArguments()"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **live: Any
    ) -> None:
        """Set the intervals and the batch anew."""
        state.compute_steps(args, state.max_steps)
        if not args.auto_find_batch_size:
            state.train_batch_size = args.train_batch_size
        schedule = live.get("lr_scheduler")
        if state.global_step == 0 and isinstance(schedule, LambdaLR):  # every schedule of Trainer's but two
            shares = [share(schedule.last_epoch) for share in schedule.lr_lambdas]
            schedule._last_lr = [peak * share for peak, share in zip(schedule.base_lrs, shares, strict=True)]
            for group, rate in zip(schedule.optimizer.param_groups, schedule._last_lr, strict=True):
                group["lr"] = rate


def _check_groups(plan: GrowthPlan, optimizer: OptimizerInfo) -> None:
    """Raises GrowthError for groups that tell layers apart, where layers are added and checkpoints are to be resumed.

    A new layer is in the group of the one that it copies. A Trainer that resumes makes groups anew, by number of the layer:
    torch refuses another number of them, and gives equal ones the moments of other layers in silence.
    """
    if not plan.growth.layers.grows:
        return
    groups: dict[str, int] = {}
    for number, group in enumerate(optimizer.groups):
        for name in group.names:
            one = plan.large.parameters.get(name)
            if one is not None and one.layer is not None and groups.setdefault(one.pattern, number) != number:
                raise GrowthError(
                    "the optimizer's groups tell layers apart, so a checkpoint of the grown model could not be resumed",
                    got=f"'{one.pattern}' in the groups {groups[one.pattern]} and {number}",
                    expected="groups by kind of weight, as with weight decay and without",
                    fix="set save_strategy='no', where a new layer keeps the group of the one it copies; or grow a checkpoint "
                    "between two starts, and give the new Trainer the grown model alone",
                )


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that accelerate wraps."""
    inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
    return inner
