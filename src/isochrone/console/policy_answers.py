"""Answers about policies as plain data, and as people read them: what each comes to, and what a revision changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from isochrone.console.tables import Cell, Shown, good, stack, strong, table, weak, wrong
from isochrone.errors import InputError
from isochrone.model.jurisdictions import jurisdiction_groups
from isochrone.policy import analysis
from isochrone.policy.analysis import Example
from isochrone.policy.compile import compile_for_site
from isochrone.policy.policies import PolicySet
from isochrone.policy.reach import allowed_sites
from isochrone.policy.suite import CaseResult
from isochrone.policy.vocabulary import World
from isochrone.serve.policy_source import Governed

__all__ = [
    "analysed",
    "compared",
    "explained",
    "render_analysed",
    "render_compared",
    "render_explained",
    "render_suites",
    "suite_answer",
]

_DEAD = {
    "never-applies": "never applies to anything",
    "always-forbidden": "others forbid all that it permits",
    "forbids-nothing": "forbids only what nothing permits",
}


# --- what is so ---------------------------------------------------------------------------------------------------


def analysed(governed: Governed, action: str, never: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """What is dead, can err, or is beyond the proxy; the sites each contract has left; and `never`, proven or refuted.

    Args:
        never: (jurisdiction or group, data class) that no request may combine.

    Raises:
        InputError: a jurisdiction that does not exist.
    """
    policies, world = governed.policies, governed.world
    answers = [_never(policies, world, action, area, data_class) for area, data_class in never]
    return {
        "digest": policies.digest,
        "policies": len(policies),
        "sites": [site.id for site in world.sites],
        "dead": {dead.policy: dead.why for dead in analysis.dead_policies(policies, world, action=action)},
        "errs": {f.policy: _example(f.example) for f in analysis.faults(policies, world, action=action)},
        "needs_node": _needs_node(policies, world, action),
        "contracts": _sites_by_contract(policies, world, action),
        "never": answers,
    }


def _needs_node(policies: PolicySet, world: World, action: str) -> dict[str, str]:
    compiled = [compile_for_site(policies, site.id, world, action=action) for site in world.sites]
    return {need.policy: f"{need.condition}: {need.why}" for at in compiled for need in at.needs_ext_authz}


def _never(policies: PolicySet, world: World, action: str, area: str, data_class: str) -> dict[str, Any]:
    groups = {group.id for group in jurisdiction_groups()}
    known = groups | {site.jurisdiction for site in world.sites}
    if area not in known and not (len(area) == 2 and area.isascii() and area.isupper()):
        raise InputError(
            f"{area!r} is no jurisdiction", code="policy.jurisdiction",
            hint=f"an ISO 3166-1 alpha-2 code, or one of {', '.join(sorted(groups))}",
        )  # fmt: skip
    found = analysis.reach(policies, world, jurisdiction=area, data_class=data_class, action=action)
    return {"jurisdiction": area, "data_class": data_class, "example": _example(found) if found else None}


def _sites_by_contract(policies: PolicySet, world: World, action: str) -> dict[str, dict[str, list[str]]]:
    """Reasons by site by contract; none where the contract may be served."""
    found = {}
    for contract in world.contracts:
        verdicts = allowed_sites(policies, contract, world, action=action)
        found[contract.id] = {
            site: [] if verdict else [str(reason) for reason in verdict.reasons] for site, verdict in verdicts.items()
        }
    return found


def compared(old: Governed, new: Governed, actions: Sequence[str]) -> dict[str, Any]:
    """What `new` changes against `old`, over the world of `new`, with an example of each kind."""
    before = {policy.id: policy.text.strip() for policy in old.policies.policies}
    after = {policy.id: policy.text.strip() for policy in new.policies.policies}
    by_action = {}
    for action in actions:
        found = analysis.compare(old.policies, new.policies, new.world, action=action)
        by_action[action] = {
            "newly_allowed": _example(found.newly_allowed) if found.newly_allowed else None,
            "newly_denied": _example(found.newly_denied) if found.newly_denied else None,
        }
    return {
        "old": old.policies.digest,
        "new": new.policies.digest,
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "changed": sorted(name for name in after.keys() & before.keys() if after[name] != before[name]),
        "actions": by_action,
        "stricter": all(found["newly_allowed"] is None for found in by_action.values()),
        "looser": all(found["newly_denied"] is None for found in by_action.values()),
    }


def explained(governed: Governed, sites: Sequence[str], action: str) -> dict[str, Any]:
    """Which way each policy goes at each site: decided beforehand, by the proxy, or by the node."""
    found = {}
    for site in sites:
        compiled = compile_for_site(governed.policies, site, governed.world, action=action)
        found[site] = [{"policy": e.policy, "effect": e.effect, "way": e.way, "why": e.why} for e in compiled.explain()]
    return {"digest": governed.policies.digest, "action": action, "sites": found}


def suite_answer(name: str, results: Sequence[CaseResult]) -> dict[str, Any]:
    """One suite's cases."""
    cases = [
        {
            "case": result.name,
            "passed": result.passed,
            "expected": result.expected,
            "verdict": "allow" if result.verdict else "deny",
            "reasons": [str(reason) for reason in result.verdict.reasons],
        }
        for result in results
    ]
    return {"suite": name, "passed": sum(result.passed for result in results), "cases": cases}


def _example(example: Example) -> dict[str, Any]:
    return {
        "site": example.site,
        "facts": dict(example.facts),
        "assumed": dict(example.assumed),
        "permits": list(example.permits),
    }


# --- how it is shown ----------------------------------------------------------------------------------------------


def render_analysed(found: Mapping[str, Any]) -> Shown:
    """All answers, the bad ones in red."""
    parts: list[Shown] = [strong(f"{found['policies']} policies over {len(found['sites'])} sites, {found['digest']}")]
    rows: list[tuple[Cell, Cell]] = [(policy, wrong(f"errs, e.g. {_told(e)}")) for policy, e in found["errs"].items()]
    rows += [(policy, _DEAD[why]) for policy, why in found["dead"].items()]
    rows += [(policy, f"decided by the node, not the proxy: {why}") for policy, why in found["needs_node"].items()]
    parts.append(
        table("Worth a look", ["policy", "what"], rows) if rows else good("every policy matters and none can err")
    )
    contracts = [
        (name, ", ".join(s for s, why in sites.items() if not why) or wrong("nowhere"), _barred(sites))
        for name, sites in found["contracts"].items()
    ]
    if contracts:
        parts.append(table("Sites left", ["contract", "may use", "may not use"], contracts))
    parts += [_render_never(answer) for answer in found["never"]]
    return stack(parts)


def _render_never(answer: Mapping[str, Any]) -> Shown:
    what = f"{answer['data_class']} data in {answer['jurisdiction']}"
    if answer["example"] is None:
        return good(f"proven: no request can ever be allowed with {what}")
    return wrong(f"refuted: {what} can be allowed, e.g. {_told(answer['example'])}")


def _barred(sites: Mapping[str, list[str]]) -> Cell:
    return weak("; ".join(f"{site}: {', '.join(why)}" for site, why in sites.items() if why) or "-")


def render_compared(found: Mapping[str, Any]) -> Shown:
    """The verdict on the revision first, then an example of each change."""
    if found["stricter"] and found["looser"]:
        head = good("no verdict changes")
    elif found["stricter"]:
        head = good("stricter: allows nothing that was not allowed")
    else:
        head = wrong("looser: denies nothing that was allowed" if found["looser"] else "neither stricter nor looser")
    rows: list[tuple[Cell, Cell, Cell]] = []
    for action, change in found["actions"].items():
        for kind in ("newly_allowed", "newly_denied"):
            if change[kind]:
                rows.append((action, kind.replace("_", " "), _told(change[kind])))
    names = [(kind, ", ".join(found[kind])) for kind in ("added", "removed", "changed") if found[kind]]
    parts: list[Shown] = [head]
    if names:
        parts.append(table("Policies", ["", "ids"], names))
    if rows:
        parts.append(table("For example", ["action", "change", "request"], rows))
    return stack(parts)


def render_explained(found: Mapping[str, Any]) -> Shown:
    """A table per site."""
    parts: list[Shown] = []
    for site, lines in found["sites"].items():
        rows = [(line["policy"], line["effect"], line["way"], line["why"]) for line in lines]
        parts.append(table(f"{site}: {found['action']}", ["policy", "effect", "way", "why"], rows))
    return stack(parts)


def render_suites(suites: Sequence[Mapping[str, Any]]) -> Shown:
    """What failed in full, what passed as a count."""
    parts: list[Shown] = []
    for suite in suites:
        failed = [
            (case["case"], case["expected"], wrong(f"{case['verdict']}: {'; '.join(case['reasons'])}"))
            for case in suite["cases"]
            if not case["passed"]
        ]
        count = f"{suite['suite']}: {suite['passed']} of {len(suite['cases'])} passed"
        parts.append(table(count, ["case", "expected", "given"], failed) if failed else good(count))
    return stack(parts)


def _told(example: Mapping[str, Any]) -> str:
    facts = [f"{name.rpartition('.')[2]}={value}" for name, value in example["facts"].items()]
    assumed = [f"assuming {'' if holds else 'not '}{text}" for text, holds in example["assumed"].items()]
    by = f"by {', '.join(example['permits'])}" if example["permits"] else ""
    return " ".join(part for part in (f"at {example['site']}", *facts, *assumed, by) if part)
