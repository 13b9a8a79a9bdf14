"""Exact questions about policies before they ship, each answered with a counter-example or a proof that there is none.

"Exact" is over the world given: its sites, contracts and workloads, and any agent, person, data class and time of day.
A condition that no request fact carries (measured state, budgets) is taken as free to hold or not; a solution names
what it assumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from isochrone.policy.compile import residuals_at
from isochrone.policy.environment import Specialiser
from isochrone.policy.formula import FALSE, Formula, conj, disj, is_in, negate
from isochrone.policy.policies import PolicySet
from isochrone.policy.solve import Solution, satisfy
from isochrone.policy.specialise import Residual
from isochrone.policy.vocabulary import FACTS, World

__all__ = ["Comparison", "DeadPolicy", "Example", "Fault", "compare", "dead_policies", "faults", "reach"]


@dataclass(frozen=True, slots=True)
class Example:
    """A request: the site, its facts by name, what was assumed of conditions no fact carries, and what fires."""

    site: str
    facts: tuple[tuple[str, str], ...]
    assumed: tuple[tuple[str, bool], ...] = ()
    permits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """What changes from `old` to `new`: a request only one of them allows, or None when there is none."""

    newly_allowed: Example | None
    newly_denied: Example | None

    @property
    def stricter(self) -> bool:
        """The new revision allows nothing the old one did not."""
        return self.newly_allowed is None


@dataclass(frozen=True, slots=True)
class DeadPolicy:
    """A policy without effect at any site: it never applies, or what it would change is decided by others."""

    policy: str
    why: Literal["never-applies", "always-forbidden", "forbids-nothing"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A policy that errs, so that the request is denied whatever the others say, with an example."""

    policy: str
    example: Example


class _Analyser:
    """One policy set in one world: residuals per site, and the restriction to what exists."""

    def __init__(self, policies: PolicySet, world: World, action: str) -> None:
        self.sites = [site.id for site in world.sites]
        self.only = _existing(world)
        specialiser = Specialiser.of(world)
        self.residuals = {site: residuals_at(policies, specialiser, site, action) for site in self.sites}

    def allowed(self, site: str) -> Formula:
        return _allowed(self.residuals[site])

    def solve(self, site: str, formula: Formula) -> Example | None:
        if formula == FALSE:
            return None
        solution = satisfy(formula, self.only)
        if solution is None:
            return None
        return Example(site, solution.facts, solution.assumed, self._permits(site, solution))

    def first(self, formulas: Iterator[tuple[str, Formula]]) -> Example | None:
        return next((found for site, formula in formulas if (found := self.solve(site, formula))), None)

    def _permits(self, site: str, solution: Solution) -> tuple[str, ...]:
        """The permits that may fire under the facts found."""
        chosen = conj(*(is_in(FACTS[name], [text]) for name, text in solution.facts))
        fired = (r for r in self.residuals[site] if r.policy.effect == "permit")
        return tuple(r.policy.id for r in fired if satisfy(conj(chosen, r.applies), self.only))


def reach(
    policies: PolicySet, world: World, *, jurisdiction: str, data_class: str, action: str = "execute"
) -> Example | None:
    """A request of `data_class` that is allowed at a site in `jurisdiction` (a country or a group), or None."""
    analyser = _Analyser(policies, world, action)
    members = {m for group in world.groups if group.id == jurisdiction for m in group.members} | {jurisdiction}
    wanted = is_in(FACTS["context.data_class"], [data_class])
    inside = [site.id for site in world.sites if site.jurisdiction in members]
    return analyser.first((site, conj(wanted, analyser.allowed(site))) for site in inside)


def compare(old: PolicySet, new: PolicySet, world: World, *, action: str = "execute") -> Comparison:
    """What a new revision allows or denies that the old one did not."""
    before, after = _Analyser(old, world, action), _Analyser(new, world, action)
    gained = after.first((s, _gained(before.residuals[s], after.residuals[s])) for s in after.sites)
    lost = before.first((s, _gained(after.residuals[s], before.residuals[s])) for s in before.sites)
    return Comparison(gained, lost)


def _gained(old: tuple[Residual, ...], new: tuple[Residual, ...]) -> Formula:
    """Allowed by `new` only: the cause must be a permit that `old` lacks or a forbid that `new` lacks."""
    permitted, forbidden = _permits(old), _forbids(old)
    fresh = [p for p in _permits(new) if p not in permitted]
    gone = [f for f in forbidden if f not in _forbids(new)]
    cause = disj(conj(disj(*fresh), negate(disj(*permitted))), conj(disj(*_permits(new)), disj(*gone)))
    return conj(cause, negate(disj(*_forbids(new))))


def dead_policies(policies: PolicySet, world: World, *, action: str = "execute") -> tuple[DeadPolicy, ...]:
    """Policies that could be deleted without any verdict changing. Policies about other actions are left out."""
    analyser = _Analyser(policies, world, action)
    dead = []
    for index, policy in enumerate(policies.policies):
        if not policy.covers(action):
            continue
        why = _why_dead(analyser, index)
        if why:
            dead.append(DeadPolicy(policy.id, why))
    return tuple(dead)


def _why_dead(
    analyser: _Analyser, index: int
) -> Literal["never-applies", "always-forbidden", "forbids-nothing"] | None:
    mine = {site: residuals[index] for site, residuals in analyser.residuals.items()}
    if analyser.first((site, disj(r.applies, r.error)) for site, r in mine.items()) is None:
        return "never-applies"
    others = {site: (*r[:index], *r[index + 1 :]) for site, r in analyser.residuals.items()}
    if any(r.error != FALSE and analyser.solve(site, r.error) for site, r in mine.items()):
        return None
    if next(iter(mine.values())).policy.effect == "permit":
        rest = ((site, conj(r.applies, negate(_forbidden(others[site])))) for site, r in mine.items())
        return "always-forbidden" if analyser.first(rest) is None else None
    rest = ((site, conj(r.applies, _allowed(others[site]))) for site, r in mine.items())
    return "forbids-nothing" if analyser.first(rest) is None else None


def faults(policies: PolicySet, world: World, *, action: str = "execute") -> tuple[Fault, ...]:
    """Policies that can err, each with a request on which it does."""
    analyser = _Analyser(policies, world, action)
    found = []
    for index, policy in enumerate(policies.policies):
        example = analyser.first((site, residuals[index].error) for site, residuals in analyser.residuals.items())
        if example:
            found.append(Fault(policy.id, example))
    return tuple(found)


def _permits(residuals: tuple[Residual, ...]) -> dict[Formula, None]:
    return dict.fromkeys(r.applies for r in residuals if r.policy.effect == "permit")


def _forbids(residuals: tuple[Residual, ...]) -> dict[Formula, None]:
    """What denies: forbids that apply, and errors."""
    return dict.fromkeys(
        [*(r.applies for r in residuals if r.policy.effect == "forbid"), *(r.error for r in residuals)]
    )


def _allowed(residuals: tuple[Residual, ...]) -> Formula:
    return conj(disj(*_permits(residuals)), negate(_forbidden(residuals)))


def _forbidden(residuals: tuple[Residual, ...]) -> Formula:
    return disj(*_forbids(residuals))


def _existing(world: World) -> dict[str, list[str]]:
    """Grants exist only for the world's contracts and workloads."""
    existing = {
        "context.contract": [contract.id for contract in world.contracts],
        "context.workload": [workload.id for workload in world.workloads],
    }
    return {name: ids for name, ids in existing.items() if ids}
