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

One site of a contract is left at a time: a queue makes executions late as well as slowness does, and it follows the
traffic. If a site that took over is late in turn, or full, the load is what is late: all goes by the plan again, and
for a hold nothing is left. A site that was left is tried again after its hold, with a small part of what the plan gives
it; Wald's sequential probability ratio test (Annals of Mathematical Statistics 16 (1945)) decides at each step of
`STEPS` whether it gets more or is left again. Holds double from one time to the next. A plan that gives the site half
or less of what it had in the plan it was left under knows of it, and is followed. Pure, as all of `control`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from isochrone.control.node import NodeState
from isochrone.forward.ease import shares_of
from isochrone.forward.fib import fib_for

__all__ = [
    "ALARM", "HOLD_S", "HOLD_S_MAX", "LATE_SHARE", "STEPS", "UNTRIED_S", "Doubt", "Eased", "Effect", "Event",
    "Executed", "Execution", "Followed", "Lateness", "Left", "Passed", "Planned", "planned_here", "step",
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
# Contracts that allow more, or next to nothing, are judged as if they allowed this.
_ALLOWED_MIN, _ALLOWED_MAX = 1e-4, 0.5

Pair = tuple[str, str]
"""Contract and site."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution that ended, or that is already late: when it was sent there, and whether it was or is late.

    Attributes:
        refused: the site was full, or failed, and executed nothing.
    """

    contract: str
    site: str
    began_s: float
    late: bool = False
    refused: bool = False


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
    """The site gets what the plan gives it again: the plan has taken the lateness in, or those that took over, late or
    full as well, had no room (`crowded`)."""

    contract: str
    site: str
    crowded: bool = False


Effect = Left | Eased | Followed


@dataclass(frozen=True, slots=True)
class Doubt:
    """The last doubt about a site for one contract.

    Attributes:
        part: what the site gets of its share in the plan: 0 while it is left, less than 1 while it is tried.
        since_s: when `part` changed; what was sent before says nothing of now.
        hold_s: how long it is left for, or after `crowded` how long nothing is left.
        share: what the plan gave it when it was left.
    """

    site: str
    part: float
    since_s: float
    hold_s: float
    share: float
    crowded: bool = False

    @property
    def stands(self) -> bool:
        """Whether the site gets less than is planned."""
        return self.part < 1


@dataclass(frozen=True, slots=True)
class Lateness:
    """One ingress's verdicts.

    Attributes:
        evidence: log-likelihood ratio of *late* against *as promised*, where it is not 0; of a site that is tried, from
            both sides of 0.
        doubts: by contract.
    """

    planned: Planned = field(default_factory=lambda: Planned({}, {}))
    evidence: Mapping[Pair, float] = field(default_factory=dict)
    doubts: Mapping[str, Doubt] = field(default_factory=dict)

    @property
    def doubted(self) -> dict[str, dict[str, float]]:
        """Contract to site to the part that it gets of its share in the plan, where that is not all of it."""
        return {contract: {each.site: each.part} for contract, each in sorted(self.doubts.items()) if each.stands}


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
            effects = list[Effect]()
            for each in executions:
                if (found := _judge(state, each, now)) is not None:
                    state, effects = found[0], effects + found[1]
            return state, effects
        case Planned():
            return _follow(state, event, now)
        case Passed():
            return _pass(state, now)


def _judge(state: Lateness, each: Execution, now: float) -> tuple[Lateness, list[Effect]] | None:
    """None where the execution says nothing."""
    quantile, shares = state.planned.quantile.get(each.contract), state.planned.shares.get(each.contract, {})
    doubt = state.doubts.get(each.contract)
    if quantile is None or each.site not in shares or (doubt is not None and each.began_s < doubt.since_s):
        return None
    standing = doubt if doubt is not None and doubt.stands else None
    tried = standing if standing is not None and standing.site == each.site else None
    if (tried is not None and tried.part == 0) or (each.refused and (standing is None or tried is not None)):
        return None  # that a site is full is no lateness: it speaks only against taking over for another one
    evidence = state.evidence.get((each.contract, each.site), 0.0) + _weight(quantile, late=each.late or each.refused)
    if tried is None:
        evidence = max(0.0, evidence)
        return _alarmed(state, each, now) if evidence >= ALARM else (_with_evidence(state, each, evidence), [])
    if evidence >= _TRIED:
        return _left(state, each, tried.share, now)
    if evidence <= -_TRIED:
        eased = _eased(tried, now)
        return _changed(state, each.contract, eased), [Eased(each.contract, each.site, eased.part)]
    return _with_evidence(state, each, evidence), []


def _alarmed(state: Lateness, each: Execution, now: float) -> tuple[Lateness, list[Effect]]:
    """A site is late that gets what the plan gives it, or more."""
    contract, doubt = each.contract, state.doubts.get(each.contract)
    shares = state.planned.shares[contract]
    if doubt is not None and doubt.stands:
        crowded = Doubt(doubt.site, 1.0, now, _longer(doubt), doubt.share, crowded=True)
        return _changed(state, contract, crowded), [Followed(contract, doubt.site, crowded=True)]
    if len(shares) == 1 or (doubt is not None and doubt.crowded and now - doubt.since_s < doubt.hold_s):
        return _with_evidence(state, each, 0.0), []
    return _left(state, each, shares[each.site], now)


def _left(state: Lateness, each: Execution, share: float, now: float) -> tuple[Lateness, list[Effect]]:
    doubt = Doubt(each.site, 0.0, now, _longer(state.doubts.get(each.contract)), share)
    return _changed(state, each.contract, doubt), [Left(each.contract, each.site, doubt.hold_s)]


def _longer(doubt: Doubt | None) -> float:
    """The hold that comes next."""
    return HOLD_S if doubt is None else min(HOLD_S_MAX, 2 * doubt.hold_s)


def _eased(doubt: Doubt, now: float) -> Doubt:
    """One step up."""
    return replace(doubt, part=next(part for part in STEPS if part > doubt.part), since_s=now)


def _weight(quantile: float, *, late: bool) -> float:
    """Log-likelihood ratio of one execution: `LATE_SHARE` late against what the contract allows."""
    allowed = min(_ALLOWED_MAX, max(_ALLOWED_MIN, 1 - quantile))
    return math.log(LATE_SHARE / allowed) if late else math.log((1 - LATE_SHARE) / (1 - allowed))


def _with_evidence(state: Lateness, each: Execution, evidence: float) -> Lateness:
    pair = each.contract, each.site
    if state.evidence.get(pair, 0.0) == evidence:
        return state
    others = {at: value for at, value in state.evidence.items() if at != pair}
    return replace(state, evidence={**others, pair: evidence} if evidence else others)


def _changed(state: Lateness, contract: str, doubt: Doubt) -> Lateness:
    """Where a contract's traffic goes has changed: all evidence about its sites begins anew."""
    evidence = {pair: value for pair, value in state.evidence.items() if pair[0] != contract}
    return replace(state, evidence=evidence, doubts={**state.doubts, contract: doubt})


def _follow(state: Lateness, planned: Planned, now: float) -> tuple[Lateness, list[Effect]]:
    is_news, state = planned != state.planned, replace(state, planned=planned)
    effects = list[Effect]()
    for contract, doubt in state.doubts.items():
        share = planned.shares.get(contract, {}).get(doubt.site, 0.0) if contract in planned.quantile else 0.0
        if is_news and doubt.stands and share <= doubt.share / 2:
            state = _changed(state, contract, replace(doubt, part=1.0, since_s=now))
            effects.append(Followed(contract, doubt.site))
    return state, effects


def _pass(state: Lateness, now: float) -> tuple[Lateness, list[Effect]]:
    effects = list[Effect]()
    for contract, doubt in state.doubts.items():
        age_s = now - doubt.since_s
        if age_s < 0:  # the clock was set back: no pause is longer for that
            state = replace(state, doubts={**state.doubts, contract: replace(doubt, since_s=now)})
        elif doubt.stands and age_s >= (UNTRIED_S if doubt.part else doubt.hold_s):
            eased = _eased(doubt, now)
            state = _changed(state, contract, eased)
            effects.append(Eased(contract, doubt.site, eased.part))
        elif not doubt.stands and age_s >= 2 * HOLD_S_MAX:
            state = replace(state, doubts={name: each for name, each in state.doubts.items() if name != contract})
    return state, effects
