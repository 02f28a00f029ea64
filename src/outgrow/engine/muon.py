"""Muon for matrices that are cut among ranks: Newton-Schulz needs a whole matrix, so each matrix is whole on one rank for a moment.

    momentum, decay and update     every rank on its own rows
    orthogonalization              matrix i of n on rank i:  rows -> owner -> rows, two all-to-alls for every n matrices

The bits are those of one process, and a rank does 1/n of the work (DTensor alone would multiply cut matrices: other bits,
and many times the work).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard
from torch.optim import _muon

from outgrow.parallel.pieces import local

Orthogonalize = Callable[[Tensor], Tensor]


class Muon(torch.optim.Muon):
    """torch's Muon; of parameters cut along their rows by FSDP2 the same update, bit for bit.

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
        """This rank's rows of what is to be orthogonalized."""
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
) -> Iterator[Tensor]:
    """This rank's rows of every orthogonalized matrix, in order."""
    if not parameters:
        return
    group = _row_group(parameters)
    count, me = dist.get_world_size(group), dist.get_rank(group)
    for first in range(0, len(parameters), count):
        batch, rows = parameters[first : first + count], updates[first : first + count]
        mine = batch[me] if me < len(batch) else None
        send = [one.numel() for one in rows] + [0] * (count - len(batch))
        receive = [0] * count if mine is None else [rows_of(mine, rank, count) for rank in range(count)]
        packed = torch.cat([one.reshape(-1) for one in rows])
        whole = packed.new_empty(sum(receive))
        dist.all_to_all_single(whole, packed, receive, send, group=group)
        if mine is not None:
            whole = orthogonalize(whole.view(mine.shape)).to(packed.dtype).contiguous().view(-1)
        back = torch.empty_like(packed)
        dist.all_to_all_single(back, whole, send, receive, group=group)
        for part, one in zip(torch.split(back, send[: len(batch)]), rows, strict=True):
            yield part.view(one.shape)


def rows_of(parameter: Tensor, rank: int, count: int) -> int:
    """How many numbers of a matrix a rank of so many holds: ceil(rows / count) rows each, the last ones fewer."""
    rows, columns = parameter.shape
    size = -(-rows // count)
    return (min((rank + 1) * size, rows) - min(rank * size, rows)) * columns


def _row_group(parameters: Sequence[Tensor]) -> dist.ProcessGroup:
    """The ranks among which the rows of all these matrices are cut."""
    groups = set()
    for one in parameters:
        assert isinstance(one, DTensor)
        (cut,) = [dim for dim, place in enumerate(one.placements) if place.is_shard()]
        assert one.placements[cut] == Shard(0), f"rows are cut, not {one.placements}"
        groups.add(one.device_mesh.get_group(cut))
    (group,) = groups
    return group
