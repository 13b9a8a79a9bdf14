"""Sifting ends at the optimum of the whole program; the links hold in every plan; openings are the best there are."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from capital_world import world
from scipy.optimize import linprog

from isochrone.errors import PlanError
from isochrone.plan.capital import studies
from isochrone.plan.capital.engine import Engine, _positions
from isochrone.plan.capital.linear import Rows
from isochrone.plan.capital.links import link_rows
from isochrone.plan.capital.model import Options, build, internal_demand
from isochrone.plan.capital.plan import plan_capital
from isochrone.plan.capital.sifting import Sifted, least_of_each
from isochrone.plan.capital.verify import check_duality


def transport(seed, customers=12, sources=9):
    """Ship at least cost; a column per (customer, source), and one per customer for going without."""
    r = np.random.default_rng(seed)
    cost = np.concatenate([r.uniform(1, 10, customers * sources), np.full(customers, 50.0)])
    customer = np.concatenate([np.repeat(np.arange(customers), sources), np.arange(customers)])
    take = sp.csr_matrix((np.ones(len(cost)), (customer, np.arange(len(cost)))))
    give = sp.csr_matrix(np.hstack([np.tile(np.eye(sources), customers), np.zeros((sources, customers))]))
    need, have = r.uniform(1, 3, customers), r.uniform(1, 4, sources)
    rows = Rows(
        sp.csr_matrix(sp.vstack([take, give])), cost, np.concatenate([need, np.full(sources, -np.inf)]),
        np.concatenate([need, have]), np.zeros(len(cost)), np.full(len(cost), np.inf), np.zeros(len(cost)),
        np.zeros(customers + sources),
    )  # fmt: skip
    group = np.where(np.arange(len(cost)) < customers * sources, customer, -1)
    return rows, group


def oracle(rows, extra=None):
    upper = np.isfinite(rows.row_upper) & (rows.row_lower != rows.row_upper)
    equal = rows.row_lower == rows.row_upper
    a, b = rows.matrix[upper], rows.row_upper[upper]
    if extra is not None:
        a, b = sp.vstack([a, extra]), np.concatenate([b, np.zeros(extra.shape[0])])
    return linprog(rows.cost, a, b, rows.matrix[equal], rows.row_upper[equal], method="highs-ipm").fun


@pytest.mark.parametrize("seed", range(5))
def test_sifting_from_one_column_a_customer_ends_at_the_optimum_of_all(seed):
    rows, group = transport(seed)
    first = np.zeros(len(group), dtype=bool)
    first[np.flatnonzero(group >= 0)[least_of_each(group[group >= 0], -rows.cost[group >= 0], 1)]] = True  # the worst
    sifted = Sifted(rows, group, first)
    sifted.solve(60.0)
    assert sifted.objective == pytest.approx(oracle(rows))
    assert check_duality(replace(sifted.program, value=sifted.value, dual=sifted.dual)).holds()


@pytest.mark.parametrize("seed", range(3))
def test_lazy_rows_are_kept_once_taken_in(seed):
    rows, group = transport(seed)
    n, shipped = len(group), np.flatnonzero(group >= 0)
    without = np.flatnonzero(group < 0)[group[shipped]]
    even = sp.csr_matrix(
        sp.identity(n, format="csr")[shipped] - 0.5 * sp.identity(n, format="csr")[without]
    )  # what one ships is half of what is forgone
    sifted = Sifted(rows, group, np.zeros(n, dtype=bool), lazy=even)
    sifted.solve(60.0)
    while sifted.tighten():
        sifted.solve(60.0)
    assert (even @ sifted.value).max() <= 2e-6
    assert 0 < sifted.tightened.shape[0] <= len(shipped)
    assert sifted.objective == pytest.approx(oracle(rows, even), rel=1e-6)


def test_a_program_without_an_answer_is_an_error_not_an_answer():
    rows, group = transport(0)
    short = replace(rows, upper=np.where(group < 0, 0.0, 0.01))
    with pytest.raises(PlanError) as refused:
        Sifted(short, group, np.zeros(len(group), dtype=bool)).solve(60.0)
    assert refused.value.code == "capital.infeasible"


def test_columns_left_out_at_first_may_be_what_makes_it_feasible():
    rows, group = transport(0)
    forced = replace(rows, upper=np.where(group < 0, 0.0, np.inf), row_upper=np.minimum(rows.row_upper * 9, 1e9))
    forced = replace(forced, row_lower=np.where(np.isfinite(rows.row_lower), forced.row_upper, rows.row_lower))
    forced = replace(forced, row_upper=np.where(np.isfinite(forced.row_lower), forced.row_upper, 200.0))
    sifted = Sifted(forced, group, np.zeros(len(group), dtype=bool))
    sifted.solve(60.0)
    assert sifted.objective == pytest.approx(oracle(forced))


def test_the_least_of_each_group():
    group, score = np.array([1, 0, 1, 1, 0]), np.array([3.0, 1.0, 2.0, 1.0, 0.5])
    assert sorted(least_of_each(group, score, 1)) == [3, 4]
    assert sorted(least_of_each(group, score, 2)) == [1, 2, 3, 4]
    assert len(least_of_each(group[:0], score[:0], 2)) == 0


@pytest.mark.parametrize("seed", range(3))
def test_openings_are_the_best_of_all_and_keep_every_link(seed):
    """Against every choice of pools, costed one by one; the links hold at each of them."""
    data = world(places=3, sites=2, years=2, seed=seed)
    program = build(data, Options())
    engine = Engine(program)
    found = engine.solve(gap_rel_max=1e-7)
    columns = {name: _positions(program.model.matrices.vlabels)[v.labels.values]
               for name, v in program.model.variables.items()}  # fmt: skip
    links = link_rows(program, columns, internal_demand(program), engine.size()[1])
    priced, opened = engine._priced, columns["open"].ravel()
    values = []
    for choice in itertools.product((0.0, 1.0), repeat=len(opened)):
        priced.bound_columns(opened, np.array(choice), np.array(choice))
        priced.solve(60.0)
        values.append(priced.objective)
        assert (links @ priced.value).max() <= 1e-5
    assert found.objective == pytest.approx(min(values), rel=1e-6)
    assert found.bound <= min(values) * (1 + 1e-6)


def test_a_plan_like_another_is_no_dearer_than_the_gap_allows():
    data = world(places=4, sites=3, years=1)
    base = plan_capital(data, gap_rel_max=1e-6)
    dearer = replace(data, hardware=tuple(replace(h, capex_per_unit=2 * h.capex_per_unit) for h in data.hardware))
    alone, warm = plan_capital(dearer, gap_rel_max=1e-6), plan_capital(dearer, gap_rel_max=1e-6, like=base)
    assert warm.objective == pytest.approx(alone.objective, rel=2e-6)
    fewer = replace(data, sites=data.sites[:2], rtt_s=data.rtt_s[:, :2])
    assert plan_capital(fewer, gap_rel_max=1e-6, like=base).prices is not None


def test_a_claim_within_the_gaps_is_left_open(monkeypatch):
    data = world(places=3, sites=2, years=1)
    monkeypatch.setattr(studies, "variations", lambda data: [("as given", data)])

    def loose(changed, options):
        solved = plan_capital(changed, options)
        return replace(solved, bound=0.2 * solved.objective, gap=0.8)

    answer = studies.sensitivity_answer(data, loose)
    assert set(answer.column("claim")) == {"open"}
    assert "leave open" in answer.sentence
    assert "80.0 %" in answer.sentence
