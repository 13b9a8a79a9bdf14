"""Laws of the FIB and the compiled files, for any plan: bounds hold, weights add up, equal views give equal bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.forward.fib import WEIGHT_TOTAL, Entry, Fib, Path, fib_for
from isochrone.forward.snapshot import compile_site
from isochrone.forward.view import Files, SiteView
from isochrone.forward.xds import Address
from isochrone.plan.plan import Plan, Refusal, Rung, Share
from isochrone.plan.verdicts import Verdict
from support import documents

NAMES = ("konstanz", "zurich", "frankfurt", "ashburn")
FABRIC = documents.fabric(
    {name: documents.site() for name in NAMES},
    {"voice": documents.workload() | {"protocol": "open-inference"}},
    {"line": documents.contract("voice", 20), "other": documents.contract("voice", 7.5)},
    name="lakeside",
)
REFUSAL = Refusal("No site is in time", "none")
ANY = {"action": "ALLOW", "policies": {"any": {"permissions": [{"any": True}], "principals": [{"any": True}]}}}

sites = st.sampled_from((*NAMES, "elsewhere"))
shares = st.lists(st.builds(Share, sites, st.floats(0, 1)), max_size=5, unique_by=lambda share: share.site)


@st.composite
def rungs(draw: st.DrawFn, deadline_ms: float) -> Rung:
    chosen = tuple(draw(shares))
    fallbacks = tuple(draw(st.lists(sites, max_size=4, unique=True)))
    return Rung(deadline_ms, chosen, fallbacks, None if chosen else REFUSAL)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    routes = {
        site: {
            "line": tuple(draw(rungs(ms)) for ms in (5.0, 10.0, 20.0)),
            "other": tuple(draw(rungs(ms)) for ms in (5.0, 7.5)),
        }
        for site in draw(st.sets(st.sampled_from(NAMES), min_size=1))
    }
    limits = draw(st.dictionaries(st.sampled_from(NAMES), st.fixed_dictionaries({"line": st.integers(0, 99)})))
    return documents.plan(revision=draw(st.integers(1, 2**31)), routes=routes, limits=limits)


bounds = st.dictionaries(
    st.tuples(st.sampled_from(("line", "other")), st.sampled_from((*NAMES, "elsewhere"))),
    st.builds(Verdict, st.booleans()),
)


def view_of(fib: Fib, verdicts: dict[tuple[str, str], Verdict], **changes: Any) -> SiteView:
    others = [name for name in NAMES if name != fib.site]
    view = SiteView(
        fabric=FABRIC,
        site=fib.site,
        fib=fib,
        files=Files("/s/xds", "/s/identity", "/s/journal.jsonl", "/s/admin.sock"),
        ingress=Address("127.0.0.1", 1000),
        peer=Address("127.0.0.1", 1001),
        node_api=Address("127.0.0.1", 1002),
        peers={name: Address("127.0.0.1", 2000 + index) for index, name in enumerate(others)},
        replicas={"voice": (Address("127.0.0.1", 3000),)},
        jwks={"keys": []},
        issuer="isochrone:lakeside",
        rules=ANY,
        anywhere_rules=ANY,
        allowed={
            contract: frozenset(site for (c, site), verdict in verdicts.items() if c == contract and verdict.allowed)
            for contract in FABRIC.contracts
        },
        deny={},
        policy_digest="p",
        epoch=1,
    )
    return replace(view, **changes)


@settings(max_examples=50, deadline=None)
@given(plans(), bounds, st.sampled_from(NAMES))
def test_a_fib_holds_the_bounds_whatever_the_plan_says(
    plan: Plan, verdicts: dict[tuple[str, str], Verdict], site: str
) -> None:
    fib = fib_for(FABRIC, plan, site, verdicts)
    assert len(fib.entries) == sum(len(steps) for steps in plan.routes.get(site, {}).values())
    for entry in fib.entries:
        assert bool(entry.paths) != (entry.refusal is not None)
        named = set(entry.candidates) | {name for path in entry.paths for name in path.sites}
        assert all(verdicts[entry.contract, name].allowed and name in FABRIC.sites for name in named)
        assert not entry.paths or sum(path.weight for path in entry.paths) == WEIGHT_TOTAL
        assert all(path.weight >= 1 for path in entry.paths)
        for path in entry.paths:
            assert len(set(path.sites)) == len(path.sites)
            assert set(path.sites) == set(entry.candidates)


@settings(max_examples=40, deadline=None)
@given(plans(), bounds, st.sampled_from(NAMES), st.randoms(use_true_random=False))
def test_the_order_in_which_things_are_named_changes_nothing(
    plan: Plan, verdicts: dict[tuple[str, str], Verdict], site: str, random: Any
) -> None:
    def shuffled(mapping: Any) -> Any:
        items = list(mapping.items())
        random.shuffle(items)
        return dict(items)

    def shuffled_rung(rung: Rung) -> Rung:
        mixed = list(rung.shares)
        random.shuffle(mixed)
        return replace(rung, shares=tuple(mixed))

    routes = {
        name: shuffled({contract: tuple(map(shuffled_rung, steps)) for contract, steps in table.items()})
        for name, table in shuffled(plan.routes).items()
    }
    same = replace(plan, routes=routes, limits=shuffled(plan.limits))
    first = fib_for(FABRIC, plan, site, verdicts)
    second = fib_for(FABRIC, same, site, shuffled(verdicts))
    assert first == second
    deny = {f"x-isochrone-h{n}": frozenset({f"a{n}", f"b{n}"}) for n in range(1, 4)}
    one = view_of(first, verdicts, deny=deny)
    other = view_of(second, verdicts, deny=shuffled(deny), peers=shuffled(one.peers), allowed=shuffled(one.allowed))
    assert compile_site(one).files == compile_site(other).files


@settings(max_examples=40, deadline=None)
@given(plans(), bounds, st.sampled_from(NAMES))
def test_no_compiled_route_names_a_site_out_of_bounds(
    plan: Plan, verdicts: dict[tuple[str, str], Verdict], site: str
) -> None:
    view = view_of(fib_for(FABRIC, plan, site, verdicts), verdicts)
    files = compile_site(view).files
    made = {cluster["name"]: cluster for cluster in json.loads(files["cds/clusters.json"])["resources"]}
    for name, cluster in made.items():
        if not name.startswith("chain/"):
            continue
        contract = name.split("/")[1]
        for inner in cluster["cluster_type"]["typed_config"]["clusters"]:
            kind, _, target = inner.partition("/")
            executing = target if kind == "peer" else site
            assert kind == "peer" or target == contract
            assert executing in view.allowed[contract]


@settings(max_examples=40, deadline=None)
@given(plans(), bounds, st.sampled_from(NAMES))
def test_the_lock_of_a_chain_names_the_allowed_addresses_and_no_other(
    plan: Plan, verdicts: dict[tuple[str, str], Verdict], site: str
) -> None:
    view = view_of(fib_for(FABRIC, plan, site, verdicts), verdicts)
    for cluster in json.loads(compile_site(view).files["cds/clusters.json"])["resources"]:
        if not cluster["name"].startswith("chain/"):
            continue
        options = cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
        rules = options["http_filters"][0]["typed_config"]["rules"]
        ports = {
            permission["matcher"]["typed_config"]["upstream_port_range"]["start"]
            for policy in rules["policies"].values()
            for permission in policy["permissions"]
        }
        allowed = view.allowed[cluster["name"].split("/")[1]]
        wanted = {view.peers[name].port for name in allowed if name in view.peers}
        assert ports == wanted | ({3000} if site in allowed else set())
        assert rules["action"] == "ALLOW"


@settings(max_examples=30, deadline=None)
@given(plans(), bounds, st.sampled_from(NAMES), st.sets(st.text("abc", min_size=1, max_size=3), min_size=1))
def test_a_revocation_changes_its_own_file_and_no_other(
    plan: Plan, verdicts: dict[tuple[str, str], Verdict], site: str, revoked: set[str]
) -> None:
    view = view_of(fib_for(FABRIC, plan, site, verdicts), verdicts)
    before = compile_site(view)
    after = compile_site(replace(view, deny={"x-isochrone-h1": frozenset(revoked)}))
    changed = {name for name in before.files if before.files[name] != after.files[name]}
    assert changed == {"ecds/revocation.json"}
    assert {name for name in before.files if before.versions[name] != after.versions[name]} == changed


def test_an_entry_has_paths_or_a_refusal_and_never_both_or_neither() -> None:
    path = (Path(("konstanz",), WEIGHT_TOTAL),)
    with pytest.raises(ValueError, match="exactly one"):
        Entry("line", 5.0, (), (), None)
    with pytest.raises(ValueError, match="exactly one"):
        Entry("line", 5.0, path, ("konstanz",), REFUSAL)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=len(NAMES)))
def test_weights_follow_the_shares(parts: list[float]) -> None:
    chosen = tuple(Share(name, part) for name, part in zip(NAMES, parts, strict=False))
    plan = documents.plan(routes={"konstanz": {"line": (Rung(20.0, chosen),)}})
    everywhere = {("line", name): Verdict(True) for name in NAMES}
    (entry,) = fib_for(FABRIC, plan, "konstanz", everywhere).entries
    for path in entry.paths:
        exact = WEIGHT_TOTAL * dict(zip(NAMES, parts, strict=False))[path.sites[0]] / sum(parts)
        # Largest remainder is within one; a share of nearly nothing keeps weight 1, which others give.
        assert abs(path.weight - exact) <= len(NAMES)
