"""Studies that solve the model more than once: central against aligned, sensitivity, regret."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from isochrone.plan.capital.inputs import CapitalInput
from isochrone.plan.capital.model import Options
from isochrone.plan.capital.plan import CapitalPlan, plan_capital
from isochrone.plan.capital.stranded import stranded_share
from isochrone.plan.capital.tables import Answer, Column, amount
from isochrone.plan.capital.where import attainment, capital_employed

__all__ = [
    "Solve",
    "central_options",
    "compare_answer",
    "regret_answer",
    "relaxed",
    "scenario_costs",
    "sensitivity_answer",
    "variations",
]

CLAIM_SAVING_MIN = 0.05


class Solve(Protocol):
    """How a study has its plans made; `like` is one whose openings are worth trying."""

    def __call__(self, data: CapitalInput, options: Options, like: CapitalPlan | None = None) -> CapitalPlan: ...


def relaxed(data: CapitalInput, options: Options, like: CapitalPlan | None = None) -> CapitalPlan:
    """With openings between 0 and 1: fast, and no plan costs less."""
    return plan_capital(data, replace(options, integer=False))


def central_options(data: CapitalInput) -> Options:
    """Only today's regions."""
    return Options(sites=tuple(i for i, s in enumerate(data.sites) if s.central))


def _restrict(data: CapitalInput) -> CapitalInput:
    """The same demand with today's regions as the only candidates."""
    keep = [i for i, s in enumerate(data.sites) if s.central]
    names = {data.sites[i].name for i in keep}
    return replace(
        data,
        sites=tuple(data.sites[i] for i in keep),
        rtt_s=data.rtt_s[:, keep],
        assets=tuple(a for a in data.assets if a.site in names),
    )


@dataclass(frozen=True, slots=True)
class _Outcome:
    """`cost`: what the plan costs with all lost demand; `bound`: what any plan of this input costs at least."""

    plan: CapitalPlan
    cost: float
    bound: float
    lost: float
    in_time: float
    stranded: float | None


def _outcome(data: CapitalInput, plan: CapitalPlan) -> _Outcome:
    """Cost with the value of all demand not served, reachable or not, so that both plans answer for the same demand."""
    horizon, lost, asked, served = data.horizon, 0.0, 0.0, 0.0
    weight = horizon.discount() * horizon.seconds_per_hour_block
    shares = attainment(plan)
    for k, c in enumerate(data.classes):
        factor = sum(s.probability * s.factor(c.name) for s in data.scenarios)
        need = data.demand_per_s[:, k].sum(axis=(0, 2)) * factor
        mine = [i for i, r in enumerate(plan.arcs.rows) if r.work_class == k]
        have = plan.arcs.demand_per_s[mine].sum(axis=(0, 2)) * factor - plan.shed[mine].sum(axis=(0, 2))
        lost += float(((need - have) * weight).sum()) * c.penalty_per_unit
        if c.objective_s is not None:
            asked += need.sum()
            served += need.sum() * shares[c.name]
    stranded = stranded_share(plan) if plan.prices is not None and data.assets else None
    cost = plan.cost.paid + lost
    return _Outcome(
        plan, cost, cost - max(0.0, plan.objective - plan.bound), lost, served / asked if asked else 1.0, stranded
    )


def compare_answer(data: CapitalInput, solve: Solve = relaxed, aligned: CapitalPlan | None = None) -> Answer:
    """The same demand from today's regions only, and from the plan."""
    today = _outcome(data, solve(_restrict(data), Options()))
    plan = _outcome(data, aligned or solve(data, Options()))
    one, two = attainment(today.plan), attainment(plan.plan)
    rows: list[tuple[str, float | None, float | None, str]] = [
        (f"in time: {c.name}", 100 * one[c.name], 100 * two[c.name], "%") for c in data.classes
    ]
    money = data.currency
    rows += [
        ("cost paid", today.plan.cost.paid, plan.plan.cost.paid, money),
        ("value of lost demand", today.lost, plan.lost, money),
        ("cost with lost demand", today.cost, plan.cost, money),
        ("capital for building", capital_employed(today.plan), capital_employed(plan.plan), money),
        (
            "units standing at the end",
            float(today.plan.units[:, -1].sum()),
            float(plan.plan.units[:, -1].sum()),
            "units",
        ),
        ("stranded share, 5-year life", _percent(today.stranded), _percent(plan.stranded), "%"),
    ]
    saving = 1 - plan.cost / today.cost if today.cost else 0.0
    paid = plan.plan.cost.paid / max(today.plan.cost.paid, 1e-9) - 1
    sentence = (
        f"Today's regions serve {100 * today.in_time:.1f} % of deadline demand in time, the plan "
        f"{100 * plan.in_time:.1f} %; with lost demand at its value the plan costs {abs(100 * saving):.0f} % "
        f"{'less' if saving >= 0 else 'more'}, and it pays {abs(100 * paid):.0f} % {'more' if paid >= 0 else 'less'} "
        "for what it runs."
    )
    columns = (Column("measure"), Column("central"), Column("aligned"), Column("unit"))
    return Answer("central_vs_aligned", "Central against aligned", sentence, columns, tuple(rows))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def variations(data: CapitalInput) -> list[tuple[str, CapitalInput]]:
    """One assumption changed at a time."""

    def priced(factor: float) -> CapitalInput:
        return replace(
            data, hardware=tuple(replace(h, capex_per_unit=h.capex_per_unit * factor) for h in data.hardware)
        )

    def grown(extra: float) -> CapitalInput:
        growth = (1 + extra) ** (np.arange(len(data.horizon.years)) * data.horizon.years_per_period)
        return replace(data, demand_per_s=data.demand_per_s * growth[None, None, :, None])

    def mixed(share: float) -> CapitalInput:
        """Move this share of every other deadline class to the loosest one."""
        deadlines = [k for k, c in enumerate(data.classes) if c.objective_s is not None]
        loose = max(deadlines, key=lambda k: data.classes[k].objective_s or 0.0)
        demand = data.demand_per_s.copy()
        for k in deadlines:
            if k != loose:
                demand[:, loose] += share * demand[:, k]
                demand[:, k] *= 1 - share
        return replace(data, demand_per_s=demand)

    def valued(factor: float) -> CapitalInput:
        return replace(
            data, classes=tuple(replace(c, penalty_per_unit=c.penalty_per_unit * factor) for c in data.classes)
        )

    def fixed(factor: float) -> CapitalInput:
        return replace(
            data,
            sites=tuple(
                s if s.central else replace(s, fixed_cost_per_year=s.fixed_cost_per_year * factor) for s in data.sites
            ),
        )

    return [
        ("as given", data),
        ("round trips x 0.7", replace(data, rtt_s=data.rtt_s * 0.7)),
        ("round trips x 1.4", replace(data, rtt_s=data.rtt_s * 1.4)),
        ("growth -15 points", grown(-0.15)),
        ("growth +15 points", grown(0.15)),
        ("hardware price x 0.5", priced(0.5)),
        ("hardware price x 2", priced(2.0)),
        ("half of tight work is loose", mixed(0.5)),
        ("all tight work is loose", mixed(1.0)),
        ("lost demand worth x 0.1", valued(0.1)),
        ("small sites' fixed cost x 5", fixed(5.0)),
    ]


def _savings(today: _Outcome, plan: _Outcome) -> tuple[float, float, float]:
    """(as found, least, most) share of the central cost that the plan saves: both are proven only within their gaps."""
    if today.bound <= 0:
        return 0.0, 0.0, 0.0
    return 1 - plan.cost / today.cost, 1 - plan.cost / today.bound, 1 - plan.bound / today.cost


def sensitivity_answer(data: CapitalInput, solve: Solve = relaxed) -> Answer:
    """Central against aligned, one assumption changed at a time, so that a reader sees when the claim fails."""
    rows: list[tuple[Any, ...]] = []
    widest = 0.0
    for name, changed in variations(data):
        today, plan = (
            _outcome(changed, solve(_restrict(changed), Options())),
            _outcome(changed, solve(changed, Options())),
        )
        saving, least, most = _savings(today, plan)
        widest = max(widest, today.plan.gap, plan.plan.gap)
        rows.append(
            (
                name,
                100 * today.in_time,
                100 * plan.in_time,
                100 * saving,
                _percent(today.stranded),
                _percent(plan.stranded),
                "holds" if least >= CLAIM_SAVING_MIN else "fails" if most < CLAIM_SAVING_MIN else "open",
                100 * least,
                100 * most,
            )
        )
    columns = (
        Column("assumption"),
        Column("in_time_central", "%"),
        Column("in_time_aligned", "%"),
        Column("saving", "% of central cost"),
        Column("stranded_central", "%"),
        Column("stranded_aligned", "%"),
        Column("claim"),
        Column("saving_least", "% of central cost"),
        Column("saving_most", "% of central cost"),
    )
    failing = [r[0] for r in rows if r[6] == "fails"]
    undecided = [r[0] for r in rows if r[6] == "open"]
    low, high = min(r[3] for r in rows), max(r[3] for r in rows)
    sentence = (
        f"The claim tested: placing capital by demand costs at least {100 * CLAIM_SAVING_MIN:g} % less, "
        f"lost demand valued. The saving ranges from "
        f"{low:.1f} to {high:.1f} %; "
        + (f"the claim fails under: {', '.join(failing)}" if failing else "it fails in no case tried")
        + (f"; the gaps leave open: {', '.join(undecided)}" if undecided else "")
        + f". Each plan is proven within {100 * widest:.1f} % of the best; saving_least and saving_most allow for that."
    )
    return Answer("sensitivity", "When does the claim fail?", sentence, columns, tuple(rows))


def scenario_costs(plan: CapitalPlan) -> np.ndarray:
    """Total cost of a plan in each scenario; shape (scenarios,)."""
    c = plan.program.costs
    serve = (plan.serve_by_scenario * c.serve[None]).sum(axis=(1, 2, 3))
    shed = (plan.shed_by_scenario * c.shed[None, :, :, None]).sum(axis=(1, 2, 3))
    return np.asarray(plan.cost.fixed + serve + shed)


def regret_answer(data: CapitalInput, solve: Solve = relaxed) -> Answer:
    """Over scenarios: the plan of least expected cost, and the plan of least worst regret."""
    best = [
        float(scenario_costs(solve(replace(data, scenarios=(replace(s, probability=1.0),)), Options()))[0])
        for s in data.scenarios
    ]
    expected, hedged = solve(data, Options()), solve(data, Options(regret=tuple(best)))
    one, two = scenario_costs(expected), scenario_costs(hedged)
    rows = tuple(
        (
            s.name,
            100 * s.probability,
            best[i],
            float(one[i]),
            float(two[i]),
            float(one[i]) - best[i],
            float(two[i]) - best[i],
        )
        for i, s in enumerate(data.scenarios)
    )
    money = data.currency
    columns = (
        Column("scenario"),
        Column("probability", "%"),
        Column("perfect_foresight", money),
        Column("cost_expected_plan", money),
        Column("cost_regret_plan", money),
        Column("regret_expected_plan", money),
        Column("regret_regret_plan", money),
    )
    worst = max(r[5] for r in rows), max(r[6] for r in rows)
    sentence = (
        f"The plan of least expected cost may be regretted by up to {amount(worst[0], money)}; the plan of least worst "
        f"regret lowers that to {amount(worst[1], money)}."
    )
    return Answer("regret", "Uncertain demand", sentence, columns, rows)
