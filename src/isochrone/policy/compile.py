"""Compile policies for one site's Envoy: an ALLOW-only RBAC rule that says what full Cedar says, errors denied.

    allow = well-formed facts and grant names this site and (any permit) and not (any forbid) and not (any error)

Each policy is specialised (`specialise`) to a formula over request facts. Conditions the proxy cannot know are
opaque: `rules` then decides against them (a permit that needs one does not fire, a forbid does), and `prefilter`
decides for them, to be put before an `ext_authz` call that asks the node, which evaluates full Cedar.

DENY rules are never written: Envoy's fail open when their condition errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from isochrone.errors import PolicyError
from isochrone.policy import cel, native
from isochrone.policy.environment import Specialiser
from isochrone.policy.formula import (
    FALSE,
    TRUE,
    And,
    Constant,
    Formula,
    In,
    Like,
    Opaque,
    Or,
    bound,
    conj,
    depth_of,
    disj,
    matches,
    negate,
    substitute,
)
from isochrone.policy.policies import PolicySet
from isochrone.policy.specialise import Residual, specialise
from isochrone.policy.vocabulary import FACTS, World

__all__ = [
    "CompiledPolicy",
    "Explanation",
    "NeedsExtAuthz",
    "compile_anywhere",
    "compile_for_site",
    "compile_sites",
    "residuals_at",
]

Backend = Literal["native", "cel"]
ALWAYS = ("principal.human", "principal", "context.contract", "context.workload", "context.data_class")
"""Facts every request must carry, whether or not a policy reads them."""

NESTING_MAX = 70
"""Of the 100 levels of JSON that Envoy reads, those that a rule may take; the configuration around it has the rest."""


@dataclass(frozen=True, slots=True)
class NeedsExtAuthz:
    """A condition of a policy that the proxy cannot decide, and why."""

    policy: str
    condition: str
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Which way a policy went: `never` or `always` at this site, `native`, `cel`, or `ext_authz`; and why."""

    policy: str
    effect: str
    way: Literal["never", "always", "native", "cel", "ext_authz"]
    why: str


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """One site's compiled policies.

    `rules` is the value of `rules` in `envoy.extensions.filters.http.rbac.v3.RBAC` and decides alone. `prefilter`
    allows at least what full Cedar allows and must be followed by `ext_authz` for the contracts that `asks` names; the
    two are equal for all others. `digest` is that of the source policies; `condition` and `possible` are what the two
    say of the facts; `facts` names those (keys of `FACTS`) whose headers must be there, else every request is denied.
    """

    site: str
    action: str
    digest: str
    rules: dict[str, Any]
    prefilter: dict[str, Any]
    needs_ext_authz: tuple[NeedsExtAuthz, ...]
    explanations: tuple[Explanation, ...]
    condition: Formula
    possible: Formula
    facts: tuple[str, ...]

    def asks(self, contract: str) -> bool:
        """Whether some request under the contract needs `ext_authz`: where the two rules differ for it."""
        if not self.needs_ext_authz:
            return False
        return _under(contract, self.condition) != _under(contract, self.possible)

    def explain(self) -> tuple[Explanation, ...]:
        """Which policy went which way and why, in the order of the source."""
        return self.explanations


def compile_for_site(
    policies: PolicySet,
    site: str,
    world: World,
    *,
    action: str = "execute",
    backend: Backend = "native",
    check_grant_sites: bool = True,
) -> CompiledPolicy:
    """Compile for the site of that id. `check_grant_sites` also demands that the grant names the site.

    `backend` "cel" writes every condition in CEL (for measurement). Raises PolicyError when the site is unknown.
    """
    specialiser = Specialiser.of(world)
    residuals = residuals_at(policies, specialiser, world.site(site).id, action)
    return _assemble(policies, (site,), action, [residuals], backend, check_grant_sites)


def compile_sites(policies: PolicySet, world: World, *, action: str = "execute") -> Mapping[str, CompiledPolicy]:
    """Compile for every site of the world."""
    specialiser = Specialiser.of(world)
    return {
        site.id: _assemble(
            policies, (site.id,), action, [residuals_at(policies, specialiser, site.id, action)], "native", True
        )
        for site in world.sites
    }


def compile_anywhere(policies: PolicySet, world: World, *, action: str = "execute") -> CompiledPolicy:
    """What at least one site of the world would allow: for an ingress, which hands over what it may not execute."""
    specialiser = Specialiser.of(world)
    everywhere = [residuals_at(policies, specialiser, site.id, action) for site in world.sites]
    return _assemble(policies, tuple(site.id for site in world.sites), action, everywhere, "native", False)


def residuals_at(policies: PolicySet, specialiser: Specialiser, site: str, action: str) -> tuple[Residual, ...]:
    """What each policy comes to at a site."""
    env = specialiser.environment(site, action)
    return tuple(specialise(policy, env) for policy in policies.policies)


def _assemble(
    policies: PolicySet,
    sites: tuple[str, ...],
    action: str,
    residuals_by_site: list[tuple[Residual, ...]],
    backend: Backend,
    check_grant_sites: bool,
) -> CompiledPolicy:
    residuals = [residual for at_site in residuals_by_site for residual in at_site]
    # Not of the verdict, which may have been simplified: a policy's facts are demanded even where it changes nothing.
    read = {fact.name for residual in residuals for fact in residual.facts if fact.header}
    needed = (*ALWAYS, *sorted(read.difference(ALWAYS)))
    guards = [native.well_formed(FACTS[name]) for name in needed]
    if check_grant_sites:
        guards += [native.grant_names(site) for site in sites]
    strict, rules = _rules(residuals_by_site, guards, backend, lenient=False)
    needs = tuple(_needs(residuals))
    lenient, prefilter = _rules(residuals_by_site, guards, backend, lenient=True) if needs else (strict, rules)
    deepest = max(nesting(rules), nesting(prefilter))
    if deepest > NESTING_MAX:
        return _assemble(policies, sites, action, _without_deepest(residuals_by_site), backend, check_grant_sites)
    return CompiledPolicy(
        site=sites[0] if len(sites) == 1 else "",
        action=action,
        digest=policies.digest,
        rules=rules,
        prefilter=prefilter,
        needs_ext_authz=needs,
        explanations=tuple(_explain(residual) for residual in residuals),
        condition=strict,
        possible=lenient,
        facts=needed,
    )


def verdict_formula(residuals: Iterable[Residual], *, lenient: bool) -> Formula:
    """When the verdict is Allow; `lenient` takes opaque conditions in favour of the request, else against it."""
    permits = [bound(r.applies, upper=lenient) for r in residuals if r.policy.effect == "permit"]
    forbids = [bound(r.applies, upper=not lenient) for r in residuals if r.policy.effect == "forbid"]
    errors = [bound(r.error, upper=not lenient) for r in residuals]
    return conj(disj(*permits), negate(disj(*forbids)), negate(disj(*errors)))


def nesting(document: Any) -> int:
    """How many objects and arrays are nested, which Envoy's JSON reader limits."""
    if isinstance(document, Mapping):
        return 1 + max(map(nesting, document.values()), default=0)
    if isinstance(document, list):
        return 1 + max(map(nesting, document), default=0)
    return 0


def _without_deepest(residuals_by_site: list[tuple[Residual, ...]]) -> list[tuple[Residual, ...]]:
    """The same with the most nested policy made opaque everywhere."""
    compiled = [r for at_site in residuals_by_site for r in at_site if not r.is_opaque]
    if not compiled:
        raise PolicyError("too many policies for one rule", code="policy.too-deep", hint="split the policy set")
    deepest = max(compiled, key=lambda r: max(depth_of(r.applies), depth_of(r.error))).policy.id
    why = "nests more conditions than a proxy loads"
    return [tuple(r.as_opaque(why) if r.policy.id == deepest else r for r in at_site) for at_site in residuals_by_site]


def _rules(
    residuals_by_site: list[tuple[Residual, ...]], guards: list[dict[str, Any]], backend: Backend, *, lenient: bool
) -> tuple[Formula, dict[str, Any]]:
    """The verdict and its ALLOW rule. What only CEL can express is split off into the RBAC policy's `condition`."""
    condition = disj(*(verdict_formula(residuals, lenient=lenient) for residuals in residuals_by_site))
    if condition == FALSE:
        # An ALLOW rule set without policies allows nothing.
        return condition, {"action": "ALLOW", "policies": {}}
    policies: dict[str, Any] = {}
    for index, (for_native, for_cel) in enumerate(_alternatives(condition, backend)):
        permission = {"and_rules": {"rules": [*guards, *([] if for_native == TRUE else [native.matcher(for_native)])]}}
        policy: dict[str, Any] = {"permissions": [permission], "principals": [{"any": True}]}
        if for_cel != TRUE:
            policy["condition"] = cel.expression(for_cel)
        policies[f"isochrone-{index}"] = policy
    return condition, {"action": "ALLOW", "policies": policies}


def _alternatives(condition: Formula, backend: Backend) -> list[tuple[Formula, Formula]]:
    """(native part, CEL part) pairs, any of which allows."""
    if backend == "cel":
        return [(TRUE, condition)]
    parts = condition.parts if isinstance(condition, And) else (condition,)
    easy = conj(*(part for part in parts if native.expressible(part)))
    hard = [part for part in parts if not native.expressible(part)]
    # The one alternation (the permits) may mix both: then those that are native get a rule of their own.
    mixed = next((part for part in hard if isinstance(part, Or) and any(map(native.expressible, part.parts))), None)
    if mixed is None:
        return [(easy, conj(*hard))]
    rest = conj(*(part for part in hard if part is not mixed))
    light = disj(*(part for part in mixed.parts if native.expressible(part)))
    heavy = disj(*(part for part in mixed.parts if not native.expressible(part)))
    return [(conj(easy, light), rest), (easy, conj(rest, heavy))]


def _needs(residuals: Iterable[Residual]) -> Iterable[NeedsExtAuthz]:
    seen: dict[NeedsExtAuthz, None] = {}
    for residual in residuals:
        for literal in residual.literals:
            if isinstance(literal, Opaque):
                seen[NeedsExtAuthz(residual.policy.id, literal.text, literal.why)] = None
    return seen


def _under(contract: str, formula: Formula) -> Formula:
    """What a formula comes to for one contract."""

    def decide(literal: Formula) -> Formula:
        match literal:
            case In(fact, values, negated) if fact.name == "context.contract":
                return Constant((contract in values) != negated)
            case Like(fact, pattern, negated) if fact.name == "context.contract":
                return Constant(matches(pattern, contract) != negated)
            case _:
                return literal

    return substitute(formula, decide)


def _explain(residual: Residual) -> Explanation:
    policy, applies = residual.policy, residual.applies
    opaque = next((x for x in residual.literals if isinstance(x, Opaque)), None)
    if residual.error == TRUE:
        return Explanation(policy.id, policy.effect, "always", "always errs here, so every request is denied")
    if opaque:
        return Explanation(policy.id, policy.effect, "ext_authz", f"{opaque.text}: {opaque.why}")
    if applies == FALSE and residual.error == FALSE:
        return Explanation(policy.id, policy.effect, "never", "cannot apply at this site")
    if applies == TRUE:
        return Explanation(policy.id, policy.effect, "always", "applies to every request at this site")
    facts = ", ".join(sorted(fact.name for fact in residual.facts))
    if native.expressible(applies) and native.expressible(residual.error):
        return Explanation(policy.id, policy.effect, "native", f"header matchers on {facts}")
    return Explanation(policy.id, policy.effect, "cel", f"CEL on {facts}: compares two facts or reads the clock")
