"""Muon for matrices that are cut among ranks: Newton-Schulz needs a whole matrix, so each matrix is whole on one rank for a moment.

    momentum, decay and update     every rank on its own part
    orthogonalization              matrix i of n on rank i:  parts -> owner -> parts, two all-to-alls for every n matrices

The bits are those of one process, and a rank does 1/n of the work (DTensor alone would multiply cut matrices: other bits,
and many times the work).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.optim import _muon

from outgrow.parallel.pieces import blocks, local, units

Orthogonalize = Callable[[Tensor], Tensor]
Dims = tuple[int, ...]
"""Of a mesh."""


class Muon(torch.optim.Muon):
    """torch's Muon; of parameters that are cut by FSDP2, inside their layers or by both, the same update, bit for bit.

    >>> weight = torch.nn.Parameter(torch.eye(2))
    >>> weight.grad = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> Muon([weight], lr=0.1, weight_decay=0.0).step()
    >>> bool((weight.diagonal() < 1).all())
    True
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        if not any(isinstance(one, DTensor) for group in self.param_groups for one in group["params"]):
            return super().step(closure)  # type: ignore[no-untyped-call]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step(group)
        return loss

    def _step(self, group: dict[str, Any]) -> None:
        parameters = [one for one in group["params"] if one.grad is not None]
        updates = [self._momentum(one, group) for one in parameters]
        constants = group["ns_coefficients"], group["ns_steps"], group["eps"]

        def orthogonalize(matrix: Tensor) -> Tensor:
            return _muon._zeropower_via_newtonschulz(matrix, *constants)

        for parameter, update in zip(parameters, _by_owners(parameters, updates, orthogonalize), strict=True):
            rate = _muon._adjust_lr(group["lr"], group["adjust_lr_fn"], parameter.shape)
            local(parameter).mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)

    def _momentum(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """This rank's part of what is to be orthogonalized."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(
                parameter.detach(), memory_format=torch.preserve_format
            )
        gradient, buffer = local(parameter.grad), local(state["momentum_buffer"])
        buffer.lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer


def _by_owners(
    parameters: Sequence[Tensor], updates: Sequence[Tensor], orthogonalize: Orthogonalize
) -> list[Tensor]:
    """This rank's part of every orthogonalized matrix, in order; those that the same ranks hold go together."""
    together: dict[tuple[DeviceMesh, Dims], list[int]] = {}
    for number, one in enumerate(parameters):
        assert isinstance(one, DTensor)
        mesh, places = one.device_mesh, one.placements
        cut = tuple(
            dim for dim, place in enumerate(places) if not place.is_replicate() and mesh.size(dim) > 1
        )
        together.setdefault((mesh, cut), []).append(number)
    found: dict[int, Tensor] = {}
    for (mesh, dims), numbers in together.items():
        matrices, parts = ([one[number] for number in numbers] for one in (parameters, updates))
        found |= zip(numbers, _exchanged(mesh, dims, matrices, parts, orthogonalize), strict=True)
    return [found[number] for number in range(len(parameters))]


def _exchanged(
    mesh: DeviceMesh,
    dims: Dims,
    matrices: Sequence[Tensor],
    parts: Sequence[Tensor],
    orthogonalize: Orthogonalize,
) -> Iterator[Tensor]:
    """This rank's parts of orthogonalized matrices that are cut along these dimensions of a mesh."""
    if not dims:
        yield from (orthogonalize(one).to(one.dtype) for one in parts)
        return
    group = _group(mesh, dims)
    count, me = dist.get_world_size(group), dist.get_rank(group)
    for first in range(0, len(matrices), count):
        batch, own = matrices[first : first + count], parts[first : first + count]
        held = _held_by_all(batch[me], mesh, dims) if me < len(batch) else []
        send = [one.numel() for one in own] + [0] * (count - len(batch))
        receive = [len(rows) * len(columns) for rows, columns in held] or [0] * count
        packed = torch.cat([one.reshape(-1) for one in own])
        there = packed.new_empty(sum(receive))
        dist.all_to_all_single(there, packed, receive, send, group=group)
        if held:
            whole = there.new_empty(batch[me].shape)
            for rows, columns, part in _placed(held, torch.split(there, receive)):
                whole[rows, columns] = part
            whole = orthogonalize(whole).to(packed.dtype)
            for rows, columns, part in _placed(held, torch.split(there, receive)):
                part.copy_(whole[rows, columns])
        back = torch.empty_like(packed)
        dist.all_to_all_single(back, there, send, receive, group=group)
        for part, one in zip(torch.split(back, send[: len(batch)]), own, strict=True):
            yield part.view(one.shape)


def _placed(
    held: Sequence[tuple[Tensor, Tensor]], parts: Sequence[Tensor]
) -> Iterator[tuple[slice, slice, Tensor]]:
    """The blocks of a matrix, and where each lies in the ranks' parts of it."""
    for (rows, columns), part in zip(held, parts, strict=True):
        for (down, across), memory in blocks((rows, columns), part.view(len(rows), len(columns))):
            yield slice(*down), slice(*across), memory


def _held_by_all(matrix: Tensor, mesh: DeviceMesh, dims: Dims) -> list[tuple[Tensor, Tensor]]:
    """Rows and columns of a matrix that each rank along these dimensions holds, in the order of their group."""
    assert isinstance(matrix, DTensor)
    sizes, here = list(mesh.shape), mesh.get_coordinate()
    assert here is not None
    found = []
    for place in product(*(range(sizes[dim]) for dim in dims)):
        there = [dict(zip(dims, place, strict=True)).get(dim, own) for dim, own in enumerate(here)]
        rows, columns = (
            units(size, dim, matrix.placements, sizes, there) for dim, size in enumerate(matrix.shape)
        )
        found.append((rows, columns))
    return found


def _group(mesh: DeviceMesh, dims: Dims) -> dist.ProcessGroup:
    """The ranks along these dimensions of a mesh."""
    if len(dims) == 1:
        return mesh.get_group(dims[0])
    names = mesh.mesh_dim_names
    assert names is not None
    return mesh[tuple(names[dim] for dim in dims)]._flatten().get_group()
