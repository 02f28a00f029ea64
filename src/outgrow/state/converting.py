"""`convert`: a training state described as another model type; nothing grows and no number changes."""

from __future__ import annotations

from outgrow.errors import CheckpointError, GrowthError
from outgrow.models.conversion import Conversion, conversion
from outgrow.state.converted_view import ConvertedView
from outgrow.state.training_state import TrainingState, check_state
from outgrow.store.contents import OptimizerInfo, ParamGroup
from outgrow.store.lineage import LineageEntry
from outgrow.store.optimizer_rules import rule_named


def convert(state: TrainingState, to: str, *, moments: str = "transport", seed: int = 0) -> TrainingState:
    """The same state as a model of another type, lazily: weights, moments, steps, options and records.

    An exact re-description at sizes where both types are the same model (one expert, zero biases): the function is kept,
    and so is training, since moments move with their entries. Tensors that the source lacks (a router) begin as the
    conversion file says, their moments at zero; `seed` draws them. `moments="reset"` leaves all moments behind.

    Raises GrowthError where no conversion leads to `to`, or the model has something that the target cannot say, before
    anything is read. `outgrow.models.conversion.edges()` lists the conversions.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
    ...     num_attention_heads=2, bos_token_id=1, eos_token_id=2)
    >>> dense = TrainingState.from_model(LlamaForCausalLM(config))
    >>> convert(dense, "mixtral").source.meta("model.layers.0.mlp.experts.down_proj", "weight").shape
    (1, 8, 12)
    """
    check_state(state, "convert")
    if moments not in ("transport", "reset"):
        expected = "transport (they move with their entries) or reset"
        raise GrowthError(f"a conversion cannot treat moments as '{moments}'", expected=expected)
    return converted(state, conversion(state.config, to), moments=moments, seed=seed)


def converted(
    state: TrainingState, found: Conversion, *, moments: str = "transport", seed: int = 0
) -> TrainingState:
    """The converted state of a conversion that was worked out before."""
    kept = moments != "reset"
    view = ConvertedView(found, state.source, seed, kept)
    steps: dict[str, float] = {}
    if kept and state.steps:
        steps = {
            name: _steps(state, made.sources, name)
            for name, made in found.tensors.items()
            if made.group in state.steps
        }
    return TrainingState(
        config=dict(found.config),
        source=view,
        steps=steps,
        optimizer=None if state.optimizer is None else _groups(found, state.optimizer),
        records=state.records,
        lineage=state.lineage.then(conversion_entry(found, moments=moments, seed=seed)),
        assets=state.assets,
        files=state.files,
        unread=tuple(one for one in state.unread if kept or one.part != "moments"),
    )


def conversion_entry(found: Conversion, *, moments: str, seed: int) -> LineageEntry:
    """What is written beside the converted state: enough to convert again."""
    entry = found.describe()
    again = {
        **entry["conversion"],
        "moments": "reset" if moments == "reset" else "transport",
        "seed": seed,
    }
    return LineageEntry({**entry, "conversion": again, "files": {}})


def _steps(state: TrainingState, sources: tuple[str, ...], name: str) -> float:
    """Optimizer steps of a tensor: its sources' own, which must agree; 0 for one that begins here."""
    seen = {source: state.steps[source] for source in sources}
    if len(set(seen.values())) > 1:
        raise CheckpointError(
            f"{name} is made of tensors with different numbers of optimizer steps",
            got=", ".join(f"{source}: {count:g}" for source, count in seen.items()),
            fix="convert with moments reset",
        )
    return next(iter(seen.values()), 0.0)


def _groups(found: Conversion, optimizer: OptimizerInfo) -> OptimizerInfo:
    """Every tensor joins the group of what it is made of, in the order of the target's parameters."""
    place = {name: index for index, group in enumerate(optimizer.groups) for name in group.names}
    names: list[list[str]] = [[] for _ in optimizer.groups]
    for name, made in found.tensors.items():
        owners = {place.get(source) for source in made.sources or (made.group,)}
        if owners == {None}:
            continue  # it was frozen, and is
        (owner, *others) = owners
        if owner is None or others:
            raise CheckpointError(
                f"the tensors that {name} is made of are not in one group of the optimizer",
                got=", ".join(made.sources or (made.group,)),
                fix="convert the weights alone: save the state as the format hub first",
            )
        rule = rule_named(optimizer.name, optimizer.groups[owner].options)
        if rule.name == "Muon" and len(found.large.shape(name)) != 2:
            raise GrowthError(
                f"Muon keeps its momentum for matrices alone, and {name} stacks several",
                fix="train with AdamW, or convert the weights alone: save the state as the format hub first",
            )
        names[owner].append(name)
    groups = zip(names, optimizer.groups, strict=True)
    return OptimizerInfo(
        optimizer.name, tuple(ParamGroup(tuple(one), group.options) for one, group in groups)
    )
