"""What stands stays where it is nearly as good, moves where it must, and never overloads what it stays on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from isochrone.plan.coordinated import Coordinator
from isochrone.plan.damping import damped, resting_site, settled_limits
from isochrone.plan.plan import Plan, Prices, Refusal, Rung, Share
from isochrone.plan.problem import RoutingProblem, ShareLimit
from isochrone.plan.routing import route_exactly
from isochrone.plan.settle import DWELL_S, settle
from isochrone.plan.smoothed import promising_arcs

EMPTY = Plan(
    revision=1, fabric_digest="", reach_digest="", placements={}, hardware={}, placed_since={}, routes={}, limits={},
    prices=Prices(), shortfalls=(), objective=0.0, solved_s=0.0, placed_s=0.0, gap=0.0, placement_gap=0.0,
)  # fmt: skip


def problem_of(
    costs: tuple[float, float], rps: float = 10.0, capacity: float = 100.0, errors: tuple[float, float] = (0.0, 0.0)
) -> RoutingProblem:
    return RoutingProblem(
        demands=(("c", "here"),),
        pools=(("a", "w"), ("b", "w")),
        rps=np.array([rps]),
        shed_cost=np.array([50.0]),
        capacity_rps=np.array([capacity, 100.0]),
        arc_demand=np.array([0, 0], dtype=np.int32),
        arc_pool=np.array([0, 1], dtype=np.int32),
        cost=np.array(costs),
        use=np.ones(2),
        cost_error=np.array(errors),
    )


def stay(
    problem: RoutingProblem, shares: dict[str, float], begun: frozenset[tuple[str, str]] = frozenset()
) -> list[float]:
    routing = damped(problem, route_exactly(problem), {("c", "here"): shares}, begun)
    assert routing.flow_rps.sum() + routing.unserved_rps.sum() == pytest.approx(problem.rps.sum())
    assert routing.objective >= routing.bound
    return routing.flow_rps.tolist()


def test_what_is_nearly_as_good_stays() -> None:
    assert stay(problem_of((1.0, 1.005)), {"b": 1.0}) == pytest.approx([0, 10])
    assert stay(problem_of((1.005, 1.0)), {"a": 0.3, "b": 0.7}) == pytest.approx([3, 7])


def test_what_is_much_dearer_moves_whole() -> None:
    assert stay(problem_of((1.0, 2.0)), {"b": 1.0}) == pytest.approx([10, 0])


def test_a_difference_within_its_own_error_moves_nothing() -> None:
    assert stay(problem_of((1.0, 1.8), errors=(0.3, 0.3)), {"b": 1.0}) == pytest.approx([0, 10])
    assert stay(problem_of((1.0, 2.0), errors=(0.3, 0.3)), {"b": 1.0})[0] > 0
    assert stay(problem_of((1.0, 9.0), errors=(0.1, 0.1)), {"b": 1.0}) == pytest.approx([10, 0])


def test_nothing_stays_that_was_chosen_while_another_pool_did_not_answer() -> None:
    problem = problem_of((1.0, 1.8), errors=(0.3, 0.3))
    assert stay(problem, {"b": 1.0}, frozenset({("a", "w")})) == pytest.approx([10, 0])
    assert stay(problem, {"b": 1.0}, frozenset({("a", "other"), ("c", "w")})) == pytest.approx([0, 10])
    # Nor what is as good but for a little: a site that is back gets its traffic back.
    assert stay(problem_of((1.0, 1.005)), {"b": 1.0}, frozenset({("a", "w")})) == pytest.approx([10, 0])


def test_no_capacity_is_exceeded_for_the_sake_of_staying() -> None:
    assert stay(problem_of((1.0, 1.001), capacity=4.0), {"a": 1.0}) == pytest.approx([4, 6])


def test_what_stands_nowhere_goes_where_it_is_best() -> None:
    assert stay(problem_of((1.0, 1.001)), {}) == pytest.approx([10, 0])
    assert stay(problem_of((1.0, 1.001)), {"gone": 1.0}) == pytest.approx([10, 0])


def test_the_gap_states_what_staying_costs() -> None:
    problem = problem_of((1.0, 1.005))
    assert damped(problem, route_exactly(problem), {("c", "here"): {"b": 1.0}}).gap == pytest.approx(0.005, rel=0.01)


def test_a_large_problem_begins_with_arcs_that_its_optimum_uses() -> None:
    rng = np.random.default_rng(2)
    ingresses, sites = 150, 150
    i, s = np.nonzero(rng.random((ingresses, sites)) < 0.95)
    rps = rng.exponential(1, ingresses)
    problem = RoutingProblem(
        demands=tuple(("c", f"i{n}") for n in range(ingresses)),
        pools=tuple((f"s{n}", "w") for n in range(sites)),
        rps=rps,
        shed_cost=np.full(ingresses, 50.0),
        capacity_rps=np.full(sites, 1.3 * rps.sum() / sites),
        arc_demand=i.astype(np.int32),
        arc_pool=s.astype(np.int32),
        cost=rng.uniform(1, 4, len(i)),
        use=rng.uniform(1, 2, len(i)),
    )
    assert len(i) > 20_000, "the smoothed dual is used from here on"
    exact = route_exactly(problem)
    promising = promising_arcs(problem, 2.5)
    assert promising.mean() < 0.2
    assert promising[exact.flow_rps > 1e-6].mean() > 0.9
    coordinator = Coordinator(0.01)
    for changed in (problem, replace(problem, rps=rps * rng.uniform(0.95, 1.05, ingresses))):
        answer, best = coordinator.solve(changed), route_exactly(changed)
        assert answer.gap <= 0.01
        assert answer.bound <= best.objective * (1 + 1e-9)
        assert best.objective * (1 - 1e-9) <= answer.objective <= best.objective * 1.01


def test_no_share_limit_is_broken_for_the_sake_of_staying() -> None:
    limit = ShareLimit("c", "site", "a", 0.5, frozenset(["a"]))
    problem = replace(problem_of((1.0, 1.001)), limits=(limit,))
    assert stay(problem, {"a": 0.9, "b": 0.1}) == pytest.approx([5, 5])
    assert stay(problem, {"a": 0.2, "b": 0.8}) == pytest.approx([2, 8])


@pytest.mark.parametrize(
    ("found", "limit"), [(100, 100), (91, 100), (89, 89), (124, 100), (126, 126), (1, 1), (10_000, 10_000)]
)
def test_a_limit_stays_while_the_queue_bears_about_as_much(found: int, limit: int) -> None:
    assert settled_limits({"s": {"c": found}}, {"s": {"c": 100}}) == {"s": {"c": limit}}


def test_a_limit_of_what_is_new_is_as_found_and_one_of_what_is_gone_goes() -> None:
    assert settled_limits({"s": {"c": 7}, "t": {"c": 3}}, {"s": {"d": 7}}) == {"s": {"c": 7}, "t": {"c": 3}}


def test_what_nobody_asks_for_stays_where_it_would_go_until_that_is_worse_by_a_hundredth_of_a_promise() -> None:
    standing = {"b": 1.0}
    assert resting_site({"a": 1.0, "b": 1.4}, 50.0, standing) == "b"
    assert resting_site({"a": 1.0, "b": 1.6}, 50.0, standing) == "a"
    assert resting_site({"a": 1.0}, 50.0, standing) == "a"
    assert resting_site({"b": 1.0, "a": 1.0}, 50.0, {}) == "a"


def test_a_site_whose_part_is_the_same_keeps_its_revision_and_its_wording() -> None:
    def plan(revision: int, share_of_a: float, needed_ms: float) -> Plan:
        refusal = Refusal("No site can answer in time", f"it needs {needed_ms} ms", "a", needed_ms, 1.0, ())
        split = tuple(Share(site, part) for site, part in (("a", share_of_a), ("b", 1 - share_of_a)) if part)
        return replace(
            EMPTY,
            revision=revision,
            routes={"a": {"c": (Rung(20.0, split),)}, "b": {"c": (Rung(20.0, (), refusal=refusal),)}},
        )

    first = plan(1, 1.0, 31.4)
    second = settle(first, plan(2, 0.5, 31.9), {"c": {"a", "b"}}, 1.0)
    third = settle(second, plan(3, 0.5, 32.5), {"c": {"a", "b"}}, 2.0)
    assert [second.forwarding_revision(site) for site in "ab"] == [2, 1]
    assert [third.forwarding_revision(site) for site in "ab"] == [2, 1]
    assert third.routes["b"] == first.routes["b"]
    assert third.for_site("b").forwarding_revision("b") == 1


def test_what_sends_nothing_elsewhere_is_told_later_and_what_must_not_be_used_any_more_at_once() -> None:
    def plan(revision: int, fallbacks: tuple[str, ...], share: str = "a") -> Plan:
        rungs = (Rung(20.0, (Share(share, 1.0),), fallbacks=fallbacks),)
        return replace(EMPTY, revision=revision, routes={"a": {"c": rungs}}, site_changed_s={"a": 100.0})

    def told(new: Plan, is_open: str = "abx", now_s: float = 101.0) -> bool:
        after = settle(plan(1, ("b", "x")), new, {"c": set(is_open)}, now_s)
        assert after.forwarding_revision("a") == (2 if after.routes == new.routes else 1)
        assert after.site_changed_s["a"] == (now_s if after.routes == new.routes else 100.0)
        return after.routes == new.routes

    assert not told(plan(2, ("b",)))
    assert told(plan(2, ("b",)), now_s=100.0 + DWELL_S)
    assert told(plan(2, ("b",)), is_open="ab")
    assert told(plan(2, ("a", "x"), share="b"))
