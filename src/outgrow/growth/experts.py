"""How the experts behind a router become more, and when that keeps the function.

Every chosen expert e gets a share w_e of the output, y = Σ w_e E_e(x). What growth asks of a router is the sum of the shares:

    one expert → E copies        the sum must be the same for every token: chosen shares are divided by their sum
    N → M·N copies, k → M·k      a copy's logit is its source's, so top-k takes whole families; each copy has 1/M of the share
    each cut into G pieces       k → G·k, the piece's output matrix × G: what the G shares of w/G lose
    N → M·N copies, k kept       only where groups or a selection bias hide the copies; elsewhere a copy takes the second place

Gradients are kept in sum, Σ_e g_e = g, so moments grow as m/M and v/M² (`transport`) or v/(k·M) (`cautious`: what noise does).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from outgrow.errors import ArchitectureError
from outgrow.models.expressions import got, size_of
from outgrow.models.model import Model, Parameter
from outgrow.models.routing import of_experts
from outgrow.models.spec import RouterSpec

Way = Literal["works", "grouped", "hidden"]
"""Where copies of an expert are: at work beside it, in a group of their own, or behind a selection bias."""


@dataclass(frozen=True)
class Routing:
    """A router at the sizes of one config."""

    spec: RouterSpec
    experts: int
    active: int
    groups: int
    groups_chosen: int
    times: float
    normalised: bool

    @classmethod
    def of(cls, router: RouterSpec, model: Model) -> Routing:
        """The router of a model."""
        config = model.config
        grouped = all(got(config, name) == wanted for name, wanted in router.groups_when.items())
        return cls(
            router,
            model.sizes[router.experts],
            size_of(router.active, config),
            _number(router.groups, config) if grouped else 1,
            _number(router.groups_chosen, config) if grouped else 1,
            1.0 if router.times is None else float(config[router.times]),
            router.normalised if isinstance(router.normalised, bool) else bool(config.get(router.normalised)),
        )

    @property
    def share(self) -> float | None:
        """The sum of a token's shares where it is the same for every token, else None.

        softmax over the chosen, or divided by their sum: `times`.  Softmax over all, not divided: only with all at work.
        """
        if self.spec.weighs == "input":
            return None
        of_all = self.spec.score == "softmax" and (self.spec.of == "chosen" or self.active == self.experts)
        return self.times if self.normalised or of_all else None

    @property
    def divides(self) -> bool:
        """Whether M copies at work share what one had: softmax, or divided by the sum."""
        return self.spec.score == "softmax" or self.normalised


@dataclass(frozen=True, eq=False)
class ExpertGrowth:
    """How the experts of one router become more: which old expert, which piece of it, and what its row of the router is."""

    router: RouterSpec
    small: Routing
    large: Routing
    inner: str
    """The axis of units inside an expert."""
    source: Tensor  # int64 (experts,): the old expert of each new one
    piece: Tensor  # int64 (experts,): which piece of it
    pieces: int = 1
    family: Tensor | None = None  # int64 (experts,): new experts with one number have a common random row
    fresh_rows: bool = False
    """Whether the router's rows are drawn anew; else copied."""
    noise: float = 0.0
    """Of the common random rows, in root mean squares of the router."""
    way: Way = "works"
    redrawn: Tensor | None = None  # bool (experts, units): units inside experts that are drawn anew
    seed: int = 0

    @property
    def copies(self) -> int:
        """M: new experts with the same piece of the same old one."""
        return len(self.source) // (self.small.experts * self.pieces)

    @property
    def output_factor(self) -> float:
        """What the matrices that experts write with are multiplied by, so that the function is kept."""
        pieces, copies = float(self.pieces), float(self.copies)
        scale = self.small.times / self.large.times
        if self.fresh_rows or self.large.divides:
            spread = not self.fresh_rows and self.way == "grouped" and not self.large.normalised
            whole = self.large.spec.of == "all" and self.large.spec.score == "softmax"
            return scale * pieces * (copies if spread and whole else 1.0)
        return scale / (copies if self.way == "works" else 1.0)

    @property
    def bias_factor(self) -> float:
        """The same for biases that experts write: each piece adds them."""
        return self.output_factor / self.pieces

    @property
    def noise_factor(self) -> float:
        """By how much the noise of a copy's gradient is larger than 1/M² of its source's: M/k where tokens choose anew."""
        if self.fresh_rows:
            return max(1.0, self.copies * self.pieces / self.large.active)
        return float(self.copies) if self.way == "grouped" else 1.0

    @property
    def parts_copies(self) -> bool:
        """Whether copies see different gradients from the first step on."""
        return self.fresh_rows or self.redrawn is not None or self.noise > 0 or self.copies == 1

    def verdict(self) -> tuple[bool, str]:
        """Whether the function is kept, and why not."""
        if self.redrawn is not None:
            return (
                False,
                f"{float(self.redrawn.double().mean()):.0%} of the units inside experts are drawn anew",
            )
        why = self._reason()
        if why:
            return False, why
        if self.noise and not self.fresh_rows:
            return False, "the common rows move choices near a tie"
        return True, ""

    def _reason(self) -> str:
        """Why the router cannot keep the function in this growth; empty where it does."""
        name, small, large = self.router.experts, self.small, self.large
        if self.router.weighs == "input":
            return f"the router of axis '{name}' multiplies what experts read: shares are not linear in it"
        if large.active % self.pieces:
            return f"{large.active} chosen experts are no whole number of {self.pieces} pieces"
        if self.fresh_rows:
            if large.share is None or small.share is None:
                return f"the shares of {large.active} of {large.experts} chosen experts do not add up to the same for every token"
            return ""
        if self.way == "works" and large.active != small.active * self.copies * self.pieces:
            return f"top-{large.active} does not take whole families: copies need top-{small.active * self.copies * self.pieces}"
        return self._groups_reason()

    def _groups_reason(self) -> str:
        """Why groups are chosen otherwise once they hold copies. A sigmoid router adds up the best two scores of a group."""
        small, large = self.small, self.large
        if self.way == "works" and (small.groups, small.groups_chosen) != (large.groups, large.groups_chosen):
            return "another number of groups, or of chosen ones"
        if self.way == "works" and small.groups > 1 and self.router.score == "sigmoid":
            return "groups are chosen by the sum of their best two scores, which copies and pieces change"
        if self.way == "grouped" and (small.groups_chosen, large.groups_chosen) != (1, 1):
            return "a token chooses several groups, and the copy of the best one takes the second place"
        if self.way == "grouped" and large.groups != self.copies * small.groups:
            return f"every copy of the set needs groups of its own: {self.copies * small.groups}"
        if self.way == "hidden" and max(small.groups, large.groups) > 1:
            return "hidden copies move the borders of the groups"
        if self.way != "works" and large.active != small.active * self.pieces:
            return f"top-{small.active} is kept where copies are hidden or grouped"
        return ""


def growths_of(model: Model) -> tuple[RouterSpec, ...]:
    """The routers that the architecture file of a model describes."""
    return tuple(model.spec.routers.values())


def inner_axis(model: Model, router: RouterSpec) -> str:
    """The axis of units inside an expert: elementwise, in the stacked matrices."""
    found = {
        name
        for parameter in model.parameters.values()
        if of_experts(parameter, router)
        for dim in parameter.signature.dims
        for name in dim.axes
        if model.axes[name].is_nonlinear
    }
    if len(found) != 1:
        raise ArchitectureError(
            f"the experts '{router.experts}' of {model.spec.model_type} have no one inner axis",
            got=", ".join(sorted(found)) or "none",
            expected="one elementwise axis",
        )
    return next(iter(found))


def of_router(parameter: Parameter, router: RouterSpec) -> bool:
    """Whether a tensor makes, or corrects, a router's logits."""
    return any(router.choices in dim.axes for dim in parameter.signature.dims)


def writes_output(parameter: Parameter, router: RouterSpec, inner: str) -> bool:
    """Whether experts write the stream with this tensor: it reads the inner units, or is a bias beside them."""
    signature = parameter.signature
    reads = inner in signature.axes("reads")
    beside = inner not in signature.axes("writes") and not signature.axes("reads")
    return of_experts(parameter, router) and (reads or beside)


def families(rows: int, count: int) -> Tensor:
    """Numbers 0 to count - 1, each `rows` times: `rows` neighbours share one.

    >>> families(2, 3).tolist()
    [0, 0, 1, 1, 2, 2]
    """
    return torch.arange(count).repeat_interleave(rows)


def _number(field: str | None, config: Mapping[str, Any]) -> int:
    found = None if field is None else got(config, field)
    return 1 if found is None else int(found)
