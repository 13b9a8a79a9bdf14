"""Are people's acts the only way to change a running fabric, by command and against a hostile hub?"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from isochrone.authority.acts import apply_subject
from isochrone.authority.identity import sign_act
from isochrone.authority.jose import PrivateKey
from isochrone.authority.sites import sign_admission
from isochrone.serve import mailbox
from isochrone.serve.bus import Bus
from isochrone.serve.enrolment import roster_entry
from isochrone.serve.home import HubHome
from isochrone.serve.people import registry_from
from isochrone.serve.sealed import open_sealed, seal
from support.fabric import SITES, RunningFabric, running_fabric, until

ONLY_OPERATOR = """
@id("agents-may")
permit (principal, action, resource);

@id("one-administers")
forbid (principal, action == Action::"administer", resource) unless { principal.id == "human:operator" };
"""


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFabric]:
    with running_fabric(tmp_path_factory.mktemp("acts")) as running:
        yield running


def cli(fabric: RunningFabric, *words: str, code: int = 0) -> str:
    done = fabric.run(*words, "--state", str(fabric.state))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def acts(fabric: RunningFabric) -> list[str]:
    return list(fabric.ask_hub("GET", "/people")["acts"])


def recorded(fabric: RunningFabric, site: str) -> list[dict[str, Any]]:
    return [record for record in fabric.entries(site) if record["kind"] == "act"]


def test_people_and_agents_come_and_go_by_signed_acts_on_record_everywhere(
    fabric: RunningFabric, tmp_path: Path
) -> None:
    assert "enrolled human:olga" in cli(fabric, "identity", "create", "human:olga", "--name", "Olga", "--operator")
    pem, jwk = tmp_path / "agent.pem", tmp_path / "more.jwk"
    pem.write_bytes(PrivateKey.generate().public.pem())
    jwk.write_text(json.dumps(PrivateKey.generate("OKP").public.jwk))
    spiffe = "spiffe://acme.example/planner"
    planner = ("identity", "enrol", "agent:far-planner", "--key")
    cli(fabric, *planner, str(pem), "--spiffe-id", spiffe, "--by", "human:olga")
    assert "further key" in cli(fabric, *planner, str(jwk))
    shown = json.loads(cli(fabric, "identity", "show", "agent:far-planner", "--json"))
    assert (shown["spiffe_id"], len(shown["keys"]), shown["active"]) == (spiffe, 2, True)

    first = cli(fabric, "identity", "show", "agent:far-planner").split("\n")[1].split()[0]
    cli(fabric, "identity", "retire-key", "agent:far-planner", first)
    assert f"{first}  key (ES256)  retired" in cli(fabric, "identity", "show", "agent:far-planner")
    cli(fabric, "identity", "retire", "agent:far-planner", "--by", "human:olga")
    assert "(retired)" in cli(fabric, "identity", "list")

    said = acts(fabric)
    for site in SITES:
        until(lambda site=site: len(recorded(fabric, site)) == len(said) + 1, f"{site} recorded every act")
        first_record, *others = recorded(fabric, site)
        assert [each["id"] for each in first_record["anchor"]] == ["human:operator"]
        assert [(each["seq"], each["act"]) for each in others] == list(enumerate(said, start=1))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("identity", "create", "human:operator"), "has a key here already"),
        (("identity", "enrol", "human:operator", "--key", "bounds.cedar"), "not a P-256 or Ed25519 key"),
        (("identity", "retire-key", "human:operator", "-vSZ05xfXPvTEQJE"), "has no such active key"),
        (("identity", "show", "human:nobody"), "is not enrolled"),
        (("identity", "retire", "human:nobody"), "is not enrolled, or retired"),
        (("identity", "retire", "human:operator", "--by", "human:nobody"), "is not an active person here"),
        (("identity", "retire", "human:operator", "--passkey"), "has no passkey for http://localhost:"),
        (("identity", "invite", "agent:a"), "only people are invited"),
        (("approve", "nothing", "--reason", "r"), "there is no contract nothing"),
        (("approve", "anywhere", "--reason", " "), "a reason in words is needed"),
        (("approve", "anywhere", "--reason", "r", "--for", "1y"), "is no length of time"),
        (("approvals", "withdraw", "x", "--reason", "r"), "no approval begins with x"),
        (("delegations", "show", "agent:nobody"), "nobody delegated to agent:nobody"),
        (("delegations", "explain", "agent:caller", "--contract", "x"), "there is no contract x"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_people_get_wrong_is_said(fabric: RunningFabric, words: tuple[str, ...], said: str) -> None:
    assert said in cli(fabric, *words, code=1)


def test_delegations_are_listed_drawn_and_explained(fabric: RunningFabric) -> None:
    fabric.delegate("agent:root", depth=1, contracts=["anywhere"])
    fabric.delegate("agent:leaf", giver="agent:root", contracts=["anywhere"], sites=["konstanz"])
    tree = cli(fabric, "delegations", "show", "agent:root", "agent:leaf")
    assert tree.count("agent:root") == 1, "a hop that two chains share stands once"
    assert tree.index("human:operator") < tree.index("└─ agent:root") < tree.index("   └─ agent:leaf")
    assert "depth 1" in next(x for x in cli(fabric, "delegations", "list").splitlines() if x.startswith("agent:leaf"))
    found = json.loads(cli(fabric, "delegations", "explain", "agent:leaf", "--json"))
    assert found["anywhere"]["konstanz"] == []
    assert "site frankfurt is not among" in found["anywhere"]["frankfurt"][0]
    assert found["lakeside"]["konstanz"]
    # Whoever signed a hop takes it back, enrolled or not.
    cli(fabric, "revoke", "delegation", "agent:leaf", "--by", "agent:root", "--reason", "job done")


def test_nobody_who_is_not_an_operator_changes_the_fabric(fabric: RunningFabric) -> None:
    cli(fabric, "identity", "create", "human:eve", "--name", "Eve")
    changed = fabric.directory / "changed.yaml"
    changed.write_text(fabric.text().replace("penalty_per_1k: 20", "penalty_per_1k: 21"))
    before = fabric.status()["desired"]
    assert "no active operator" in cli(fabric, "apply", str(changed), "--yes", "--by", "human:eve", code=1)
    body = {
        "fabric": changed.read_text(),
        "policies": {"bounds.cedar": (fabric.directory / "bounds.cedar").read_text()},
    }
    assert fabric.ask_hub("POST", "/apply", body)["title"] == "nobody signed this change"
    assert fabric.ask_hub("POST", "/people", {"act": "x"})["status_code"] == 422
    assert fabric.status()["desired"] == before


def test_policies_say_which_operator_may(fabric: RunningFabric) -> None:
    policy = fabric.directory / "bounds.cedar"
    loose = policy.read_text()
    cli(fabric, "identity", "create", "human:otto", "--operator")
    try:
        policy.write_text(ONLY_OPERATOR)
        cli(fabric, "apply", str(fabric.path), "--yes", "--by", "human:operator")
        policy.write_text(loose)
        refused = cli(fabric, "apply", str(fabric.path), "--yes", "--by", "human:otto", code=1)
        assert "human:otto may not apply" in refused
        assert "one-administers" in refused
        assert "one-administers" in cli(fabric, "identity", "create", "human:x", "--by", "human:otto", code=1)
        policy.write_text(loose + 'forbid (principal, action == Action::"administer", resource);')
        assert "may not apply" in cli(fabric, "apply", str(fabric.path), "--yes", "--by", "human:operator", code=1)
    finally:
        policy.write_text(loose)
        cli(fabric, "apply", str(fabric.path), "--yes", "--by", "human:operator")


def test_a_hub_that_is_an_attackers_changes_nothing_at_any_site(fabric: RunningFabric) -> None:
    """It has the hub's directory and the bus, and no operator's key."""
    home = HubHome(fabric.state / "hub", "pair")
    people, mallory = home.people_document(), PrivateKey.generate()
    registry = registry_from("pair", people)
    revision, forged = registry.applied[-1].revision, fabric.text().replace("objective_ms: 500", "objective_ms: 5000")
    body = {"fabric": forged, "policies": {"bounds.cedar": (fabric.directory / "bounds.cedar").read_text()}}
    signed = sign_act(registry, "apply", apply_subject(revision + 1, **_as_text(body)), key=mallory, now_s=time.time())
    own = [{"id": "human:m", "kind": "human", "name": "M", "operator": True, "keys": [{"jwk": mallory.public.jwk}]}]
    number = 1 + len(people["acts"])
    lies = [
        (mailbox.FABRIC_KEY, revision, body, "is not what act"),
        (mailbox.PEOPLE_KEY, number + 1, {**people, "acts": [*people["acts"], signed]}, "no active operator"),
        (mailbox.PEOPLE_KEY, number + 1, {"anchor": own, "acts": []}, "other people than were enrolled here"),
        (mailbox.PEOPLE_KEY, number + 1, {**people, "acts": people["acts"][:-1]}, "does not go on from act"),
    ]
    in_force = {site: fabric.report(site)["desired"] for site in SITES}

    async def tell() -> None:
        async with Bus(f"tls://{home.addresses()['bus']}", name="mallory", tls=home.tls) as bus:
            await bus.wait_connected(5.0)
            truth = {kind: await bus.get(mailbox.DESIRED, kind) for kind in (mailbox.FABRIC_KEY, mailbox.PEOPLE_KEY)}
            try:
                for kind, at, lie, said in lies:
                    await bus.put(mailbox.DESIRED, kind, seal(kind, at, lie, home.key))
                    for site in SITES:
                        await asyncio.to_thread(until, lambda site=site, said=said: _alarmed(fabric, site, said), said)
            finally:
                for kind, entry in truth.items():
                    assert entry is not None
                    assert entry.value is not None
                    _, told = open_sealed(kind, entry.value, home.key.public)
                    at = revision if kind == mailbox.FABRIC_KEY else number
                    await bus.put(mailbox.DESIRED, kind, seal(kind, at, told, home.key))

    asyncio.run(tell())
    assert {site: fabric.report(site)["desired"] for site in SITES} == in_force
    assert fabric.call(SITES[0]).status_code == 200
    cli(fabric, "identity", "create", "agent:after")  # the truth goes on
    until(lambda: recorded(fabric, SITES[0])[-1]["seq"] == len(acts(fabric)), "acts go on at the site")


def _told_a_roster(fabric: RunningFabric, change: Callable[[dict[str, Any]], None], said: str) -> None:
    """The hub lists other sites than it did; until every site that is left says so."""
    home = HubHome(fabric.state / "hub", "pair")

    async def tell() -> None:
        async with Bus(f"tls://{home.addresses()['bus']}", name="mallory", tls=home.tls) as bus:
            await bus.wait_connected(5.0)
            entry = await bus.get(mailbox.DESIRED, mailbox.ROSTER_KEY)
            assert entry is not None
            assert entry.value is not None
            number, told = open_sealed(mailbox.ROSTER_KEY, entry.value, home.key.public)
            change(told["sites"])
            await bus.put(mailbox.DESIRED, mailbox.ROSTER_KEY, seal(mailbox.ROSTER_KEY, number + 1, told, home.key))

    asyncio.run(tell())
    for site in fabric.status()["sites"]:
        until(lambda site=site: _alarmed(fabric, site, said), said)


def _key_ids(fabric: RunningFabric, site: str) -> set[str]:
    """Ids of the keys whose grants a site's Envoy takes."""
    state = json.loads((fabric.state / "hub" / "roster.json").read_bytes())
    known = {name: entry["jwk"]["kid"] for name, entry in state.items()} | {"mallory": "mallory"}
    files = [path.read_text() for path in (fabric.state / "sites" / site / "envoy").rglob("*") if path.is_file()]
    return {name for name, kid in known.items() if any(kid in text for text in files)}


def test_drains_are_acts_and_only_operators(fabric: RunningFabric) -> None:
    before = len(acts(fabric))
    assert "no active operator" in cli(fabric, "drain", SITES[1], "--by", "human:eve", code=1)
    assert "there is no site 'atlantis'" in cli(fabric, "drain", "atlantis", code=1)
    cli(fabric, "drain", SITES[1])
    assert fabric.status()["drained"] == [SITES[1]]
    cli(fabric, "drain", SITES[1], "--undo")
    assert (fabric.status()["drained"], len(acts(fabric))) == ([], before + 2)


def test_a_site_that_nobody_admitted_is_believed_nowhere(fabric: RunningFabric) -> None:
    """A hub that is an attacker's adds a site of its own, with a join key of its own."""
    mine, join_key = PrivateKey.generate(), PrivateKey.generate("OKP")
    entry = roster_entry(mine.public, "isochrone.invalid/pair/mallory", "isochrone.invalid/pair/mallory/witness")
    entry["jwk"]["kid"] = "mallory"
    entry["admission"] = sign_admission(join_key, "pair", "mallory", entry)
    _told_a_roster(fabric, lambda sites: sites.update(mallory=entry), "site mallory is not believed: no act admits it")
    for site in SITES:
        assert _key_ids(fabric, site) == set(SITES)
    assert fabric.call(SITES[0]).status_code == 200


def test_a_removed_site_stays_out_whatever_the_hub_lists(fabric: RunningFabric) -> None:
    """The last, since the fabric is smaller afterwards."""
    stays, goes = SITES
    held = HubHome(fabric.state / "hub", "pair").roster()[goes]
    minted = fabric.source(goes).token()
    assert fabric.call(stays, token=minted).status_code == 200
    assert "no active operator" in cli(fabric, "enrol", "--remove", goes, "--by", "human:eve", code=1)
    assert goes in fabric.status()["vkeys"]
    cli(fabric, "enrol", "--remove", goes)
    until(lambda: fabric.call(stays, token=minted).status_code == 401, "grants that it minted are refused")
    said = f"site {goes} is not believed: no act admits it"
    _told_a_roster(fabric, lambda sites: sites.update({goes: held}), said)
    assert fabric.call(stays, token=minted).status_code == 401
    assert fabric.call(stays).status_code == 200


def _as_text(body: dict[str, Any]) -> dict[str, Any]:
    return {"text": body["fabric"], "policies": body["policies"]}


def _alarmed(fabric: RunningFabric, site: str, said: str) -> bool:
    return any(said in alarm for alarm in fabric.report(site)["alarms"])
