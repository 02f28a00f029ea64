"""More experts: copies, pieces of copies, copies in part drawn anew, copies in groups and behind a selection bias.

    copy      one expert → E with fresh router rows (sparse upcycling, arXiv 2212.05055); or N → M·N with k → M·k
    split     each expert cut in G pieces, k → G·k, output matrix × G (granular: arXiv 2410.07524, with the exact factor)
    drop      copies of one expert, a share of each one's inner units drawn anew (drop-upcycling, arXiv 2502.19261)
    groups    one copy of the whole set per routing group, k kept
    hidden    copies behind a selection bias that no score passes, k kept; loss-free balancing lets them in

Experts are laid out copy by copy: new expert (c·N + i)·G + g is piece g of copy c of expert i. Where copies work in their
source's routing group, group by group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from outgrow.algebra.linear import EMPTY, Select
from outgrow.algebra.maps import AxisMap, copies, identity, rescaled
from outgrow.errors import GrowthError
from outgrow.growth.experts import (
    ExpertGrowth,
    Routing,
    Way,
    inner_axis,
    writes_output,
)
from outgrow.growth.growth import Growth, Part, no_layers, no_width
from outgrow.methods.registry import Asked, Operator
from outgrow.models.expressions import fields, got
from outgrow.models.model import Model
from outgrow.models.routing import corrects, of_experts
from outgrow.models.spec import RouterSpec


def copy(
    small: Model, large: Model, *, seed: int = 0, row_noise: float = 0.0, inexact: bool = False
) -> Growth:
    """Whole experts copied: one to E with router rows drawn anew, or N to M·N with top-k taking M times as many.

    Keeps: function, where the router's shares add up to the same for every token (one expert), or always (k → M·k); gradients
    in sum over copies. `row_noise` is a common random row per copy of the set, in root mean squares of the router: without it, copies of
    different experts stay equal. `inexact` allows any k. Raises GrowthError where the router cannot keep the function.

    >>> from outgrow.growth.target import target
    >>> from outgrow.models.architecture import resolve
    >>> small = resolve({"model_type": "mixtral", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1,
    ...     "intermediate_size": 12, "vocab_size": 7, "num_local_experts": 1, "num_experts_per_tok": 1})
    >>> grown = copy(small, target(small, {"num_local_experts": 4, "num_experts_per_tok": 2}))
    >>> grown.experts[0].source.tolist(), grown.experts[0].verdict()
    ([0, 0, 0, 0], (True, ''))
    """
    return _grown(small, large, "copy", seed=seed, noise=row_noise, inexact=inexact)


def split(
    small: Model,
    large: Model,
    *,
    seed: int = 0,
    row_noise: float = 0.0,
    pieces: int = 2,
    inexact: bool = False,
) -> Growth:
    """Every expert cut along its inner units into `pieces`, and copied as the sizes say; k counts pieces.

    The pieces of one expert have equal router rows, so top-k takes them together; output matrices × `pieces` make up for the
    shares. Keeps: as `copy`. Raises GrowthError where k is no multiple of `pieces`, or inner units do not divide.
    """
    return _grown(small, large, "split", seed=seed, noise=row_noise, pieces=pieces, inexact=inexact)


def drop(small: Model, large: Model, *, seed: int = 0, row_noise: float = 0.0, share: float = 0.5) -> Growth:
    """Copies of whole experts, and in each one `share` of the inner units drawn anew from N(mean, std²) of their tensor.

    Keeps: neither function nor gradient law, on purpose: experts differ from the first step on.
    """
    if not 0 < share <= 1:
        raise GrowthError(
            "drop draws a share of the inner units anew", got=share, expected="above 0, at most 1"
        )
    return _grown(small, large, "drop", seed=seed, noise=row_noise, share=share)


def groups(small: Model, large: Model, *, seed: int = 0, row_noise: float = 0.01) -> Growth:
    """A copy of the whole set of experts in every new routing group; a token still chooses from as many groups.

    With `row_noise` 0 the function is kept, and ties send every token to the old groups; the common random row of a group moves its scores alike.
    """
    return _grown(small, large, "groups", seed=seed, noise=row_noise, way="grouped")


def hidden(small: Model, large: Model, *, seed: int = 0, row_noise: float = 0.0) -> Growth:
    """Copies behind a selection bias one below the lowest, so that no token chooses them yet. k is kept, any number fits.

    Loss-free balancing (arXiv 2408.15664) raises the bias of idle experts step by step: copies enter by themselves.
    """
    return _grown(small, large, "hidden", seed=seed, noise=row_noise, way="hidden")


# ---- what follows from the sizes ------------------------------------------------------------------------------------


def _split_sizes(small: Model, to: Mapping[str, Any], *, pieces: int = 2, **_: Any) -> Asked:
    """Inner units are what the pieces leave."""
    made, inner_axes = dict(to), set[str]()
    for router in small.spec.routers.values():
        inner = inner_axis(small, router)
        before = small.sizes[inner]
        if pieces < 2 or before % pieces:
            raise GrowthError(
                f"split cannot cut the {before} inner units of an expert in {pieces} equal pieces",
                expected=f"one of {', '.join(str(one) for one in range(2, before + 1) if before % one == 0)}"[
                    :80
                ],
            )
        (field,) = fields(small.axes[inner].size)
        names = [field, *(alias for alias, name in small.spec.aliases.items() if name == field)]
        asked = {made.pop(name) for name in names if name in made}
        if asked - {before // pieces}:
            raise GrowthError(
                f"split:pieces={pieces} leaves {before // pieces} inner units",
                got=f"{field}={asked.pop()}",
                fix=f"leave out {field}, or grow twice",
            )
        made[field] = before // pieces
        for other, count in _counted_beside(small, inner, field).items():
            made.setdefault(other, count * pieces)
        inner_axes.add(inner)
    return Asked(made, frozenset(inner_axes))


def _counted_beside(small: Model, inner: str, field: str) -> dict[str, int]:
    """Numbers that other axes multiply the inner units by, as of shared experts: they make up for smaller units."""
    found: dict[str, int] = {}
    for name, axis in small.axes.items():
        names = fields(axis.size)
        if name != inner and field in names:
            found |= {
                one: int(number) for one in names - {field} if (number := got(small.config, one)) is not None
            }
    return found


def _group_sizes(small: Model, to: Mapping[str, Any], **_: Any) -> Asked:
    """One group more per copy of the set."""
    made = dict(to)
    for router in small.spec.routers.values():
        if router.groups is None:
            raise _cannot(small, router, "groups", "its router knows no groups", "use copy with k multiplied")
        names = fields(small.axes[router.experts].size)
        wanted = next((int(made[name]) for name in names if name in made), small.sizes[router.experts])
        times = max(1, wanted // small.sizes[router.experts])
        made.setdefault(router.groups, times * Routing.of(router, small).groups)
    return Asked(made)


# ---- the growth -----------------------------------------------------------------------------------------------------


def _grown(
    small: Model,
    large: Model,
    name: str,
    *,
    seed: int,
    noise: float,
    pieces: int = 1,
    share: float = 0.0,
    way: Way = "works",
    inexact: bool = False,
) -> Growth:
    axes, parts, experts = no_width(small), dict[str, tuple[Part, ...]](), list[ExpertGrowth]()
    for router in small.spec.routers.values():
        one = _one(small, large, router, name, noise=noise, pieces=pieces, share=share, way=way, seed=seed)
        kept, why = one.verdict()
        if not (kept or inexact or one.redrawn is not None or (one.noise and not one.fresh_rows)):
            raise _cannot(small, router, name, why, _advice(one))
        experts.append(one)
        axes[router.experts] = _copied(one)
        axes[router.choices] = _nothing(one) if one.fresh_rows else _copied(one)
        if pieces > 1:
            axes[one.inner] = identity(large.sizes[one.inner])  # its parts say what it is cut from
        parts |= _parts(small, large, one)
    return Growth(small, large, axes, no_layers(small), 0.0, seed, parts=parts, experts=tuple(experts))


def _one(
    small: Model,
    large: Model,
    router: RouterSpec,
    name: str,
    *,
    noise: float,
    pieces: int,
    share: float,
    way: Way,
    seed: int,
) -> ExpertGrowth:
    """How the experts of one router grow."""
    before, after = Routing.of(router, small), Routing.of(router, large)
    inner = inner_axis(small, router)
    whole = before.experts * pieces
    if after.experts % whole and way != "hidden":
        low = max(after.experts // whole, 1) * whole
        raise GrowthError(
            f"{name} cannot make {after.experts} experts of {before.experts}"
            + (f" in {pieces} pieces" if pieces > 1 else "")
            + ": they do not divide",
            fix=f"choose {low} or {low + whole}",
        )
    reach = after.experts // after.groups * after.groups_chosen
    if after.active > reach:
        raise GrowthError(
            f"a token cannot choose {after.active} of the {reach} experts in {after.groups_chosen} of {after.groups} groups",
            fix=f"choose {router.active} at most {reach}, or more {router.groups_chosen}",
        )
    source, piece, sets = _layout(before, after.experts, pieces, together=way == "works")
    fresh = before.experts == 1 and way == "works" and after.experts > pieces
    if way == "hidden" and router.correction is None:
        raise _cannot(small, router, name, "its router has no selection bias", "use copy with k multiplied")
    if router.correction is not None and router.score == "softmax":
        raise _cannot(
            small,
            router,
            name,
            "its selection bias is added to shares of a softmax, which more experts make smaller",
            "grow its width and depth",
        )
    if pieces > 1 and any(
        inner in dim.axes
        for one in small.parameters.values()
        if not of_experts(one, router)
        for dim in one.signature.dims
    ):
        raise _cannot(small, router, name, f"axis '{inner}' has units outside experts too", "use copy")
    return ExpertGrowth(
        router=router,
        small=before,
        large=after,
        inner=inner,
        source=source,
        piece=piece,
        pieces=pieces,
        family=sets if fresh else sets - 1,
        fresh_rows=fresh,
        noise=noise,
        way=way,
        redrawn=_redrawn(after.experts, small.sizes[inner], share, seed) if share else None,
        seed=seed,
    )


def _layout(
    before: Routing, experts: int, pieces: int, *, together: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Old expert, piece and copy of every new expert. Copies stand set by set; `together`, in their source's group."""
    place = torch.arange(experts)
    in_group = before.experts // before.groups if together else before.experts
    copies_of = max(1, experts // (before.experts * pieces)) if together else experts
    group, rest = place // (in_group * pieces * copies_of), place % (in_group * pieces * copies_of)
    source = group * in_group + rest // pieces % in_group
    return source, place % pieces, rest // (in_group * pieces)


def _redrawn(experts: int, units: int, share: float, seed: int) -> torch.Tensor:
    """bool (experts, units): a random `share` of every expert's units."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(experts, units, generator=generator).argsort(dim=1)
    return order < round(share * units)


def _copied(one: ExpertGrowth) -> AxisMap:
    """Every old expert, or row, copied to those that come from it: written whole, gradients shared."""
    if one.way == "hidden":  # the first copies alone see tokens
        every = Select(one.source, torch.ones(len(one.source), dtype=torch.float64), one.small.experts)
        return AxisMap(every, _first(one).backward, "none")
    return copies(one.source, one.small.experts)


def _first(one: ExpertGrowth) -> AxisMap:
    """The old experts alone."""
    first = torch.arange(one.large.experts) < one.small.experts
    map_ = Select(torch.where(first, one.source, EMPTY), first.to(torch.float64), one.small.experts)
    return AxisMap(map_, map_, "none")


def _nothing(one: ExpertGrowth) -> AxisMap:
    """Router rows that copy nothing: they are drawn (`CommonRows`)."""
    empty = torch.full((one.large.experts,), EMPTY)
    none = Select(empty, torch.zeros(one.large.experts, dtype=torch.float64), one.small.experts)
    return AxisMap(none, none, "none")


def _parts(small: Model, large: Model, one: ExpertGrowth) -> dict[str, tuple[Part, ...]]:
    """What single maps cannot say: pieces, units drawn anew, and factors of what experts write."""
    found: dict[str, tuple[Part, ...]] = {}
    for parameter in large.parameters.values():
        if parameter.pattern in found:
            continue
        if one.way == "hidden" and corrects(parameter, one.router):
            found[parameter.pattern] = (Part(axes={one.router.choices: _first(one)}, lifts=True),)
        if not of_experts(parameter, one.router):
            continue
        writes = writes_output(parameter, one.router, one.inner)
        inside = any(one.inner in dim.axes for dim in parameter.signature.dims)
        if inside and one.pieces > 1:
            factor = one.output_factor if writes else 1.0
            found[parameter.pattern] = tuple(_piece(one, place, small, factor) for place in range(one.pieces))
        elif inside and one.redrawn is not None:
            factor = one.output_factor if writes else 1.0
            found[parameter.pattern] = tuple(_rest(one, place, factor) for place in range(one.large.experts))
        elif inside and writes and one.output_factor != 1.0:
            scaled = rescaled(identity(small.sizes[one.inner]), 1 / one.output_factor)
            found[parameter.pattern] = (Part(axes={one.inner: scaled}, lifts=True),)
        elif writes and not inside and one.bias_factor != 1.0:
            found[parameter.pattern] = (
                Part(axes={one.router.experts: rescaled(_copied(one), one.bias_factor)}, lifts=True),
            )
    return found


def _piece(one: ExpertGrowth, place: int, small: Model, factor: float) -> Part:
    """Piece `place` of every expert: its share of the inner units; what it writes times `factor`."""
    here = one.piece == place
    index = torch.where(here, one.source, EMPTY)
    weight = here.to(torch.float64)
    units = small.sizes[one.inner]
    size = units // one.pieces
    cut = Select(torch.arange(place * size, (place + 1) * size), torch.ones(size, dtype=torch.float64), units)
    experts = AxisMap(
        Select(index, weight, one.small.experts), Select(index, weight / one.copies, one.small.experts)
    )
    inner = AxisMap(cut, cut) if factor == 1.0 else rescaled(AxisMap(cut, cut), 1 / factor)
    return Part(axes={one.router.experts: experts, one.inner: inner}, lifts=True)


def _rest(one: ExpertGrowth, place: int, factor: float) -> Part:
    """What is left of expert `place` once units are drawn anew."""
    assert one.redrawn is not None
    here = torch.arange(one.large.experts) == place
    index, weight = torch.where(here, one.source, EMPTY), here.to(torch.float64)
    units = one.redrawn.shape[1]
    kept = ~one.redrawn[place]
    left = Select(torch.where(kept, torch.arange(units), EMPTY), kept.to(torch.float64), units)
    experts = AxisMap(
        Select(index, weight, one.small.experts), Select(index, weight / one.copies, one.small.experts)
    )
    inner = AxisMap(left, left, "none")
    return Part(
        axes={
            one.router.experts: experts,
            one.inner: inner if factor == 1.0 else rescaled(inner, 1 / factor),
        },
        lifts=True,
    )


def _cannot(small: Model, router: RouterSpec, name: str, why: str, fix: str) -> GrowthError:
    return GrowthError(
        f"{name} cannot keep the function: {why}",
        got=f"{small.spec.model_type}, router '{router.choices}'",
        fix=fix,
    )


def _advice(one: ExpertGrowth) -> str:
    """What a growth could ask for instead."""
    field, small = one.router.active, one.small
    if one.large.active % one.pieces:
        low = max(one.large.active // one.pieces, 1) * one.pieces
        return f"choose {field} = {low} or {low + one.pieces}"
    if one.fresh_rows:
        normalised = one.router.normalised
        by_field = f"a model with {normalised}: true, or " if isinstance(normalised, str) else ""
        return f"use {by_field}a shared expert, drop, or the option inexact=true, and measure what it costs"
    needed = small.active * one.copies * one.pieces
    if one.large.active == needed:
        return "use the option inexact=true where the operator has it, or grow other sizes"
    return f"choose {field} = {needed}, use groups or hidden where the router has them, or the option inexact=true"


_ATTENTION = "untouched, as embeddings, norms and the head"

OPERATORS = (
    Operator(
        name="copy",
        kind="experts",
        grow=copy,
        title="Whole experts copied: one to E with fresh router rows, or N to M·N with k → M·k.",
        paper="sparse upcycling (arXiv 2212.05055)",
        tensors={
            "experts": "copied as they are",
            "router": "from one expert: rows drawn from N(0, initializer range²); else rows copied, with `row_noise` a common row per set",
            "attention": _ATTENTION,
        },
        function="kept from one expert where shares are divided by their sum; kept for k → M·k under every softmax router",
        gradient="kept in sum over copies, Σ g_e = g: moments m/M and v/M²; the router's begin anew",
        escape="fresh rows: at once, experts see other tokens. k → M·k: only with `row_noise`",
        use="the plain way from a dense model to a mixture",
        published_moments="reset",
        options={
            "row_noise": "a common random row per new set, in root mean squares of the router: it tells copies of the set apart",
            "inexact": "allow a top-k, or a router, that cannot keep the function",
        },
    ),
    Operator(
        name="split",
        kind="experts",
        grow=split,
        title="Every expert cut in G pieces along its inner units, copied as the sizes say; k counts pieces.",
        paper="granular upcycling with virtual groups (arXiv 2410.07524); factor G on the output matrix alone is ours",
        tensors={
            "experts": "pieces of the inner units; output matrices × G",
            "router": "equal rows for the pieces of one expert, drawn or copied as under `copy`",
            "attention": _ATTENTION,
        },
        function="kept where k is a multiple of G, as under `copy`",
        gradient="kept in sum over copies",
        escape="at once: pieces differ",
        use="many small experts (granularity)",
        published_moments="reset",
        sizes=_split_sizes,
        options={
            "row_noise": "a common random row per new set, in root mean squares of the router: it tells copies of the set apart",
            "pieces": "pieces of every expert",
            "inexact": "allow a top-k, or a router, that cannot keep the function",
        },
    ),
    Operator(
        name="drop",
        kind="experts",
        grow=drop,
        title="Copies of whole experts, a share of each one's inner units drawn anew.",
        paper="drop-upcycling (arXiv 2502.19261); statistics of the whole stored tensor",
        tensors={
            "experts": "copied; redrawn units from N(mean, std²) of their tensor, moments zero and at the mean",
            "router": "as under `copy`",
            "attention": _ATTENTION,
        },
        function="not kept, on purpose",
        gradient="not kept",
        escape="at once: experts differ",
        use="long training after the growth",
        published_moments="reset",
        options={
            "row_noise": "a common random row per new set, in root mean squares of the router: it tells copies of the set apart",
            "share": "share of the inner units that is drawn anew",
        },
    ),
    Operator(
        name="groups",
        kind="experts",
        grow=groups,
        title="A copy of the whole set in every new routing group; k and the chosen groups are kept.",
        paper="ours (docs/howto/experts.md)",
        tensors={
            "experts": "copied; under softmax without division output matrices × M",
            "router": "rows copied, and a common random row per new group",
            "attention": _ATTENTION,
        },
        function="kept with row_noise=0; with it, a group's scores move alike and choices inside it stay",
        gradient="kept in sum over copies",
        escape="by the common rows: groups see other tokens",
        use="more experts at the same cost per token, where the router has groups",
        sizes=_group_sizes,
        options={
            "row_noise": "a common random row per new set, in root mean squares of the router: it tells copies of the set apart"
        },
    ),
    Operator(
        name="hidden",
        kind="experts",
        grow=hidden,
        title="Copies behind a selection bias one below the lowest: no token chooses them yet.",
        paper="ours, after loss-free balancing (arXiv 2408.15664)",
        tensors={
            "experts": "copied",
            "router": "rows copied; the selection bias of copies lowest - 1",
            "attention": _ATTENTION,
        },
        function="kept, any number of experts, k kept",
        gradient="kept: copies have none until they are chosen",
        escape="as balancing raises their bias",
        use="single experts more, routers with a correction bias",
        options={
            "row_noise": "a common random row per new set, in root mean squares of the router: it tells copies of the set apart"
        },
    ),
)
