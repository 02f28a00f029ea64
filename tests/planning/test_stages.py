"""The planner against brute force and closed forms; sensitivity, replay and the published rules."""

from __future__ import annotations

from itertools import combinations, combinations_with_replacement, pairwise

import numpy as np
import pytest

from outgrow.errors import ConfigError
from outgrow.planning.laws import CHINCHILLA, Chinchilla
from outgrow.planning.stages import (
    LOSS_PRESERVING,
    OperatorCost,
    Problem,
    Size,
    best_for_flops,
    best_for_loss,
    gstack_tokens,
    late_switch_tokens,
    loss_along,
    replay_path,
    sensitivity,
)
from outgrow.planning.stages.problem import any_larger

LAW = Chinchilla(1.9, 120.0, 0.30, 900.0, 0.40)


def series(
    *numbers: float, operators: tuple[OperatorCost, ...] = (LOSS_PRESERVING,), law: Chinchilla = LAW
) -> Problem:
    sizes = tuple(Size(f"{n:.3g}", n, 6 * n, law.curve(n)) for n in numbers)
    return Problem(sizes, operators, any_larger(len(sizes)), tuple(range(len(sizes))))


def brute_force(problem: Problem, target: float, stages: int, lines: int) -> tuple[float, tuple[int, ...]]:
    """The cheapest of all size sequences and all switch points on a grid, in naive loops from the definition."""
    floor = min(size.curve.floor_loss for size in problem.sizes)
    grid = floor + np.geomspace(8 * (target - floor), target - floor, lines)
    best = (np.inf, ())
    for chosen in combinations(range(len(problem.sizes)), stages):
        if any(problem.operator_of[i, j] < 0 for i, j in pairwise(chosen)):
            continue
        for switches in combinations_with_replacement(range(lines), stages - 1):
            ends = [*(float(grid[line]) for line in switches), target]
            cost = 0.0
            for k, place in enumerate(chosen):
                size = problem.sizes[place]
                tokens = float(size.curve.tokens(ends[k]))
                if k:
                    operator = problem.operators[problem.operator_of[chosen[k - 1], place]]
                    tokens -= float(size.curve.tokens(ends[k - 1] + operator.loss_gap))
                    if not tokens >= 0:
                        cost = np.inf
                        break
                    tokens += operator.lost_tokens
                    cost += operator.flops
                cost += size.flops_per_token * tokens
            if cost < best[0]:
                best = (cost, chosen)
    return best


@pytest.mark.parametrize(
    "operator", [LOSS_PRESERVING, OperatorCost("rough", 0.05, 2e6, 1e13), OperatorCost("lucky", -0.01)]
)
def test_two_and_three_stages_are_those_of_brute_force(operator: OperatorCost) -> None:
    problem = series(1e6, 3e6, 8e6, 2e7, operators=(operator,))
    paths = best_for_loss(problem, 3.1, 3)
    for stages, lines in ((2, 600), (3, 70)):
        cost, sizes = brute_force(problem, 3.1, stages, lines)
        path = paths[stages - 1]
        assert path.sizes == sizes
        assert path.total_flops <= cost * (1 + 1e-9)  # refined between the lines of the brute force's grid
        assert path.total_flops > cost * (1 - 4e-3)


def test_forbidden_growths_and_final_sizes_are_kept_out() -> None:
    problem = series(1e6, 3e6, 8e6, 2e7)
    table = problem.operator_of.copy()
    free = best_for_loss(problem, 3.1, 2)[1]
    table[free.sizes[0], free.sizes[1]] = -1
    other = Problem(problem.sizes, problem.operators, table, problem.last)
    path = best_for_loss(other, 3.1, 2)[1]
    cost, sizes = brute_force(other, 3.1, 2, 400)
    assert path.sizes == sizes != free.sizes
    assert path.total_flops == pytest.approx(cost, rel=1e-3)
    last = Problem(problem.sizes, problem.operators, problem.operator_of, (3,))
    assert {path.sizes[-1] for path in best_for_loss(last, 3.1, 3)} == {3}


def test_the_switch_of_two_sizes_has_a_closed_form() -> None:
    """Equal FLOPs per loss: N_i e_i^-(1 + 1/b) = N_j e_j^-(1 + 1/b) with e = loss - floor, so e_j = (E_i - E_j) / (1 - rho)."""
    problem = series(3e6, 2e7)
    small, large = problem.sizes
    rho = (small.flops_per_token / large.flops_per_token) ** (LAW.token_exponent / (1 + LAW.token_exponent))
    floors = small.curve.floor_loss, large.curve.floor_loss
    switch = floors[1] + (floors[0] - floors[1]) / (1 - rho)
    path = best_for_loss(problem, 2.9, 2)[1]
    assert path.losses[0] == pytest.approx(switch, rel=1e-5)
    whole = small.flops_per_token * small.curve.tokens(switch) + large.flops_per_token * (
        large.curve.tokens(2.9) - large.curve.tokens(switch)
    )
    assert path.total_flops == pytest.approx(float(whole), rel=1e-9)


def test_free_sizes_reach_the_continuous_optimum_to_a_thousandth() -> None:
    best = LAW.cheapest(3.0)
    problem = series(*(best.parameters * np.geomspace(1 / 100, 3, 200)).tolist())
    one, two = best_for_loss(problem, 3.0, 2)
    assert one.total_flops == pytest.approx(best.flops, rel=1e-3)
    assert two.total_flops == pytest.approx(continuous_two(3.0), rel=1e-3)
    assert 0.05 < two.saving(one) < 0.07


def continuous_two(target: float) -> float:
    """Two free sizes: the closed-form switch inside, a zooming search over both sizes outside."""
    b = LAW.token_exponent
    centre, span = np.log([LAW.cheapest(target).parameters / 5, LAW.cheapest(target).parameters * 1.4]), 1.5
    for _ in range(12):
        n0, n1 = (
            np.exp(x) for x in np.meshgrid(*(c + np.linspace(-span, span, 41) for c in centre), indexing="ij")
        )
        e0, e1 = LAW.floor(n0), LAW.floor(n1)
        switch = e1 + (e0 - e1) / (1 - (n0 / n1) ** (b / (1 + b)))
        with np.errstate(all="ignore"):
            cost = 6 * n0 * LAW.tokens(n0, switch) + 6 * n1 * (
                LAW.tokens(n1, target) - LAW.tokens(n1, switch)
            )
        cost = np.where((n1 > n0) & (switch > target) & np.isfinite(cost), cost, np.inf)
        at = np.unravel_index(np.argmin(cost), cost.shape)
        centre, span = np.log([n0[at], n1[at]]), span / 4
    return float(cost.min())


def test_a_budget_is_spent_and_buys_the_lowest_loss() -> None:
    problem = series(*np.geomspace(3e5, 3e8, 60).tolist())
    paths = best_for_flops(problem, 1e17, 3)
    for path in paths:
        assert path.total_flops == pytest.approx(1e17, rel=1e-6)
        again = best_for_loss(problem, path.losses[-1], len(path.sizes))[-1]
        assert again.total_flops == pytest.approx(1e17, rel=1e-5)  # the same optimum from the other side
    assert paths[0].losses[-1] > paths[1].losses[-1] > paths[2].losses[-1]
    assert paths[0].losses[-1] == pytest.approx(LAW.best_for_flops(1e17).loss, rel=1e-4)


def test_sensitivity_has_its_minimum_at_the_plan() -> None:
    problem = series(3e6, 2e7)
    path = best_for_loss(problem, 2.9, 2)[1]
    factors, costs = sensitivity(problem, path, 0)
    assert costs[len(factors) // 2] == pytest.approx(1.0)
    assert costs.min() == pytest.approx(1.0)
    assert (np.diff(costs[: len(factors) // 2]) < 0).all()
    assert costs[0] > 1.001


def test_a_replay_is_the_path_and_its_loss_ends_there() -> None:
    problem = series(1e6, 5e6, 2e7, operators=(OperatorCost("rough", 0.02, 1e6, 1e12),))
    path = best_for_loss(problem, 3.1, 3)[2]
    again = replay_path(problem, path.sizes, path.tokens[:-1], path.losses[-1])
    np.testing.assert_allclose(again.flops, path.flops, rtol=1e-9)
    end = loss_along(problem, path.sizes, path.tokens[:-1], np.array([path.total_flops]))
    assert float(end[0]) == pytest.approx(path.losses[-1], rel=1e-9)


def test_impossible_targets_and_budgets() -> None:
    problem = series(1e6, 3e6)
    with pytest.raises(ConfigError, match="no candidate reaches the target loss"):
        best_for_loss(problem, 2.0, 2)
    with pytest.raises(ConfigError, match="budget is below the smallest"):
        best_for_flops(problem, 5e12, 2)


def test_rules_of_timing() -> None:
    assert gstack_tokens(8e9, 7.2e23) == pytest.approx(
        6.58e9, rel=0.03
    )  # Llama 3 8B in arXiv 2405.15319: 6.58 B
    assert late_switch_tokens(1e9) == 8e8
    with pytest.raises(ConfigError, match="mixing time"):
        late_switch_tokens(1e9, 2e9)


def test_published_law_serves_the_planner() -> None:
    paths = best_for_loss(series(*np.geomspace(1e8, 1e10, 30).tolist(), law=CHINCHILLA), 2.4, 2)
    assert 0.03 < paths[1].saving(paths[0]) < 0.04  # a fifth of what Kaplan's law promises
