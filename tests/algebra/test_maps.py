"""Laws of the algebra, each against its dense matrix."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from outgrow.algebra.linear import EMPTY, MEAN, Dense, Identity, LinearMap, Select
from outgrow.algebra.maps import AxisMap, LayerMap, copies, copy_index, identity, padding, rescaled
from outgrow.algebra.noise import normal_at, normal_box, normal_rows
from outgrow.algebra.products import compose, direct_sum, kron, product_error
from outgrow.algebra.slots import EXP_AVG, EXP_AVG_SQ, WEIGHT
from outgrow.errors import GrowthError


def select(index: list[int], weight: list[float], units: int) -> Select:
    return Select(torch.tensor(index), torch.tensor(weight, dtype=torch.float64), units)


MAPS: dict[str, LinearMap] = {
    "identity": Identity(3),
    "copies": select([0, 1, 2, 0, 1], [1, 1, 1, 1, 1], 3),
    "scaled": select([2, 0, 1, 1, 0, 2], [0.5, -1, 2, 0.25, 1, 1], 3),
    "contiguous": select([1, 2], [1, 1], 3),
    "contiguous, scaled": select([0, 1, 2], [3, 1, 2], 3),
    "empty": select([0, EMPTY, 2, EMPTY], [1, 0, 3, 0], 3),
    "nothing": select([EMPTY, EMPTY], [0, 0], 3),
    "mean": select([0, MEAN, 1, 2, MEAN, EMPTY], [1, 1, 2, 1, 0.5, 0], 3),
    "dense": Dense(
        torch.tensor(
            [[1.0, 0.5, 0.0], [0.0, -1.0, 2.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64
        )
    ),
}
ALL = pytest.mark.parametrize("map_", MAPS.values(), ids=MAPS.keys())
PAIRS = pytest.mark.parametrize(
    ("left", "right"), [pytest.param(MAPS[a], MAPS[b], id=f"{a} and {b}") for a, b in product(MAPS, MAPS)]
)


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def explicit(map_: LinearMap) -> Tensor:
    """The matrix, from the definition."""
    if isinstance(map_, Dense):
        return map_.values
    if isinstance(map_, Identity):
        return torch.eye(map_.size, dtype=torch.float64)
    assert isinstance(map_, Select)
    rows = torch.zeros(map_.outputs, map_.inputs, dtype=torch.float64)
    for row, (index, weight) in enumerate(zip(map_.index.tolist(), map_.weight.tolist(), strict=True)):
        if index == MEAN:
            rows[row] = weight / map_.inputs
        elif index != EMPTY:
            rows[row, index] = weight
    return rows


def same(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-14, atol=1e-15)


@PAIRS
def test_the_error_of_a_product_is_that_of_its_matrix(left: LinearMap, right: LinearMap) -> None:
    rows = min(left.outputs, right.outputs)
    left, right = left.rows(0, rows), right.rows(0, rows)
    for scale in (0.0, 1.0, 1.5):
        expected = explicit(left).T @ explicit(right) - scale * torch.eye(3, dtype=torch.float64)
        assert abs(product_error(left, right, scale) - float(expected.abs().max())) < 1e-14


@ALL
def test_matrix_is_the_definition(map_: LinearMap) -> None:
    assert map_.matrix().shape == (map_.outputs, map_.inputs)
    same(map_.matrix(), explicit(map_))
    assert map_.covered().tolist() == (explicit(map_) != 0).any(1).tolist()


@ALL
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_apply_on_every_dimension(map_: LinearMap, dim: int) -> None:
    x = numbers(*(3 if place == dim else 4 + place for place in range(3)))
    before = x.clone()
    y = map_.apply(x, dim)
    same(y, torch.tensordot(explicit(map_), x, dims=([1], [dim])).movedim(0, dim))
    assert torch.equal(x, before), "the input is not touched"
    assert map_.apply(x.float(), dim).dtype == torch.float32


@ALL
def test_rows_are_rows(map_: LinearMap) -> None:
    for start in range(map_.outputs + 1):
        for stop in range(start, map_.outputs + 1):
            same(map_.rows(start, stop).matrix(), explicit(map_)[start:stop])


@ALL
def test_sources_read_no_more_than_they_need(map_: LinearMap) -> None:
    x = numbers(3, 2)
    for start in range(map_.outputs):
        rows, inner = map_.rows(start, start + 1).sources()
        same(inner.apply(x[rows], 0), explicit(map_)[start : start + 1] @ x)
    if isinstance(map_, Select) and not bool((map_.index == MEAN).any()):
        rows, _ = map_.rows(0, 1).sources()
        assert len(torch.arange(3)[rows]) <= 1


@ALL
def test_square_squares_coefficients(map_: LinearMap) -> None:
    same(map_.square().matrix(), explicit(map_).square())


@PAIRS
def test_kron_and_direct_sum(left: LinearMap, right: LinearMap) -> None:
    same(kron([left, right]).matrix(), torch.kron(explicit(left), explicit(right)))
    same(direct_sum([left, right]).matrix(), torch.block_diag(explicit(left), explicit(right)))
    three = kron([left, Identity(2), right])
    same(
        three.matrix(),
        torch.kron(torch.kron(explicit(left), torch.eye(2, dtype=torch.float64)), explicit(right)),
    )


@PAIRS
def test_compose_is_the_matrix_product(left: LinearMap, right: LinearMap) -> None:
    bridge = select([i % right.outputs for i in range(3)], [1, 0.5, 2], right.outputs)
    inner = compose(bridge, right)
    same(inner.matrix(), explicit(bridge) @ explicit(right))
    same(compose(left, inner).matrix(), explicit(left) @ explicit(bridge) @ explicit(right))


def test_one_hot_maps_stay_gathers() -> None:
    """No matrix is ever made of copies: growth costs no more than a copy."""
    gathers = [map_ for name, map_ in MAPS.items() if name not in ("dense", "mean")]
    for left, right in product(gathers, gathers):
        for made in (kron([left, right]), direct_sum([left, right])):
            assert not isinstance(made, Dense)
    assert kron([MAPS["mean"]]) is MAPS["mean"]
    assert direct_sum([MAPS["mean"]]) is MAPS["mean"]


# ---- axis maps ------------------------------------------------------------------------------------------------------

AXES = {
    "identity": identity(4),
    "plain copies": copies(copy_index(4, 10), 4),
    "isometric": copies(copy_index(4, 7), 4, forward_power=0.5),
    "shared by the writer": copies(copy_index(4, 9), 4, forward_power=1.0),
    "padded": padding(4, 7, fresh="writers"),
    "padded in places": padding(4, 7, fresh="readers", places=torch.tensor([0, 2, 4, 6])),
    "padded with means": padding(4, 7, fresh="readers", mean=True),
    "rescaled": rescaled(copies(copy_index(4, 6), 4, forward_power=0.5), 1.5),
}


@pytest.mark.parametrize("axis", AXES.values(), ids=AXES.keys())
def test_backward_transposed_times_forward_is_the_identity(axis: AxisMap) -> None:
    assert axis.residual() <= 1e-15
    assert (axis.small, axis.large) == (axis.forward.inputs, axis.forward.outputs)
    again = axis.then(copies(copy_index(axis.large, axis.large + 3), axis.large))
    assert again.residual() <= 1e-15
    assert (again.small, again.large) == (4, axis.large + 3)


def test_a_pair_that_does_not_fit_has_a_residual() -> None:
    forward = copies(copy_index(4, 6), 4).forward
    assert AxisMap(forward, forward).residual() == 1.0


def test_the_isometric_map_is_isometric() -> None:
    for large in range(4, 13):
        axis = copies(copy_index(4, large), 4, forward_power=0.5)
        same(axis.forward.matrix().T @ axis.forward.matrix(), torch.eye(4, dtype=torch.float64))
        same(axis.forward.matrix(), axis.backward.matrix())


def test_norm_ratio() -> None:
    assert copies(copy_index(4, 8), 4).norm_ratio() == 2
    assert copies(copy_index(4, 6), 4).norm_ratio() is None
    assert padding(4, 6, fresh="writers").norm_ratio() == 1
    assert identity(4).norm_ratio() == 1
    turned = torch.linalg.qr(numbers(6, 4)).Q
    assert AxisMap(Dense(turned), Dense(turned)).norm_ratio() == pytest.approx(1)


def test_a_lost_unit_is_refused() -> None:
    with pytest.raises(GrowthError, match="unit 2 of 3 would be lost"):
        copies(torch.tensor([0, 1, 0, 1]), 3)


def test_scaled() -> None:
    for map_ in MAPS.values():
        same(map_.scaled(2.5).matrix(), explicit(map_) * 2.5)
        assert map_.scaled(1.0) is map_


def test_slots_swap_the_roles() -> None:
    axis = AXES["plain copies"]
    for role, weight, moment in (("writes", "forward", "backward"), ("reads", "backward", "forward")):
        assert WEIGHT.map(axis, role) is getattr(axis, weight)  # type: ignore[arg-type]
        assert EXP_AVG.map(axis, role) is getattr(axis, moment)  # type: ignore[arg-type]
        same(EXP_AVG_SQ.map(axis, role).matrix(), getattr(axis, moment).matrix().square())  # type: ignore[arg-type]


def test_the_three_slots_are_one_law() -> None:
    """A loss of y = W x: growing W, x and the gradient of y gives the grown gradient of W."""
    out, into = AXES["isometric"], AXES["plain copies"]
    weight, x, seen = numbers(4, 4), numbers(4, 1), numbers(4, 1).flip(0)
    large = out.forward.matrix() @ weight @ into.backward.matrix().T
    same(large @ (into.forward.matrix() @ x), out.forward.matrix() @ (weight @ x))
    gradient = (out.backward.matrix() @ seen) @ (into.forward.matrix() @ x).T
    moved = EXP_AVG.map(into, "reads").apply(EXP_AVG.map(out, "writes").apply(seen @ x.T, 0), 1)
    same(moved, gradient)
    squared = EXP_AVG_SQ.map(into, "reads").apply(
        EXP_AVG_SQ.map(out, "writes").apply((seen @ x.T) ** 2, 0), 1
    )
    same(squared, gradient**2)


# ---- layers ---------------------------------------------------------------------------------------------------------


def test_layer_maps_join() -> None:
    first = LayerMap.of([0, 0, 1], small=2, silent=[1])
    later = LayerMap.of([0, 1, 1, 2, 2], silent=[4])
    joined = first.then(later)
    assert [joined.sources(layer) for layer in range(5)] == [(0,), (0,), (0,), (1,), (1,)]
    assert joined.silent == {1, 2, 4}, "a copy of a silent layer is silent"
    assert joined.originals() == {0: 0, 1: 3}
    assert (joined.small, joined.large) == (2, 5)


def test_layer_maps_mix() -> None:
    first = LayerMap((((0, 0.5), (1, 0.5)), ((1, 1.0),)), 2)
    later = LayerMap((((0, 1.0), (1, 2.0)), ()), 2)
    assert first.then(later).rows == (((0, 0.5), (1, 2.5)), ())


def test_layers_that_stay() -> None:
    assert not LayerMap.of([0, 1, 2]).grows
    assert LayerMap.of([0, 1, 2, 2]).grows
    assert LayerMap.of([0, 2, 1]).grows


# ---- noise ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 3, 8, 13, 64])
def test_noise_has_an_address(columns: int) -> None:
    table = normal_rows(7, "w", 0, 20, columns)
    assert table.shape == (20, columns)
    for start, stop in ((0, 1), (3, 11), (19, 20), (5, 5)):
        assert torch.equal(normal_rows(7, "w", start, stop, columns), table[start:stop])
    rows = torch.tensor([4, 5, 6, 0, 19, 3])
    assert torch.equal(normal_at(7, "w", rows, columns), table[rows])
    assert not torch.equal(normal_rows(8, "w", 0, 20, columns), table)
    assert not torch.equal(normal_rows(7, "v", 0, 20, columns), table)
    assert len(torch.unique(table, dim=0)) == len(table)


def test_noise_of_a_box_is_the_box_of_the_noise() -> None:
    shape = (4, 9, 7)
    whole = normal_box(3, "w", shape, ((0, 4), (0, 9), (0, 7)), dtype=torch.float64)
    for box in (
        ((1, 3), (2, 9), (1, 6)),
        ((0, 1), (0, 1), (6, 7)),
        ((0, 4), (3, 3), (0, 7)),
        ((2, 4), (0, 9), (2, 5)),
    ):
        part = whole[tuple(slice(start, stop) for start, stop in box)]
        assert torch.equal(normal_box(3, "w", shape, box, dtype=torch.float64), part)
        assert torch.equal(
            normal_box(3, "w", shape, box, std=0.5, dtype=torch.bfloat16), (part * 0.5).bfloat16()
        )


def test_noise_has_no_pattern() -> None:
    """Singular values end where those of independent numbers do (Marchenko and Pastur): no rows or columns go together."""
    rows, columns = 300, 700
    draw = normal_rows(1, "w", 0, rows, columns).double()
    singular = torch.linalg.svdvals(draw)
    spread = 4 * rows ** (1 / 6)  # the edge of a Gaussian matrix fluctuates by rows^(1/6) (Tracy and Widom)
    assert abs(float(singular[0]) - (columns**0.5 + rows**0.5)) < spread
    assert abs(float(singular[-1]) - (columns**0.5 - rows**0.5)) < spread
    keys = normal_rows(1, "w", 0, 100_000, 2)
    pairs = (
        100_000**2 / 2 / 2**32
    )  # expected number of equal words, were they independent; here they are a permutation
    assert len(torch.unique(keys, dim=0)) > 100_000 - pairs


def test_noise_is_normal() -> None:
    draw = normal_rows(0, "w", 0, 2000, 100).double()
    assert bool(draw.isfinite().all())
    assert float(draw.mean()) == pytest.approx(0, abs=0.01)
    assert float(draw.var()) == pytest.approx(1, abs=0.01)
    assert float((draw**4).mean()) == pytest.approx(3, abs=0.1)
    assert abs(float(torch.corrcoef(draw[:, :2].T)[0, 1])) < 0.1
