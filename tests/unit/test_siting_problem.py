"""Does the siting solver agree with exhaustive search, refuse bad input, and does its check see a wrong answer?"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.errors import InputError, PlanError
from isochrone.plan.siting import SitingProblem, check, parse_orlib, parse_pmedian, shortest_paths, solve
from isochrone.plan.siting.branch import branch, survivors
from isochrone.plan.siting.lagrangian import evaluate, raise_bound


def _random(seed: int, *, capacity: bool = False, p: int | None = None) -> SitingProblem:
    r = np.random.default_rng(seed)
    demand = r.integers(1, 8, 5).astype(float)
    return SitingProblem(
        "t",
        r.integers(1, 60, (4, 5)).astype(float),
        r.integers(5, 50, 4).astype(float) * (p is None),
        demand if capacity else None,
        r.integers(10, 25, 4).astype(float) if capacity else None,
        capacity,
        p,
    )


def _exhaustive(problem: SitingProblem, must_open: int | None = None) -> float:
    """Least cost over every set of open sites (that has `must_open`) and every whole assignment."""
    sites, customers = problem.serve_cost.shape
    best = np.inf
    for n in range(1, sites + 1):
        if problem.sites_open_n is not None and n != problem.sites_open_n:
            continue
        for opened in combinations(range(sites), n):
            if must_open is not None and must_open not in opened:
                continue
            for chosen in product(opened, repeat=customers):
                if problem.capacity is not None and problem.demand is not None:
                    load = np.bincount(chosen, weights=problem.demand, minlength=sites)
                    if (load > problem.capacity).any():
                        continue
                best = min(
                    best,
                    problem.open_cost[list(opened)].sum() + problem.serve_cost[list(chosen), range(customers)].sum(),
                )
    return float(best)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.sampled_from(["uncapacitated", "single-source", "p-median"]))
def test_equal_to_exhaustive_search(seed, kind):
    problem = _random(seed, capacity=kind == "single-source", p=2 if kind == "p-median" else None)
    assert problem.kind == kind
    expected = _exhaustive(problem)
    if not np.isfinite(expected):
        with pytest.raises(PlanError):
            solve(problem)
        return
    answer = solve(problem)
    assert answer.value == pytest.approx(expected)
    assert answer.bound <= answer.value + 1e-6
    assert check(problem, answer) == []


def test_the_bound_holds_with_sites_forced_open():
    """The bound with a site forced open never exceeds the best answer that has it, and never falls below the bound
    without the force."""
    for seed in range(20):
        problem = _random(seed)
        free = evaluate(problem, problem.serve_cost.min(axis=0) + 3.0)
        for site in range(4):
            must = np.arange(4) == site
            held = evaluate(problem, free.worth, must)
            assert held.opened[site]
            assert free.bound - 1e-9 <= held.bound <= _exhaustive(problem, must_open=site) + 1e-9


def test_reduced_costs_never_leave_out_the_optimum():
    for seed in range(20):
        problem = _random(seed, capacity=True)
        best = _exhaustive(problem)
        if not np.isfinite(best):
            continue
        answer = solve(problem)
        kept = survivors(problem, raise_bound(problem, rounds=50, incumbent=lambda _, v=best: v), best)
        assert kept.sites[list(answer.open)].all()
        assert set(np.flatnonzero(kept.must)) <= set(answer.open)
        assert kept.arcs[answer.share > 0.5].all()


def test_a_search_that_is_cut_short_is_no_proof():
    problem = parse_pmedian("4 6 2\n1 2 7\n1 3 7\n1 4 7\n2 3 7\n2 4 7\n3 4 7", "even")
    root = raise_bound(problem, rounds=1, incumbent=lambda _: 1e6)
    with pytest.raises(PlanError) as caught:
        branch(problem, root, np.inf, time_limit_s=1.0, nodes_max=0)
    assert caught.value.code == "siting.unproven"


def test_the_check_sees_wrong_answers():
    problem = _random(3, capacity=True)
    answer = solve(problem)
    assert check(problem, replace(answer, value=answer.value - 1))
    assert check(problem, replace(answer, share=answer.share * 0.5))
    assert check(problem, replace(answer, open=()))
    tight = replace(problem, capacity=np.full(4, problem.demand.sum() / 4 + 0.01))
    assert (
        any("capacity" in line for line in check(tight, answer))
        or (answer.share @ problem.demand <= tight.capacity).all()
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "first line"),
        ("2 x", "not a file of numbers"),
        ("2 2\n1 1\n1 1\n1 1\n1 1", "need 12"),
        ("1 1\n1 5\n3\n2", "above total capacity"),
    ],
)
def test_bad_files(text, said):
    with pytest.raises(InputError, match=said):
        parse_orlib(text, "bad")


def test_bad_arguments():
    with pytest.raises(InputError, match="unknown kind"):
        parse_orlib("1 1\n9 5\n3\n2", "x", kind="mixed")
    with pytest.raises(InputError, match="cannot open"):
        SitingProblem("x", np.ones((2, 2)), np.ones(2), sites_open_n=3)
    with pytest.raises(InputError, match="finite"):
        SitingProblem("x", np.array([[np.nan]]), np.ones(1))
    with pytest.raises(InputError, match="outside"):
        parse_pmedian("2 1 1\n1 5 3", "x")
    with pytest.raises(InputError, match="not connected"):
        parse_pmedian("3 1 1\n1 2 3", "x")


def test_nul_padding_and_repeated_edges():
    assert parse_orlib("1 1\n9 5\n3\n2\n\0\0\0", "padded").serve_cost[0, 0] == 2
    assert parse_pmedian("2 2 1\n1 2 9\n1 2 4", "twice").serve_cost[0, 1] == 4


def test_shortest_paths():
    length = np.array([[np.inf, 1, 9], [1, np.inf, 2], [9, 2, np.inf]])
    assert shortest_paths(length)[0, 2] == 3
