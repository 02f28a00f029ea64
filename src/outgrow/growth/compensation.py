"""What an axis passes through decides which maps keep the function, and what must be compensated where.

The table of docs/explanation/maths.md as code: `compensate` takes the free maps of a growth and derives the rest,

    norm output     F_norm = F_stream;  gain' = ρ·F_norm/F_stream·gain,  eps' = ρ²·eps,  ρ = √(c·d/D), FᵀF = c·I
    branch gain     gain' = one copy per unit, so that gain'·(F·x) = F·(gain·x)
    tied head       F_final = F_stream / c, so that logits E'·x' = E·x
    tied, times     F_final = F_stream·τ_head / (c·τ_table), τ = t(small) / t(large), where the model multiplies by t
    attention       F_query ← √(D/d)·F_query, so that scores q'·k'/√D = q·k/√d (not where they are divided by a field)

and says for every axis, before anything is computed, whether the function and the gradient law are kept, and why not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isclose, sqrt

import torch

from outgrow.algebra.linear import EMPTY, MEAN, LinearMap, Select
from outgrow.algebra.maps import AxisMap, identity
from outgrow.growth.checks import _CHECKS, _score_factor, rope_types
from outgrow.growth.experts import ExpertGrowth
from outgrow.growth.finding import Finding
from outgrow.growth.growth import Growth, covered
from outgrow.growth.raw_norms import raw_findings
from outgrow.models.expressions import factor, got
from outgrow.models.model import Model, Parameter
from outgrow.models.spec import AxisSpec


@dataclass(frozen=True)
class Compensation:
    """Every axis's maps, the maps of norm gains, changed eps fields, and a finding per growing axis."""

    axes: Mapping[str, AxisMap]
    gains: Mapping[str, AxisMap]
    eps: Mapping[str, float]
    findings: tuple[Finding, ...]


def compensate(growth: Growth) -> Compensation:
    """Derive what the operator's maps ask of norms, tied heads, attention scale and eps.

    An operator that gives the gains too has said all: nothing is derived.
    """
    if growth.gains is not None:
        stated = (*_stated(growth), *map(_experts, growth.experts))
        return Compensation(growth.axes, growth.gains, {}, stated)
    small, axes, findings = growth.small, dict(growth.axes), []
    notes: dict[str, list[str]] = {}
    for query, spec in small.axes.items():
        if spec.is_contracted and spec.with_ is not None and small.is_query(query):
            times = _score_factor(spec, axes[query])
            axes[query], axes[spec.with_] = _scores(
                axes[query], axes[spec.with_], times, rotary=bool(spec.rotary)
            )
            if axes[query].grows:
                by = "" if spec.scores == "fixed" else f"queries × √(D/d) = {times:.4g}, "
                notes.setdefault(query, []).append(f"{by}fresh keys zero")
    for name, spec in small.axes.items():
        if spec.like is not None:
            axes[name] = _like(axes[spec.like], small.sizes[name])
    for name, spec in small.axes.items():
        if spec.is_normed:
            axes[name] = _norm_output(growth, axes, name, spec)
    ratios = {
        name: _norm_ratio(growth, axes[spec.of], spec.of)
        for name, spec in small.axes.items()
        if spec.of is not None
    }
    gains = {name: _gain(axes[str(small.axes[name].of)], axes[name], rho) for name, rho in ratios.items()}
    gains |= {name: _gain(axes[name], axes[name], 1.0) for name in small.axes if small.is_scaled(name)}
    eps, torn = _grown_eps(small, ratios)
    torn |= _uncompensated(small, ratios, gains)
    for (stream, rho), names in _same_ratio(small, ratios).items():
        field = small.axes[names[0]].eps
        notes.setdefault(stream, []).append(
            f"gains of {', '.join(names)} × ρ and {field} × ρ², ρ = {rho:.4g}"
        )
    routed = {name for one in growth.experts for name in (one.router.choices, one.router.experts)}
    findings += [_experts(one) for one in growth.experts]
    for name in small.axes:
        if name in routed:
            continue
        if axes[name].grows or f"{name} group" in axes:
            finding = _finding(growth, axes, name, "; ".join(notes.get(name, [])))
            if name in torn:
                finding = replace(finding, function=False, gradient=False, why=torn[name])
            findings.append(finding)
    findings += raw_findings(small, axes)
    findings += _length(growth)
    if growth.layers.grows:
        findings.append(_layers(growth))
    if growth.inexact:
        findings.append(_inexact(growth))
    return Compensation(axes, gains, eps, tuple(findings))


def _experts(grown: ExpertGrowth) -> Finding:
    """What becomes of the experts behind one router."""
    kept, why = grown.verdict()
    notes = [] if grown.pieces == 1 else [f"each expert in {grown.pieces} pieces"]
    if grown.output_factor != 1.0:
        notes.append(f"output matrices × {grown.output_factor:.4g}")
    notes.append("the router begins anew" if grown.fresh_rows else "router rows copied")
    notes.append("gradients are kept in sum over copies")
    old, new = grown.small, grown.large
    return Finding(
        grown.router.experts,
        old.experts,
        new.experts,
        f"router (top-{old.active} → top-{new.active})",
        kept,
        kept,
        "; ".join(notes),
        why,
    )


def _length(growth: Growth) -> list[Finding]:
    """Longer sequences where positions have no table: old ones turn as before, but where a rope type reads the length."""
    field = growth.small.spec.length or ""
    before, after = (got(model.config, field) or 0 for model in (growth.small, growth.large))
    bound = rope_types(growth.small.own_config) & {"dynamic", "longrope", "yarn"}
    why = f"rotary positions of type {', '.join(sorted(bound))} depend on the longest length" if bound else ""
    return [Finding(field, before, after, "length", not bound, not bound, "", why)] if after != before else []


def _stated(growth: Growth) -> tuple[Finding, ...]:
    """Findings of maps that are taken as they stand: the function is kept only where the operator says so."""
    kept = not growth.inexact
    grown = [
        Finding(
            name,
            axis.small,
            axis.large,
            growth.small.axes[name].through,
            kept,
            kept,
            "as given",
            "" if kept else "see the whole model",
        )
        for name, axis in growth.axes.items()
        if name in growth.small.axes and axis.grows
    ]
    return (*grown, *(() if kept else (_inexact(growth),)))


def _inexact(growth: Growth) -> Finding:
    small, large = growth.small.num_parameters, growth.large.num_parameters
    return Finding("weights", small, large, "the whole model", False, False, "", growth.inexact)


def _norm_ratio(growth: Growth, before: AxisMap, name: str) -> float:
    """ρ = √(c·d/D): by how much the root mean square of a norm's input grows; 1 where copies differ, and c is none."""
    ratio = before.norm_ratio()
    return 1.0 if ratio is None else sqrt(ratio * growth.small.sizes[name] / growth.large.sizes[name])


def _same_ratio(small: Model, ratios: Mapping[str, float]) -> dict[tuple[str, float], list[str]]:
    """(norm input, ρ) -> the norm outputs that are compensated by it, where ρ is not 1."""
    found: dict[tuple[str, float], list[str]] = {}
    for name, rho in ratios.items():
        if not isclose(rho, 1.0, rel_tol=1e-12):
            found.setdefault((str(small.axes[name].of), rho), []).append(name)
    return found


def _uncompensated(small: Model, ratios: Mapping[str, float], gains: Mapping[str, AxisMap]) -> dict[str, str]:
    """Norm inputs that grow as only a gain or an eps could make up for, where there is no gain, or the eps is in the code."""
    torn: dict[str, str] = {}
    for name, rho in ratios.items():
        of, gain = str(small.axes[name].of), gains[name].forward.as_gather()
        if small.axes[name].eps is None and not isclose(rho, 1.0, rel_tol=1e-12):
            torn[of] = "a norm's eps is in the code and cannot follow the root mean square of its input"
        if name not in small.scaled and bool((gain.weight - 1).abs()[gain.index >= 0].gt(1e-12).any()):
            tied = (
                "a tied head that reads it" if name in small.tied_axes() else "its input's root mean square"
            )
            torn[of] = f"a norm has no gain that could make up for {tied}"
    return torn


def _grown_eps(small: Model, ratios: Mapping[str, float]) -> tuple[dict[str, float], dict[str, str]]:
    """eps' = ρ²·eps per config field; and the norm inputs for which one field cannot serve all norms that share it."""
    eps: dict[str, float] = {}
    torn: dict[str, str] = {}
    inside = {one.spec.eps for one in small.parameters.values() if one.spec.norm is not None}
    for field in {spec.eps for spec in small.axes.values() if spec.eps is not None}:
        sharing = {name: rho for name, rho in ratios.items() if small.axes[name].eps == field}
        changed = [name for name, rho in sharing.items() if not isclose(rho, 1.0, rel_tol=1e-12)]
        if not changed:
            continue
        eps[field] = float(got(small.config, field)) * sharing[changed[0]] ** 2
        if field in inside or any(
            not isclose(rho, sharing[changed[0]], rel_tol=1e-12) for rho in sharing.values()
        ):
            for name in changed:
                torn[str(small.axes[name].of)] = f"norms that share {field} would need different values of it"
    return eps, torn


def _scores(query: AxisMap, key: AxisMap, times: float, *, rotary: bool) -> tuple[AxisMap, AxisMap]:
    """Queries and keys with F_qᵀF_k = √(D/d)·I, and the gradients that follow from it: G_q = F_k·√(d/D), G_k alike.

    Rotary pairs that turn at a new frequency give keys a gradient that is no transport of an old one: G_k stays as it is.
    """
    if not query.grows and not key.grows:
        return query, key
    queries, keys = query.forward.scaled(times), key.forward
    return (
        AxisMap(queries, keys.scaled(1 / times), query.fresh),
        AxisMap(keys, key.backward if rotary else queries.scaled(1 / times), key.fresh),
    )


def times_ratio(growth: Growth, times: str | None) -> float:
    """τ = t(small) / t(large): by how much a tensor is stored smaller because the model multiplies it by more."""
    return factor(times, growth.small.config) / factor(times, growth.large.config)


def _like(axis: AxisMap, size: int) -> AxisMap:
    """Plain copies in the same order: what an elementwise nonlinearity allows."""
    if axis.forward.is_identity:
        return identity(size)
    index = axis.forward.as_gather().index
    counts = torch.bincount(index[index >= 0], minlength=size).to(torch.float64)
    old = index >= 0
    share = torch.where(old, 1 / counts[index.clamp(min=0)], 0.0)
    index = torch.where(old, index, EMPTY)
    return AxisMap(Select(index, old.to(torch.float64), size), Select(index, share, size), "writers")


def _norm_output(growth: Growth, axes: Mapping[str, AxisMap], name: str, spec: AxisSpec) -> AxisMap:
    """The map of a norm's output: its input's, or, where a tied head reads it, the dual of the embedding's."""
    before = axes[str(spec.of)]
    if name in growth.small.tied_axes():
        stream = next(axes[other] for other, one in growth.small.axes.items() if one.is_stream)
        ratio = stream.norm_ratio() or stream.large / stream.small
        times = _head_times(growth, name)
        dual = _without_mean(stream.forward).scaled(times / ratio)
        return AxisMap(dual, _without_mean(stream.forward).scaled(1 / times), stream.fresh)
    return AxisMap(_without_mean(before.forward), before.backward, before.fresh)


def _head_times(growth: Growth, name: str) -> float:
    """τ of a tied table as the head that reads this axis, over its τ as the embedding."""

    def roles(one: Parameter) -> list[tuple[bool, str | None]]:
        own = ((one.signature, one.spec.times), *zip(one.tied, one.tied_times, strict=True))
        return [(name in signature.axes("reads"), times) for signature, times in own]

    found = next(
        roles(one) for one in growth.small.parameters.values() if one.tied and any(r for r, _ in roles(one))
    )
    head = next(times for is_head, times in found if is_head)
    table = next((times for is_head, times in found if not is_head), None)
    return times_ratio(growth, head) / times_ratio(growth, table)


def _without_mean(map_: LinearMap) -> LinearMap:
    """A norm centres its input, so channels that hold the mean come out as zero."""
    gather = map_.gather
    return map_ if gather is None or not gather.averages else gather.only(gather.index != MEAN)


def _gain(before: AxisMap, after: AxisMap, rho: float) -> AxisMap:
    """Maps of a gain (a) and of its gradient (b): a = ρ·F_after/F_before, b = G_after·F_before/ρ, unit by unit."""
    if before.forward.is_identity and after.forward.is_identity:
        return identity(before.small)
    inner, outer = before.forward.as_gather(), after.forward.as_gather()
    dual = after.backward.as_gather()
    old = inner.index >= 0
    index = torch.where(old, inner.index, MEAN)  # a new channel of the stream starts with the mean gain
    safe = torch.where(old & (inner.weight != 0), inner.weight, 1.0)
    forward = torch.where(old, rho * torch.where(outer.index >= 0, outer.weight, 0.0) / safe, rho)
    backward = torch.where(old & (dual.index >= 0), dual.weight * safe / rho, 0.0)
    return AxisMap(
        Select(index, forward, before.small),
        Select(torch.where(old, index, EMPTY), backward, before.small),
        "writers",
    )


def _finding(
    growth: Growth,
    axes: Mapping[str, AxisMap],
    name: str,
    note: str,
) -> Finding:
    """Apply the row of the table that belongs to what this axis passes through."""
    spec, axis = growth.small.axes[name], axes[name]
    joint = axes.get(f"{name} group")
    function, gradient, why = _CHECKS[spec.through](growth, axes, name)
    if axis.residual() > 1e-9:
        function, gradient, why = False, False, why or "backwardᵀ forward is not the identity"
    if joint is not None:
        gradient, why = False, why or "copies of a key/value head serve different query heads"
    if (spec.shares_readers or spec.is_stream) and not covered(axis.forward):
        note = "; ".join(filter(None, [note, f"new units: {axis.fresh} fresh, the other side zero"]))
    if spec.shares_readers and covered(axis.forward):
        note = note or "readers share among copies"
    return Finding(name, axis.small, axis.large, spec.through, function, gradient, note, why)


def _layers(growth: Growth) -> Finding:
    layers = growth.layers
    spoken = [layer for layer in range(layers.large) if layer not in layers.silent]
    kept = [layers.rows[layer] for layer in spoken] == [((old, 1.0),) for old in range(layers.small)]
    note = _SILENCING[layers.silenced] if kept else ""
    if kept and growth.small.spec.layers.norm == "post":
        note += "; the norm before becomes (1, 0), which is exact but for its eps"
    why = ""
    if not kept:
        fresh = any(not layers.rows[layer] for layer in spoken)
        why = "new layers hold random weights and speak" if fresh else "layers are applied more than once"
    gradient = kept
    if kept and layers.grows and growth.small.own_config.get("output_router_logits"):
        gradient, why = False, "the routers' balancing loss is a mean over all layers, new ones too"
    return Finding("layers", layers.small, layers.large, "stack of layers", kept, gradient, note, why)


_SILENCING = {
    "outputs": "last matrix of each branch zero",
    "norms": "norms and biases of new layers zero",
    "pairs": "units of new layers cancel in pairs",
}
