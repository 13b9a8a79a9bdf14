"""What `isochrone plan` answers: from the plan at hand, and from the studies that solve more."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from isochrone.errors import InputError

if TYPE_CHECKING:
    from isochrone.plan.capital.engine import Progress
    from isochrone.plan.capital.inputs import CapitalInput
    from isochrone.plan.capital.model import Options
    from isochrone.plan.capital.plan import CapitalPlan
    from isochrone.plan.capital.tables import Answer

__all__ = ["STUDIES", "answers_of", "progress_line", "studies_of", "study_names"]

STUDIES = ("frontier", "alternatives", "compare", "sensitivity", "regret")
_PLACES_SHOWN = 8


def answers_of(answer: CapitalPlan, places: tuple[int, ...] = ()) -> list[Answer]:
    """Every answer that needs no further solve; an unproven plan has no prices.

    places: what guarantees are stated for; those with most people unless given.
    """
    from isochrone.plan.capital import price_answers, procurement, stranded, where

    found = [
        where.where_answer(answer),
        where.attainment_answer(answer),
        where.cost_answer(answer),
        where.on_premises_answer(answer),
    ]
    if answer.prices is None:
        click.echo("the time limit ended the proof: this plan has a gap and no prices", err=True)
        return found
    everywhere = answer.data.places
    largest = tuple(sorted(range(len(everywhere)), key=lambda p: -everywhere[p].population_n)[:_PLACES_SHOWN])
    found += [
        price_answers.prices_answer(answer),
        price_answers.premium_answer(answer),
        procurement.procurement_answer(answer, places or largest),
    ]
    if answer.data.assets:
        found += [stranded.stranded_answer(answer), stranded.schedule_answer(answer)]
    return found


def progress_line(now: Progress, currency: str) -> str:
    """Where the solver stands, in one line."""
    from isochrone.plan.capital.tables import amount

    if not math.isfinite(now.value):
        return f"  no plan yet  bound {amount(now.bound, currency)}  {now.seconds:.0f} s"
    return (
        f"  best {amount(now.value, currency)}  bound {amount(now.bound, currency)}  "
        f"gap {100 * now.gap:.2f} %  {now.seconds:.0f} s"
    )


def study_names(wanted: str) -> tuple[str, ...]:
    """Which studies are asked; checked before anything is solved."""
    names = STUDIES if wanted == "all" else () if wanted == "none" else tuple(wanted.split(","))
    unknown = [n for n in names if n not in STUDIES]
    if unknown:
        raise InputError(
            f"unknown study {', '.join(unknown)}", code="plan.study", hint=f"choose from {', '.join(STUDIES)}"
        )
    return names


class _Solving:
    """Makes the plans of studies, whole where the plan at hand is; tries first what was best for as many sites."""

    def __init__(self, plan: CapitalPlan, limits: dict[str, Any]) -> None:
        self._integer, self._limits = plan.program.options.integer, limits
        self._latest = {len(plan.data.sites): plan}

    def __call__(self, data: CapitalInput, options: Options, like: CapitalPlan | None = None) -> CapitalPlan:
        from dataclasses import replace

        from isochrone.plan.capital.plan import plan_capital

        like = like or self._latest.get(len(data.sites))
        solved = plan_capital(data, replace(options, integer=self._integer), like=like, **self._limits)
        asked = f", {100 * data.coverage_min:g} % in time" if data.coverage_min else ""
        click.echo(f"  {len(data.sites)} sites{asked}: gap {100 * solved.gap:.2f} %", err=True)
        self._latest.setdefault(len(data.sites), solved)
        return solved


def studies_of(answer: CapitalPlan, names: tuple[str, ...], limits: dict[str, Any]) -> list[Answer]:
    """The studies named, as far as the input gives them something to study; `limits` bound each solve."""
    data, solve = answer.data, _Solving(answer, limits)
    has_central, has_deadline = any(s.central for s in data.sites), any(c.objective_s for c in data.classes)
    possible = {
        "frontier": has_deadline,
        "alternatives": True,
        "compare": has_central,
        "sensitivity": has_central and has_deadline,
        "regret": len(data.scenarios) > 1,
    }
    found: list[Answer] = []
    for name in names:
        if possible[name]:
            click.echo(f"study: {name}", err=True)
            found += _study(name, answer, solve, limits)
    return found


def _study(name: str, answer: CapitalPlan, solve: _Solving, limits: dict[str, Any]) -> list[Answer]:
    from isochrone.plan.capital import alternatives, studies
    from isochrone.plan.capital.frontier import frontier_answer

    data = answer.data
    if name == "frontier":
        return [frontier_answer(data, solve)]
    if name == "compare":
        return [studies.compare_answer(data, solve, answer)]
    if name == "sensitivity":
        return [studies.sensitivity_answer(data, solve)]
    if name == "regret":
        return [studies.regret_answer(data)]
    found = [alternatives.by_tier_answer(data, answer)]
    if answer.program.options.integer:  # a relaxation has no openings to change

        def show(line: str) -> None:
            click.echo(f"  {line}", err=True)

        found.append(alternatives.by_site_answer(answer, progress=show, threads=limits["threads"]))
    return found
