"""`plan.yaml`: what is to be reached, from which sizes, by which law; every key known."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from outgrow.errors import brief
from outgrow.files.section import Count, NotNegative, Positive, Section, TokenCount, parse_count
from outgrow.run.grow_config import PlannedGrowConfig
from outgrow.run.reentry import Reentry


class TargetConfig(Section):
    """What the schedule must reach: a loss, the loss that `size` has after `tokens` from scratch, or the best for `flops`."""

    size: str | None = None
    """Name of the final candidate; absent: whichever is cheapest."""
    loss: Positive | None = None
    """Nats per token."""
    tokens: Count | None = None
    flops: Positive | None = None
    """The whole compute."""

    @model_validator(mode="after")
    def _one(self) -> TargetConfig:
        if sum(value is not None for value in (self.loss, self.tokens, self.flops)) != 1:
            raise ValueError("give one of loss, tokens and flops")
        if self.tokens is not None and self.size is None:
            raise ValueError("tokens needs size: whose loss after so many tokens?")
        return self


class CandidateConfig(Section):
    """A size that a stage may have: config fields over the file's `model`, or a number of parameters alone."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    sizes: dict[str, Any] | None = None
    """Config fields of this size, for example `{hidden_size: 128, num_hidden_layers: 3}`."""
    parameters: Count | None = None
    """Instead of `sizes`: then a token costs 6 FLOPs per parameter, and no run.yaml can be written."""

    @model_validator(mode="after")
    def _one_of_both(self) -> CandidateConfig:
        if (self.sizes is None) == (self.parameters is None):
            raise ValueError("give either sizes (config fields) or parameters (a number)")
        return self


class SeriesConfig(Section):
    """Sizes in even ratios, instead of a list of candidates."""

    smallest: Count
    largest: Count
    count: Annotated[int, Field(ge=2, le=1000)] = 100

    @model_validator(mode="after")
    def _rises(self) -> SeriesConfig:
        if self.largest <= self.smallest:
            raise ValueError("largest must be above smallest")
        return self


class ChinchillaConstants(Section):
    """loss = E + A / N^a + B / D^b."""

    irreducible_loss: NotNegative
    parameter_coefficient: Positive
    parameter_exponent: Positive
    token_coefficient: Positive
    token_exponent: Positive


class ChinchillaLaw(Section):
    """Hoffmann et al. (arXiv 2203.15556), the fit of Besiroglu et al. (arXiv 2404.10102), or constants of your own."""

    kind: Literal["chinchilla"] = "chinchilla"
    version: Literal["published", "replicated"] = "published"
    constants: ChinchillaConstants | None = None
    count: Literal["all", "without_embeddings"] = "all"


class KaplanConstants(Section):
    """loss = (N_c / N)^a_N + (S_c / S_min)^a_S."""

    parameter_scale: Positive
    parameter_exponent: Positive
    step_scale: Positive
    step_exponent: Positive


class CriticalBatchConstants(Section):
    """Tokens per step = scale_tokens / loss^(1 / exponent)."""

    scale_tokens: Count
    exponent: Annotated[float, Field(ge=0.05, le=10)]


class KaplanLaw(Section):
    """Kaplan et al. (arXiv 2001.08361), at one batch for all stages or at the critical one of each stage's end loss."""

    kind: Literal["kaplan"] = "kaplan"
    version: Literal["published", "staged_training"] = "staged_training"
    constants: KaplanConstants | None = None
    batch: Literal["fixed", "critical"] = "fixed"
    """One batch for all stages, or for each stage the critical batch of the loss at which it ends."""
    batch_tokens: Count | None = None
    """Tokens per step of a fixed batch; absent: the critical batch of the target loss."""
    critical_batch: CriticalBatchConstants | None = None
    """Constants of the critical batch; absent: Kaplan's, 2.1e8 and 0.21."""
    count: Literal["all", "without_embeddings"] = "without_embeddings"

    @model_validator(mode="after")
    def _one_batch(self) -> KaplanLaw:
        if self.batch == "critical" and self.batch_tokens is not None:
            raise ValueError("batch: critical gives each stage a batch of its own: leave batch_tokens out")
        if self.critical_batch is not None and self.batch_tokens is not None:
            raise ValueError("critical_batch is not asked for with batch_tokens: leave one of them out")
        return self


def _parameters(value: Any) -> Any:
    """A count, or one by run; one `ValueError` for what is neither, where each branch of a union would raise its own."""
    if isinstance(value, dict):
        for run in value:
            if not isinstance(run, str):
                raise ValueError(
                    f"parameters: the run {brief(run)} is read as a number: put its name in quotes"
                )
        return {run: _one_count(one, f" of the run {run!r}") for run, one in value.items()}
    return None if value is None else _one_count(value, "")


def _one_count(value: Any, whose: str) -> int:
    wanted = f"parameters{whose}: expected 2000000, 2e6 or 2M, or one by run as {{small: 1M, large: 4M}}"
    try:
        number = parse_count(value)
    except ValueError:
        raise ValueError(f"{wanted}, got {brief(value)}") from None
    if type(number) is not int or number < 1:
        raise ValueError(f"{wanted}, got {brief(value)}")
    return number


class CurveConfig(Section):
    """Curve files: a path or glob, and what the files do not say themselves."""

    path: str
    parameters: Annotated[int | dict[str, int] | None, BeforeValidator(_parameters)] = None
    """Of the model; in a table of several runs also by run: `{small: 1M, large: 4M}`."""
    tokens_per_step: Count | None = None
    tag: str | None = None
    """Which series is the loss, where a file holds several."""


class FitLaw(Section):
    """A law fitted to your own curves."""

    kind: Literal["fit"] = "fit"
    form: Literal["chinchilla", "per_size"] = "chinchilla"
    """One law for all sizes, or for each candidate a curve of its own (then each needs one)."""
    curves: tuple[CurveConfig, ...] = ()
    """More may be given with --fit."""
    points: Literal["stable", "final", "all"] = "stable"
    """Which points count: at the full learning rate, the last of each run, or all."""
    from_tokens: TokenCount = 0
    """Points before these tokens are left out: a law describes neither the warm-up nor the first fall."""
    draws: Annotated[int, Field(ge=20, le=10_000)] = 200
    """Bootstrap draws behind the intervals."""
    seed: int = 0
    count: Literal["all", "without_embeddings"] = "all"


LawConfig = Annotated[ChinchillaLaw | KaplanLaw | FitLaw, Field(discriminator="kind")]


class MeasuredConfig(Section):
    """The pilot runs on which an operator's cost is measured: `metrics.jsonl` files or run folders, as a path or glob."""

    grown: str
    """Runs that grow a model, one per seed."""
    scratch: str | None = None
    """The grown size from scratch: one run, or one per grown run; absent: the curve that the plan's fitted law gives it."""


class OperatorConfig(Section):
    """A growth operator's cost: measured on runs, or given as numbers."""

    measured: MeasuredConfig | None = None
    """Read loss gap, lost tokens and FLOPs off pilot runs."""
    loss_gap: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Loss after growth less loss before, in nats per token."""
    lost_tokens: TokenCount = 0
    """Tokens beyond those that the larger size's own curve needs from the loss at which it starts."""
    flops: NotNegative = 0.0
    """Cost of the growth itself, as of learning an operator."""
    largest_factor: Annotated[float, Field(gt=1)] | None = None
    """Do not plan growths beyond this ratio of parameters."""

    @model_validator(mode="after")
    def _measured_or_given(self) -> OperatorConfig:
        typed = [name for name in ("loss_gap", "lost_tokens", "flops") if name in self.model_fields_set]
        if self.measured is not None and typed:
            raise ValueError(f"measured gives loss_gap, lost_tokens and flops: leave out {', '.join(typed)}")
        return self


class OperatorsConfig(Section):
    """Costs by what grows; `both` also serves candidates that are given by their parameters alone."""

    depth: OperatorConfig = OperatorConfig()
    width: OperatorConfig = OperatorConfig()
    both: OperatorConfig = OperatorConfig()


class PlanConfig(Section):
    """A whole plan. See `examples/plan.yaml`."""

    target: TargetConfig
    model: dict[str, Any] | None = None
    """Config fields that all candidates share: `model_type`, `vocab_size` ..."""
    candidates: tuple[CandidateConfig, ...] = ()
    series: SeriesConfig | None = None
    sequence_length: Count | None = None
    """For the FLOPs of attention; absent: that of `run.data`, else 256."""
    law: LawConfig
    operators: OperatorsConfig = OperatorsConfig()
    grow: PlannedGrowConfig = PlannedGrowConfig()
    """How stages grow in the run: width, depth, moments, noise, seed, as in run.yaml."""
    reentry: Reentry | None = None
    """The learning rate of grown stages in the run, as in run.yaml: `{peak: mup}`."""
    stages: Annotated[int, Field(ge=1, le=12)] = 3
    """Most stages to plan."""
    worth: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """One more stage is taken where it saves at least this share of the compute."""
    mixing_tokens: Count | None = None
    """Measured mixing time, for the late-switch rule (arXiv 2511.04981)."""
    run: dict[str, Any] | None = None
    """The keys of run.yaml besides model and stages: output, data, optimizer, schedule, batch ..."""

    @model_validator(mode="after")
    def _sizes(self) -> PlanConfig:
        if (not self.candidates) == (self.series is None):
            raise ValueError("give either candidates or series")
        names = [candidate.name for candidate in self.candidates]
        if len(set(names)) < len(names):
            raise ValueError(f"candidates need different names, got {', '.join(names)}")
        if self.target.size is not None and self.target.size not in names:
            raise ValueError(
                f"target.size is no candidate: {self.target.size} (known: {', '.join(names) or 'none'})"
            )
        with_sizes = [candidate for candidate in self.candidates if candidate.sizes is not None]
        if with_sizes and len(with_sizes) < len(self.candidates):
            raise ValueError("give all candidates by sizes, or all by parameters")
        if with_sizes and (self.model is None or "model_type" not in self.model):
            raise ValueError("candidates with sizes need model.model_type (for example llama)")
        for key in ("model", "stages"):
            if self.run is not None and key in self.run:
                raise ValueError(f"run.{key} is what the plan decides: leave it out")
        return self
