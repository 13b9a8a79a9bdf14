"""Generated policies, worlds and requests for the verdict equality test, and a test that they are worth having."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isochrone.policy import (
    AgentFacts,
    ContractFacts,
    HumanFacts,
    PolicySet,
    PolicyTextError,
    Request,
    SiteFacts,
    WorkloadFacts,
    World,
)
from isochrone.policy.pdp import execution_context
from isochrone.policy.vocabulary import FACTS, SITES_HEADER

CLASSES = [
    "public",
    "health",
    "Health",
    "HEALTH",
    "he*lth",
    "h.*h",
    "heXlth",
    "health|public",
    "a b",
    "é",
    "é",
    "[a-z]+",
]
AGENTS = ["bot", "Bot", "agent:1", "agent.1", "agent:1/sub", "ada", "日本", "\\d+", "x" * 256]
HUMANS = ["ada", "Ada", "bob", "human:eve", "o'neil", "9007199254740993"]
CONTRACTS = ["c-de", "c-us", "c-eu", "c-none"]
WORKLOADS = ["chat", "train", "batch"]
SITE = "site.1"
GRANT_SITES = [f"|{SITE}|", "*", f"|x|{SITE}|", f"|{SITE}|y|", f"|x|{SITE}|y|"]
OTHER_SITES = ["|site-1|", "|siteX1|", "|site.11|", "|xsite.1|", f"|{SITE} |", "", "|", SITE, "**"]
DEPTHS = ["1", "2", "3", "7", "8"]
BAD_DEPTHS = ["0", "9", "01", "1.0", "-1", "+1", "", "9007199254740993", "1e0", "１"]
PLACES = ["DE", "FR", "US", "EU", "EEA", "CH"]
HARDWARE = ["cpu", "gpu", "medical"]

WORLD = World(
    sites=(
        SiteFacts(SITE, "edge", "acme", "op-a", "DE", frozenset({"cpu", "medical"}), frozenset({"tpm2"})),
        SiteFacts("site-2", "region", "zeta", "op-b", "US", frozenset({"gpu"})),
    ),
    contracts=(
        ContractFacts("c-de", "acme-tenant", "DE"),
        ContractFacts("c-us", "acme-tenant", "US"),
        ContractFacts("c-eu", "beta", "EU"),
        ContractFacts("c-none", "beta"),
    ),
    workloads=(
        WorkloadFacts("chat", "inference", "meta"),
        WorkloadFacts("train", "training", "x"),
        WorkloadFacts("batch", "batch", "x"),
    ),
    humans=(HumanFacts("ada", frozenset({"sec"})), HumanFacts("bob", frozenset({"ops"}))),
)


TEXT_FACTS = ["context.data_class"] * 2 + [
    f"{e}.id" for e in ("principal", "principal.human", "context.contract", "resource")
]
NUMBER_FACTS = ["principal.depth", "principal.depth", "context.hour_utc", "context.weekday"]
NUMBERS = [0, 1, 2, 3, 8, 16, 18, 2**53 + 1, 2**63 - 1]
TYPES = {
    "contract": "Contract",
    "agent": "Agent",
    "human": "Human",
    "workload": "Workload",
    "place": "Jurisdiction",
    "team": "Team",
    "tenant": "Tenant",
}
IDS = {
    "contract": [*CONTRACTS, "ghost"],
    "agent": AGENTS,
    "human": HUMANS,
    "workload": [*WORKLOADS, "ghost"],
    "place": PLACES,
    "team": ["sec", "ops"],
    "tenant": ["acme-tenant", "beta", "none"],
    "kind": ["batch", "training", "other"],
    "hardware": HARDWARE,
    "sitetext": ["acme", "edge", "op-a", "zeta"],
}
ATOMS = [
    "<text> <equal> <text>",
    "<text> <equal> <text>",
    "<text> like <pattern>",
    "<text> like <pattern>",
    "<number> <compare> <number>",
    "<number> <compare> <number>",
    "context.contract <equal> <contract>",
    "[<contract>, <contract>].contains(context.contract)",
    "context.contract in [<contract>, <contract>]",
    "context.contract in <tenant>",
    "principal in <human>",
    "principal in <team>",
    "principal in [<agent>, <agent>]",
    "principal.human == <human>",
    "principal.human in <team>",
    "context.workload.kind <equal> <kind>",
    "context.workload in [<workload>]",
    "[context.data_class, principal.id].contains(<text>)",
    "resource.hardware.containsAny([<hardware>])",
    "resource.hardware.containsAll([<hardware>, <hardware>])",
    "resource.hardware.contains(<hardware>)",
    "[<classes>].contains(<text>)",
    "resource.jurisdiction in [<place>, <place>]",
    "(context.contract has home && resource.jurisdiction in context.contract.home)",
    "context.contract has home",
    "context.contract.tenant == <tenant>",
    "resource.vendor == <sitetext>",
    "(if principal.depth > 2 then context.contract.id else principal.id) == <text>",
    "true",
    "false",
]
OPAQUE_ATOMS = [
    "(context has measured && context.measured.rtt_us < 10)",
    '(context has ingress && context.ingress.vendor == "acme")',
    "(context has failover && context.failover)",
    "(context has budget && context.budget.spent_cents + 1 < 5)",
    'ip("10.0.0.1").isInRange(ip("10.0.0.0/31"))',
]


def quote(text: str) -> str:
    """A Cedar string literal."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Generator:
    """Well-typed Cedar, most of it valid; `opaque` also writes conditions that no header carries."""

    def __init__(self, rng: random.Random, opaque: bool = False) -> None:
        self.rng, self.opaque = rng, opaque

    def policies(self) -> str:
        return "\n".join(self.policy(n) for n in range(self.rng.choice([1, 1, 2, 2, 3, 5, 8])))

    def policy(self, index: int) -> str:
        pick = self.rng.choice
        effect = pick(["permit", "permit", "forbid"]) if index else "permit"
        principal = pick(["principal"] * 4 + ["principal is Agent", "principal == <agent>", "principal in <human>"])
        resource = pick(["resource"] * 4 + ["resource in <place>", f'resource == Site::"{SITE}"'])
        action = pick(['action == Action::"execute"'] * 4 + ['action in [Action::"execute", Action::"exchange"]'])
        clauses = [
            f"{pick(['when', 'unless'])} {{ {self.boolean(pick([0, 1, 2, 3, 4]))} }}" for _ in pick(["", "a", "ab"])
        ]
        scope = f"{self.expand(principal)}, {action}, {self.expand(resource)}"
        return f'@id("p{index}") {effect}({scope}) {" ".join(clauses)};'

    def boolean(self, depth: int) -> str:
        pick = self.rng.choice
        if depth <= 0:
            return self.atom()
        left, right = self.boolean(depth - 1), self.boolean(pick([0, depth - 1]))
        return pick(
            [
                f"({left} && {right})",
                f"({left} || {right})",
                f"!({left})",
                f"(if {self.atom()} then {left} else {right})",
                f"(({left}) == ({right}))",
                left,
            ]
        )

    def atom(self) -> str:
        return self.expand(self.rng.choice(ATOMS + OPAQUE_ATOMS * 3 if self.opaque else ATOMS))

    def expand(self, template: str) -> str:
        """The template with each ``<name>`` replaced by a choice from its vocabulary."""
        return re.sub("<([a-z]+)>", lambda found: self.word(found[1]), template)

    def word(self, name: str) -> str:
        pick = self.rng.choice
        match name:
            case "text":
                return pick([*TEXT_FACTS, quote(pick(CLASSES)), quote(pick(AGENTS + HUMANS))])
            case "pattern":
                return self.pattern()
            case "number":
                fact, literal = pick(NUMBER_FACTS), str(pick(NUMBERS))
                return pick([fact, fact, literal, f"({fact} {pick('+-*')} {literal})"])
            case "classes":
                return ", ".join(quote(c) for c in self.rng.sample(CLASSES, pick([1, 3, 10])))
            case "compare" | "equal":
                return pick({"compare": ["<", "<=", ">", ">=", "==", "!="], "equal": ["==", "!="]}[name])
            case "contract" | "agent" | "human" | "workload" | "place" | "team" | "tenant":
                return f"{TYPES[name]}::{quote(pick(IDS[name]))}"
            case _:
                return quote(pick(IDS[name]))

    def pattern(self) -> str:
        """A `like` pattern: a known text with pieces replaced by wildcards; literal stars are escaped."""
        source = self.rng.choice(CLASSES + AGENTS + CONTRACTS)
        pieces = []
        for char in source[:20]:
            if self.rng.random() < 0.3:
                pieces.append("*")
            else:
                pieces.append({"*": "\\*", "\\": "\\\\", '"': '\\"'}.get(char, char))
        return '"' + "".join(pieces) + self.rng.choice(["", "", "*"]) + '"'


@dataclass(frozen=True)
class Claims:
    """The facts of one request as header texts; None is an absent header."""

    human: str | None
    agent: str | None
    depth: str | None
    contract: str | None
    workload: str | None
    data_class: str | None
    sites: str | None

    def headers(self) -> dict[str, str]:
        names = ("principal.human", "principal", "principal.depth", "context.contract", "context.workload")
        values = (self.human, self.agent, self.depth, self.contract, self.workload)
        pairs = [(FACTS[name].header, value) for name, value in zip(names, values, strict=True)]
        pairs += [(FACTS["context.data_class"].header, self.data_class), (SITES_HEADER, self.sites)]
        return {name: value for name, value in pairs if value is not None}

    def request(self, hour_utc: int, weekday: int, depth_matters: bool) -> Request | None:
        """The same for Cedar; None where a claim is missing or is not what the vocabulary says: that must deny.

        A grant's depth is demanded only where a policy reads it.
        """
        if None in (self.human, self.agent, self.contract, self.workload, self.data_class, self.sites):
            return None
        if self.sites != "*" and f"|{SITE}|" not in str(self.sites):
            return None
        depth = self.depth if depth_matters else "1"
        if depth not in FACTS["principal.depth"].domain:
            return None
        context = execution_context(str(self.contract), str(self.workload), str(self.data_class), hour_utc, weekday)
        agent = AgentFacts(str(self.agent), str(self.human), int(depth))
        return Request(("Agent", agent.id), "execute", ("Site", SITE), context, (agent,))


def claims(rng: random.Random) -> Claims:
    """Mostly ordinary requests, some with a claim missing, malformed or unknown."""
    values: dict[str, Any] = {
        "human": rng.choice(HUMANS),
        "agent": rng.choice(AGENTS),
        "depth": rng.choice(DEPTHS),
        "contract": rng.choice(CONTRACTS),
        "workload": rng.choice(WORKLOADS),
        "data_class": rng.choice(CLASSES),
        "sites": rng.choice(GRANT_SITES),
    }
    if rng.random() < 0.25:
        odd: Mapping[str, list[str | None]] = {
            "human": [None, "", "a,b", "stranger"],
            "agent": [None, "", "bot,bot", "x" * 255],
            "depth": [None, *BAD_DEPTHS],
            "contract": [None, "", "ghost", "C-DE", "c-de,c-us"],
            "workload": [None, "", "ghost"],
            "data_class": [None, "", "unheard-of", "health,public", "healt", "healthy"],
            "sites": [None, *OTHER_SITES],
        }
        for name in rng.sample(sorted(odd), rng.choice([1, 1, 2])):
            values[name] = rng.choice(odd[name])
    return Claims(**values)


def policy_set(rng: random.Random, opaque: bool) -> tuple[str, PolicySet]:
    """A valid generated set; invalid ones are drawn again."""
    while True:
        text = Generator(rng, opaque).policies()
        try:
            return text, PolicySet.parse({"g.cedar": text})
        except PolicyTextError:
            continue


def test_most_generated_policies_are_valid() -> None:
    rng = random.Random(1)
    valid = 0
    for _ in range(100):
        try:
            PolicySet.parse({"g.cedar": Generator(rng).policies()})
            valid += 1
        except PolicyTextError:
            continue
    assert valid > 60
