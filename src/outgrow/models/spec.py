"""The form of an architecture file. Unknown keys are errors; every file is tested against a real model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from outgrow.errors import near
from outgrow.models.kinds import KINDS, AxisKind


def _kind(name: str) -> str:
    if name not in KINDS:
        raise ValueError(f"unknown kind of axis '{name}': {near(name, KINDS)}")
    return name


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class AxisSpec(_Strict):
    """An axis: its size, and what its activations pass through (the rows of the table in docs/explanation/maths.md).

    What that can be stands in `models/kinds.py`.

    With `grows: false` an axis of another kind keeps its size in this family, as where heads are added and never widened.
    """

    size: str
    through: Annotated[str, AfterValidator(_kind)]
    of: str | None = None
    norm: Literal["rms", "layer"] | None = None
    eps: str | None = None
    with_: str | None = Field(default=None, alias="with")
    rotary: bool = False
    like: str | None = None
    active: str | None = None
    grows: bool = True
    scores: Literal["size", "fixed"] = "size"
    """Of a `dot`: whether attention divides scores by the root of this size, or by a number of the config."""
    alibi: bool = False
    """Of `heads`: the slope of a head depends on its place among all heads (ALiBi)."""
    unscaled: bool = False
    """Of a `stream`: it is also written through a nonlinearity, which knows no scale and no mean."""
    optional: bool = False
    """Its size is a field that may be 0: then the model has nothing of it (`models/absent.py`)."""

    @property
    def kind(self) -> AxisKind:
        """What it passes through, as a value."""
        return KINDS[self.through]

    @property
    def can_grow(self) -> bool:
        """Whether a target may ask for more units of this axis."""
        return self.grows and self.kind.grows

    @property
    def is_table(self) -> bool:
        """Whether its units are tokens or positions, whose rows are looked up."""
        return self.kind.is_table

    @property
    def inside_head(self) -> bool:
        """Whether its units are dimensions of a head, which attention scores mix or a norm sees."""
        return self.kind.inside_head

    @property
    def shares_readers(self) -> bool:
        """Whether readers of copies share what one unit gave."""
        return self.kind.shares_readers

    @property
    def is_stream(self) -> bool:
        """Whether it is the residual stream."""
        return self.kind is KINDS["stream"]

    @property
    def is_normed(self) -> bool:
        """Whether it is the output of a norm."""
        return self.kind is KINDS["norm"]

    @property
    def is_nonlinear(self) -> bool:
        """Whether it is units of a nonlinearity."""
        return self.kind is KINDS["elementwise"]

    @property
    def is_heads(self) -> bool:
        """Whether it is whole heads."""
        return self.kind is KINDS["heads"]

    @property
    def is_contracted(self) -> bool:
        """Whether it is dimensions that attention scores contract."""
        return self.kind is KINDS["dot"]

    @property
    def is_raw(self) -> bool:
        """Whether it is dimensions that only a norm reads."""
        return self.kind is KINDS["raw"]

    @property
    def is_linear(self) -> bool:
        """Whether it is units between two matrices, with nothing in between."""
        return self.kind is KINDS["linear"]

    @property
    def is_lookup(self) -> bool:
        """Whether it is tokens."""
        return self.kind is KINDS["lookup"]

    @property
    def is_places(self) -> bool:
        """Whether it is places of a learned table."""
        return self.kind is KINDS["positions"]

    @property
    def is_grid(self) -> bool:
        """Whether it is the side of a square of patches."""
        return self.kind is KINDS["grid"]

    @property
    def is_router(self) -> bool:
        """Whether it is a router's choices, or its experts."""
        return self.kind is KINDS["router"]

    @property
    def is_data(self) -> bool:
        """Whether it is values of the data."""
        return self.kind is KINDS["input"]


class ParameterSpec(_Strict):
    """A parameter (or a buffer that is saved): its signature, when it exists, what it is tied to, how it is used."""

    axes: str
    when: str | None = None
    tied_to: str | None = None
    when_tied: str | None = None
    of_class: str | None = None
    """The one model class that has this parameter, where a model type has several."""
    bare: bool = False
    """Only the model without its head has it, as the pooler of a `BertModel`."""
    at: str | None = None
    """At how many positions of a sequence it is applied, as one dimension of a signature; all, where nothing is said."""
    scanned: int = 0
    """Multiply-adds per token and entry of what is no matrix: a state space's decay, once for every unit and state."""
    inside: str | None = None
    """The kind of layer that has it (`layers.kinds`)."""
    plus: float = 0.0
    """What the model adds to the stored value before it uses it (gains stored as w and used as 1 + w)."""
    times: str | None = None
    """What the model multiplies it by where that depends on sizes: `sqrt(hidden_size)`, `1 / sqrt(d_model) if tied`."""
    norm: Literal["rms", "layer"] | None = None
    """Of a gain that scales `raw(...)` or stands `over` a product: which norm."""
    eps: str | None = None
    """Of such a norm: the config field of its eps; none, where the eps is in the code."""
    over: str | None = None
    """Of a norm whose input passes a nonlinearity, so that nothing can scale it: the product of axes that it stands over."""
    buffer: bool = False
    """It is no parameter: saved and grown, without gradient and moments."""
    apart: tuple[str, ...] = ()
    """Published files hold it in parts: their names beside its own, `{axis}` for the unit of its first dimension; the parts
    of one unit stand one after the other along the second."""


class ScanSpec(_Strict):
    """A recurrence over the sequence that is computed in chunks of C tokens; heads with a state of K x V numbers each.

    ssd     state-space duality (arXiv 2405.21060): C·(K + V) + 2·K·V multiply-adds per token and head
    delta   gated delta rule (arXiv 2412.06464): C·(2·K + V) + 3·K·V, its triangular solves left out
    """

    form: Literal["ssd", "delta"]
    heads: str
    """The product of axes that counts heads, as one dimension of a signature."""
    key: str
    value: str
    """Axes of a head's state."""
    chunk: str | int
    """C: a config field or a number."""
    inside: str | None = None
    """The kind of layer that has it."""


class RelativeSpec(_Strict):
    """Scores of relative positions by a table that every layer projects as it does tokens, and multiplies with them (2006.03654).

    rows            how many rows the table has, as one dimension of a signature
    kinds           config field that lists which products are made
    queries, keys   the entry of it by which tokens' queries, or keys, meet the rows
    """

    rows: str
    kinds: str
    queries: str
    keys: str


class EncoderSpec(_Strict):
    """The encoder of a model whose decoder sees other sequences: what its names begin with, and the axis that the decoder reads of it."""

    names: str
    output: str


class RouterSpec(_Strict):
    """How a token chooses among experts, and the share that each chosen one has of the output.

    choices, experts    the axes of the router's logits and of the experts
    active              config field that counts the experts of a token
    score, of           softmax over `all` logits or over the `chosen` ones; or a sigmoid of each
    normalised          whether chosen scores are divided by their sum: true, false, or the config field that says so
    times               config field that multiplies every share
    correction          the tensor, inside a layer, that is added to scores for choosing alone (arXiv 2408.15664)
    groups, groups_chosen  config fields that count groups of experts, and those that a token may choose from
    groups_when         what the config must say for groups to be looked at
    weighs              what a share multiplies: an expert's output, or its input
    """

    choices: str
    experts: str
    active: str
    score: Literal["softmax", "sigmoid"]
    of: Literal["all", "chosen"] = "all"
    normalised: bool | str
    times: str | None = None
    correction: str | None = None
    groups: str | None = None
    groups_chosen: str | None = None
    groups_when: dict[str, Any] = {}
    weighs: Literal["output", "input"] = "output"


class KindSpec(_Strict):
    """Which layers are of a kind: by an entry of a list, before or from a number on, by a list of numbers, or by place.

    {list: layer_types, is: [full_attention]}   {first: first_k_dense_replace}   {indices: moe_layers}   {place: 0}
    """

    list: str | None = None
    is_: tuple[str | int | bool, ...] = Field(default=(), alias="is")
    first: str | None = None
    indices: str | None = None
    place: int | None = None
    not_: bool = Field(default=False, alias="not")
    """All layers but those."""
    also: str | None = None
    """Another kind that the layer must be of too."""


class LayersSpec(_Strict):
    """The stack: the field that counts layers, where the norms stand, and what a silent layer must zero."""

    count: str
    norm: Literal["pre", "post"]
    branch_outputs: tuple[str, ...]
    first_norm: str | None = None
    last_norm: str | None = None
    lists: tuple[str, ...] = ()
    """Config fields with an entry per layer, which follow their layers."""
    runs: tuple[str, ...] = ()
    """The same, said in short: [[entries of some layers, how often they come], ...]."""
    index_lists: tuple[str, ...] = ()
    """Config fields that list numbers of layers."""
    prefixes: tuple[str, ...] = ()
    """Config fields that count layers from the first."""
    kinds: dict[str, KindSpec] = {}
    """Kinds of layers, where not all have the same parameters (`inside`)."""
    parallel: str | None = None
    """Config field that is true where both branches of a layer read the same stream, so that their norms share an input."""


class ExampleSpec(_Strict):
    """A tiny model that the file is checked with: `outgrow architectures check`, and the battery of tests."""

    config: dict[str, Any]
    """Config fields, all sizes different."""
    grow: dict[str, int]
    """Sizes to grow to, at best no multiples of the old ones."""
    isometric: dict[str, int] = {}
    """Other sizes for `isometric`, where the stream passes a LayerNorm and needs a whole factor."""


class ArchitectureSpec(_Strict):
    """One architecture file."""

    model_type: str
    class_: str = Field(alias="class")
    bare_class: str | None = None
    """The class without the head, where it is not `class` with `Model` for what begins with `For`."""
    prefix: str | None = None
    """`base_model_prefix` of the class, where it is not what the names of layers begin with."""
    same: dict[str, str] = {}
    """Further names that the class has for a parameter in the same role, each with the parameter's own."""
    library: Literal["transformers", "timm"] = "transformers"
    objective: Literal["causal", "masked", "denoising", "image", "seq2seq", "features"]
    """What it is trained to predict; `features`: nothing, it has no head."""
    outputs: dict[str, str] = {}
    """Of a model without a head: its outputs, and the axis of each one's last dimension."""
    axes: dict[str, AxisSpec]
    layers: LayersSpec
    parameters: dict[str, ParameterSpec]
    routers: dict[str, RouterSpec] = {}
    """Where experts are chosen, by a name of one's own."""
    pin: dict[str, str] = {}
    follow: dict[str, str] = {}
    """Config fields that a grown config gets with the value of an expression of others."""
    aliases: dict[str, str] = {}
    scans: dict[str, ScanSpec] = {}
    """Recurrences over the sequence, by a name of one's own (counts FLOPs)."""
    encoder: EncoderSpec | None = None
    """Where an encoder and a decoder see sequences of their own lengths (counts FLOPs and memory)."""
    relative: RelativeSpec | None = None
    """Scores of relative positions that are products with a table (counts FLOPs)."""
    example: ExampleSpec | None = None
    requires: dict[str, Any] = {}
    requires_for_depth: dict[str, Any] = {}
    whole: tuple[str, ...] = ()
    """Size expressions that transformers' own config class wants to be whole numbers."""
    sequence: str | None = None
    """Length of every sequence, as one dimension of a signature, where the config fixes it (patches and tokens of an image)."""
    length: str | None = None
    """Config field of the longest sequence, where positions have no table (rotary): it may grow by itself."""
    positions_behind_padding: bool = False
    """Whether the first position is not 0 but the one behind `pad_token_id`."""
    attended: str | None = None
    """Pairs of positions that attend to each other in blocks outside the layers, as one dimension of a signature."""
    disk: dict[str, str] = {}
    """Parts of names in published files -> in memory, replaced one after the other."""
    ignored: tuple[str, ...] = ()
