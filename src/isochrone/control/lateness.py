"""Is a site late *now*? One ingress's own verdict on the sites it uses, contract by contract, from its own executions.

The hub plans with what all sites measured, which takes seconds, and takes the hub. An ingress sees each execution end
late, or run on past its objective, at once. A contract allows a share of late executions, 1 - quantile. For each
(contract, site) a Bernoulli CUSUM adds up the evidence that the share has become `LATE_SHARE` instead, as
log-likelihood ratios that never fall below 0, and the site is left once that reaches `ALARM`:

- E. S. Page, "Continuous inspection schemes", Biometrika 41 (1954); for shares, M. R. Reynolds and Z. G. Stoumbos, "A
  CUSUM chart for monitoring a proportion when inspecting continuously", Journal of Quality Technology 31 (1999).
- With threshold h a false alarm takes at least e^h executions in the mean (G. Lorden, "Procedures for reacting to a
  change in distribution", Annals of Mathematical Statistics 42 (1971), theorem 2), and no test with as few false alarms
  is quicker in its worst case (G. V. Moustakides, Annals of Statistics 14 (1986)). So: one in at least 22,000
  executions at a site that is late as often as its contract allows, if executions are independent of each other.

A site that was left is tried again after a hold, which doubles each time it turns out to be late still, with a small
part of what the plan gives it; Wald's sequential probability ratio test (Annals of Mathematical Statistics 16 (1945))
decides at each step of `STEPS` whether it gets more or is left again. A plan that gives it half or less of what it had
in the plan that it was left under knows of it, and is followed. Pure, as all of `control`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from isochrone.control.node import NodeState
from isochrone.forward.ease import shares_of
from isochrone.forward.fib import fib_for

__all__ = [
    "ALARM", "HOLD_S", "HOLD_S_MAX", "LATE_SHARE", "STEPS", "UNTRIED_S", "Eased", "Effect", "Event", "Executed",
    "Execution", "Followed", "Lateness", "Left", "Passed", "Planned", "Standing", "planned_here",
    "step",
]  # fmt: skip

# What is tested against what the contract allows: most executions late. Few late ones are enough to tell, and what is
# less late than about a third is left to the plan.
LATE_SHARE = 0.75
ALARM = 10.0
# While a site is tried, it is wrongly left, or wrongly given more, once in a hundred times at most.
_TRIED = math.log(99)
# What a site that is tried gets of its part in the plan, step by step. Each change is new files for the proxy.
STEPS = (0.125, 0.5, 1.0)
HOLD_S, HOLD_S_MAX = 2.0, 64.0
# A step that too few executions decide is taken all the same after so long, as the hub forgets, too.
UNTRIED_S = 60.0
# The most that a contract without a promise worth its name is judged by: LATE_SHARE must be worse than what is allowed.
_ALLOWED_MAX = 0.5
_ALLOWED_MIN = 1e-4

Pair = tuple[str, str]
"""Contract and site."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution that ended, or that is already late: when it was sent there, and whether it was or is late."""

    contract: str
    site: str
    began_s: float
    late: bool


@dataclass(frozen=True, slots=True)
class Executed:
    """Executions, in the order in which they were seen."""

    executions: tuple[Execution, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """What the plan in force gives here.

    Attributes:
        quantile: of the contracts that may be taken from one site to another, the share of executions that must be in
            time; executions of others are not judged.
        shares: contract to site to its share of the executions that enter here, 0 for fallbacks.
    """

    quantile: Mapping[str, float]
    shares: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Passed:
    """Time has passed."""


Event = Executed | Passed | Planned


@dataclass(frozen=True, slots=True)
class Left:
    """The site is late for the contract: it gets nothing until it is tried again, after `hold_s`."""

    contract: str
    site: str
    hold_s: float


@dataclass(frozen=True, slots=True)
class Eased:
    """The site gets this part of its share in the plan, from now on."""

    contract: str
    site: str
    part: float


@dataclass(frozen=True, slots=True)
class Followed:
    """The plan has taken the lateness in: what it gives is in force again."""

    contract: str
    site: str


Effect = Left | Eased | Followed


@dataclass(frozen=True, slots=True)
class Standing:
    """How one site stands with one contract.

    Attributes:
        evidence: log-likelihood ratio of *late* against *as promised*; while it is tried, from both sides of 0.
        part: what it gets of its share in the plan: 0 while it is left, less than 1 while it is tried.
        since_s: when `part` changed; what was sent there before says nothing of now.
        hold_s: how long it was last left for; 0 where that is forgotten.
        share: what the plan gave it when it was left.
    """

    evidence: float = 0.0
    part: float = 1.0
    since_s: float = float("-inf")
    hold_s: float = 0.0
    share: float = 0.0


_SOUND = Standing()


@dataclass(frozen=True, slots=True)
class Lateness:
    """One ingress's verdicts. Sites without a `Standing` are as promised, as far as is known."""

    planned: Planned = field(default_factory=lambda: Planned({}, {}))
    standing: Mapping[Pair, Standing] = field(default_factory=dict)

    @property
    def doubted(self) -> dict[str, dict[str, float]]:
        """Contract to site to the part that it gets of its share in the plan, where that is not all of it."""
        found: dict[str, dict[str, float]] = {}
        for (contract, site), each in sorted(self.standing.items()):
            if each.part < 1:
                found.setdefault(contract, {})[site] = each.part
        return found


def planned_here(state: NodeState) -> Planned:
    """What the plan gives at this site. A contract whose shares by site or vendor are limited is left to the plan,
    which alone sees where the executions of all ingresses go."""
    if state.fabric is None or state.plan is None:
        return Planned({}, {})
    quantile = {
        name: terms.in_time.quantile
        for name, terms in state.fabric.contracts.items()
        if terms.site_share_max is None and terms.vendor_share_max is None
    }
    return Planned(quantile, shares_of(fib_for(state.fabric, state.plan, state.site, state.bounds)))


def step(state: Lateness, event: Event, now: float) -> tuple[Lateness, list[Effect]]:
    """Take one event into account; `now` in seconds, by the clock of `Execution.began_s`."""
    match event:
        case Executed(executions):
            return _judge(state, executions, now)
        case Planned():
            return _follow(state, event, now)
        case Passed():
            return _pass(state, now)


def _judge(state: Lateness, executions: Iterable[Execution], now: float) -> tuple[Lateness, list[Effect]]:
    standing, effects = dict(state.standing), list[Effect]()
    for each in executions:
        pair = each.contract, each.site
        quantile = state.planned.quantile.get(each.contract)
        share = state.planned.shares.get(each.contract, {}).get(each.site)
        before = standing.get(pair, _SOUND)
        if quantile is None or share is None or before.part == 0 or each.began_s < before.since_s:
            continue
        after = replace(before, evidence=before.evidence + _weight(quantile, late=each.late))
        if before.part == 1:
            after = replace(after, evidence=max(0.0, after.evidence))
        if after.evidence >= (ALARM if before.part == 1 else _TRIED):
            share = share if before.part == 1 else before.share
            after = Standing(0.0, 0.0, now, min(HOLD_S_MAX, max(HOLD_S, 2 * before.hold_s)), share)
            effects.append(Left(*pair, after.hold_s))
        elif before.part < 1 and after.evidence <= -_TRIED:
            after = _eased(after, now)
            effects.append(Eased(*pair, after.part))
        standing[pair] = after
    return replace(state, standing=_kept(standing)), effects


def _weight(quantile: float, *, late: bool) -> float:
    """Log-likelihood ratio of one execution: `LATE_SHARE` late against what the contract allows."""
    allowed = min(_ALLOWED_MAX, max(_ALLOWED_MIN, 1 - quantile))
    return math.log(LATE_SHARE / allowed) if late else math.log((1 - LATE_SHARE) / (1 - allowed))


def _follow(state: Lateness, planned: Planned, now: float) -> tuple[Lateness, list[Effect]]:
    standing, effects = dict[Pair, Standing](), list[Effect]()
    for pair, each in state.standing.items():
        contract, site = pair
        share = planned.shares.get(contract, {}).get(site)
        if contract not in planned.quantile or share is None:
            if each.part < 1:
                effects.append(Followed(*pair))
            continue
        if each.part < 1 and share <= each.share / 2 and planned != state.planned:
            each = replace(each, evidence=0.0, part=1.0, since_s=now)
            effects.append(Followed(*pair))
        standing[pair] = each
    return Lateness(planned, _kept(standing)), effects


def _pass(state: Lateness, now: float) -> tuple[Lateness, list[Effect]]:
    standing, effects = dict(state.standing), list[Effect]()
    for pair, each in state.standing.items():
        age_s = now - each.since_s
        if each.part < 1 and age_s >= (UNTRIED_S if each.part else each.hold_s):
            standing[pair] = after = _eased(each, now)
            effects.append(Eased(*pair, after.part))
        elif each.part == 1 and each.hold_s and age_s >= 2 * HOLD_S_MAX:
            standing[pair] = replace(each, hold_s=0.0)
    return (replace(state, standing=_kept(standing)) if standing != state.standing else state), effects


def _eased(standing: Standing, now: float) -> Standing:
    """One step up."""
    return replace(standing, evidence=0.0, part=next(each for each in STEPS if each > standing.part), since_s=now)


def _kept(standing: Mapping[Pair, Standing]) -> dict[Pair, Standing]:
    """Without those that say nothing."""
    return {pair: each for pair, each in standing.items() if each.part < 1 or each.hold_s or each.evidence}
