"""Does desired state count only when an operator asked for it, whoever hands it out?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from isochrone.authority.acts import apply_subject
from isochrone.authority.identity import ActRejected, Registry, sign_act
from isochrone.authority.jose import PrivateKey
from isochrone.authority.testing import NOW_S
from isochrone.control.mandate import DesiredText, lock_out, mandate_faults
from isochrone.control.node import NodeState
from isochrone.errors import AuthorityError, InputError, IntegrityError
from isochrone.forward.view import Files
from isochrone.policy.policies import PolicySet
from isochrone.serve import mailbox
from isochrone.serve.act_book import ActBook
from isochrone.serve.admission import Admission
from isochrone.serve.home import HubHome, SiteHome
from isochrone.serve.joining import join
from isochrone.serve.keyring import Holder
from isochrone.serve.learned import Learned, listening_of
from isochrone.serve.people import anchor_digest, registry_from
from isochrone.serve.sealed import seal
from support.documents import contract, document, external, site, workload

ALL = '@id("all") permit (principal, action, resource);'
ONLY_ADA = (
    '@id("only-ada") forbid (principal, action == Action::"administer", resource) unless {principal.id == "human:ada"};'
)
ADA, BOB, EVE = (Holder(f"human:{name}", name.title(), PrivateKey.generate()) for name in ("ada", "bob", "eve"))
ANCHOR = [holder.identity(is_operator=True).to_json() for holder in (ADA, BOB)] + [EVE.identity().to_json()]


def text(ms: int = 500, policy: str = ALL, before: DesiredText | None = None) -> DesiredText:
    steady = contract("echo", ms, demand_rps={"one": 1})
    echo = workload(2, 10, runtime=external("one"))
    said = document({"one": site()}, {"echo": echo}, {"steady": steady}, name="acme", policies=["p.cedar"])
    return DesiredText(said, {"p.cedar": policy}, before)


def act(registry: Registry, desired: DesiredText, by: Holder = ADA, revision: int = 0) -> str:
    due = revision or (registry.applied[-1].revision if registry.applied else 0) + 1
    subject = apply_subject(due, desired.fabric, desired.policies)
    return sign_act(registry, "apply", subject, key=by.key, now_s=NOW_S)


def after(registry: Registry, *acts: str) -> Registry:
    for each in acts:
        following = registry.apply(each)
        assert isinstance(following, Registry), following
        registry = following
    return registry


EMPTY = registry_from("acme", {"anchor": ANCHOR, "acts": []})
FIRST = text()
ONE = after(EMPTY, act(EMPTY, FIRST))


def codes(registry: Registry, revision: int, desired: DesiredText) -> list[str]:
    return [reason.code for reason in mandate_faults(registry, revision, desired)]


def test_what_an_operator_applied_counts_and_nothing_else_does() -> None:
    assert codes(ONE, 1, FIRST) == []
    assert codes(EMPTY, 1, FIRST) == ["unsigned"]
    assert codes(ONE, 1, text(501)) == ["unsigned"]
    assert codes(ONE, 1, text(policy=ONLY_ADA)) == ["unsigned"]
    assert codes(ONE, 2, FIRST) == ["unsigned"]


def test_only_an_operator_applies_and_only_the_next_revision() -> None:
    for wrong, code in [
        (act(ONE, text(600), EVE), "signature"),
        (act(ONE, text(600), Holder("human:x", "X", PrivateKey.generate())), "signature"),
        (act(ONE, text(600), revision=1), "revision"),
        (act(ONE, text(600), revision=3), "revision"),
        (act(EMPTY, text(600)), "sequence"),
    ]:
        refused = ONE.apply(wrong)
        assert isinstance(refused, ActRejected)
        assert refused.reasons[0].code == code


def test_the_policies_in_force_before_say_who_may_change_them() -> None:
    strict = text(policy=ALL + ONLY_ADA, before=FIRST)
    two = after(ONE, act(ONE, strict))
    assert codes(two, 2, strict) == []
    for by, expected in ((BOB, ["policy", "policy"]), (ADA, [])):
        third = text(700, policy=ALL + ONLY_ADA, before=strict)
        assert codes(after(two, act(two, third, by)), 3, third) == expected
    # Bob cannot help himself to it by taking the policy away: the one before counts.
    loose = text(policy=ALL, before=strict)
    assert set(codes(after(two, act(two, loose, BOB)), 3, loose)) == {"policy"}


def test_the_state_before_cannot_be_made_up() -> None:
    strict = text(policy=ALL + ONLY_ADA, before=FIRST)
    two = after(ONE, act(ONE, strict))
    for before in (FIRST, text(1), None):
        loose = text(900, before=before)
        assert codes(after(two, act(two, loose, BOB)), 3, loose) == ["before"]


def test_policies_that_would_lock_everybody_out_are_seen() -> None:
    nobody = PolicySet.parse({"p": '@id("never") forbid (principal, action == Action::"administer", resource);'})
    assert lock_out(ONE, FIRST.noun, nobody)
    assert not lock_out(ONE, FIRST.noun, PolicySet.parse({"p": ONLY_ADA}))


@pytest.mark.parametrize("junk", [None, [], {}, {"fabric": 1, "policies": {}}, {"fabric": "", "policies": {"a": 1}}])
def test_what_is_no_desired_state(junk: object) -> None:
    with pytest.raises(InputError):
        DesiredText.from_json(junk)
    again = text(before=FIRST)
    assert DesiredText.from_json(json.loads(json.dumps(again.to_json()))) == again


class TestSite:
    """One site, and a hub that may be hostile: it has the hub's key, and no operator's."""

    @pytest.fixture
    def hub(self, tmp_path: Path) -> HubHome:
        home = HubHome.open(tmp_path, "acme")
        home.save_people({"anchor": ANCHOR, "acts": []})
        home.save_addresses("127.0.0.1:1", "127.0.0.1:2")
        return home

    @pytest.fixture
    def site(self, hub: HubHome, tmp_path: Path) -> SiteHome:
        home, admission = SiteHome(tmp_path / "one"), Admission(hub)
        join(home, admission.invite("one"), admission.admit)
        return home

    def hear(self, site: SiteHome, hub: HubHome, *said: tuple[str, int, dict[str, Any]]) -> tuple[Learned, list[str]]:
        alarms: list[str] = []

        async def record(_: object) -> None: ...

        state = NodeState("one", Files("x", "i", "j", ""), listening_of(site, "one", None))
        learned = Learned(site, state, alarms.append, lambda: None, record)
        learned.load()
        for kind, number, body in said:
            learned._take_sealed(kind, seal(kind, number, body, hub.key))
        return learned, alarms

    def people(self, *acts: str, anchor: list[Any] | None = None) -> tuple[str, int, dict[str, Any]]:
        return mailbox.PEOPLE_KEY, 1 + len(acts), {"anchor": anchor or ANCHOR, "acts": list(acts)}

    def test_takes_what_was_signed_in_either_order_and_again_after_a_restart(
        self, site: SiteHome, hub: HubHome
    ) -> None:
        told = self.people(act(EMPTY, FIRST))
        learned, alarms = self.hear(site, hub, (mailbox.FABRIC_KEY, 1, FIRST.to_json()))
        assert learned.state.fabric is None
        learned._take_sealed(told[0], seal(*told, hub.key))
        assert learned.state.desired == 1
        again, _ = self.hear(site, hub)
        assert (again.state.desired, alarms) == (1, [])

    def test_takes_nothing_that_only_the_hub_signed(self, site: SiteHome, hub: HubHome) -> None:
        forged = text(5000, before=FIRST)
        told = self.people(act(EMPTY, FIRST))
        learned, alarms = self.hear(
            site, hub, told, (mailbox.FABRIC_KEY, 1, FIRST.to_json()), (mailbox.FABRIC_KEY, 1, forged.to_json())
        )
        assert learned.state.fabric is not None
        assert learned.state.fabric.contracts["steady"].in_time.objective_ms == 500
        assert "is not what act 1 of human:ada applies" in alarms[0]

    def test_takes_no_other_people_than_those_it_was_enrolled_with(self, site: SiteHome, hub: HubHome) -> None:
        mallory = Holder("human:mallory", "M", PrivateKey.generate())
        learned, alarms = self.hear(site, hub, self.people(anchor=[mallory.identity(is_operator=True).to_json()]))
        assert learned.state.registry is None
        assert "other people" in alarms[0]

    def test_believes_the_sites_that_an_act_admits_and_no_others(self, site: SiteHome, hub: HubHome) -> None:
        roster = hub.roster()
        assert set(roster) == {"one"}
        invited = json.loads((hub.root / "invitations.json").read_bytes())["one"]["key"]
        admit = sign_act(EMPTY, "admit", {"site": "one", "key": invited}, key=ADA.key, now_s=NOW_S)
        removed = sign_act(after(EMPTY, admit), "remove-site", {"site": "one"}, key=ADA.key, now_s=NOW_S)
        listed = (mailbox.ROSTER_KEY, 1, {"sites": {**roster, "mallory": roster["one"]}})
        learned, _ = self.hear(site, hub, self.people(), listed)
        assert not learned.state.minters
        learned, _ = self.hear(site, hub, self.people(admit))
        assert set(learned.state.log_vkeys) == set(learned.state.minters.values()) == {"one"}
        again, _ = self.hear(site, hub)
        assert again.state.minters == learned.state.minters
        again, _ = self.hear(site, hub, self.people(admit, removed), (*listed[:1], 2, listed[2]))
        assert not again.state.minters

    def test_takes_no_other_history(self, site: SiteHome, hub: HubHome) -> None:
        rival = act(EMPTY, text(900))
        mine = self.people(act(EMPTY, FIRST))
        for told in (self.people(rival), self.people(rival, act(after(EMPTY, rival), text(901)))):
            learned, alarms = self.hear(site, hub, mine, told)
            assert learned.state.registry is not None
            assert learned.state.registry.head == ONE.head
            assert "does not go on from act 1" in alarms[-1]


def test_a_shorter_history_and_junk_are_refused() -> None:
    first = act(EMPTY, FIRST)
    document = {"anchor": ANCHOR, "acts": [first]}
    assert registry_from("acme", document, known=ONE) == ONE
    assert registry_from("acme", document, anchor=anchor_digest("acme", document)) == ONE
    for acts, code in (([], "people.history"), (["x.y.z"], "people.act"), ([first, "x.y.z"], "people.act")):
        with pytest.raises(IntegrityError) as caught:
            registry_from("acme", {"anchor": ANCHOR, "acts": acts}, known=ONE)
        assert caught.value.code == code


class TestBook:
    @pytest.fixture
    def home(self, tmp_path: Path) -> HubHome:
        home = HubHome.open(tmp_path, "acme")
        home.save_people({"anchor": ANCHOR, "acts": []})
        return home

    def test_keeps_documents_and_act_and_finds_them_again(self, home: HubHome) -> None:
        book = ActBook(home)
        assert book.desired() is None
        assert book.enter_desired(act(EMPTY, FIRST), FIRST) == 1
        second = text(600, before=FIRST)
        assert book.enter_desired(act(ONE, second), second) == 2
        assert ActBook(home).desired() == (2, second)
        assert len(list(home.root.glob("desired-*.json"))) == 1

    def test_refuses_other_documents_other_acts_and_a_lock_out(self, home: HubHome) -> None:
        book = ActBook(home)
        never = text(policy='forbid (principal, action == Action::"administer", resource);')
        enrol = sign_act(EMPTY, "retire", {"id": "human:eve"}, key=ADA.key, now_s=NOW_S)
        for signed, desired in ((act(EMPTY, FIRST), text(1)), (enrol, FIRST), (act(EMPTY, never), never), ("", FIRST)):
            with pytest.raises(AuthorityError) as caught:
                book.enter_desired(signed, desired)
            assert caught.value.code == "act.refused"
        assert book.document["acts"] == []

    def test_policies_may_forbid_operators_to_enrol(self, home: HubHome) -> None:
        book = ActBook(home)
        book.enter_desired(act(EMPTY, FIRST), FIRST)
        retire = sign_act(book.registry, "retire", {"id": "human:eve"}, key=BOB.key, now_s=NOW_S)
        with pytest.raises(AuthorityError, match="only-ada"):
            book.enter(retire, text(policy=ONLY_ADA))
        assert book.enter(retire, FIRST).seq == 2
        with pytest.raises(AuthorityError, match="with its documents"):
            book.enter(act(book.registry, text(9)), FIRST)
