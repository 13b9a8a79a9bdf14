"""Does a trace hold on true evidence, and break exactly at the step whose evidence was tampered with?"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isochrone.authority.delegation import VerifiedChain
from isochrone.authority.grant import Grant, tag
from isochrone.authority.testing import NOW_S, World
from isochrone.policy.policies import PolicySet
from isochrone.record.canonical import Record, encode
from isochrone.record.records import SiteIdentity, activation, exchange
from isochrone.record.trace import Trace, trace
from isochrone.serve.enrolment import log_origin
from isochrone.serve.logstore import FileLogStore
from isochrone.serve.shard import proof_of
from isochrone.tlog.note import Signer
from isochrone.tlog.reader import LogReader
from isochrone.tlog.writer import LogWriter

WORLD = World()
VIE = SiteIdentity("vie", "edge", "acme-metal", "AT")
TEXT = '@id("all")\npermit (principal, action, resource);'
DIGEST = PolicySet.parse({"all.cedar": TEXT}).digest
ID = "6f9f0d3e"
SIGNERS = {site: Signer(log_origin("acme", site), site.encode().ljust(32, b".")) for site in ("vie", "ber")}
VKEYS = {site: signer.vkey for site, signer in SIGNERS.items()}

IN_LOG = "is in its log"
RECORDED = "the execution has a record"
GRANTED = "its grant was recorded when it was given"
HUMAN = "the chain leads to a human"
NOBODY_ELSE = "the record names this chain and nobody else"
IN_TIME = "the grant was valid when the execution began"
POLICY = "the policies in force are on record"
WHERE = "it ran where the grant allows"


def chain_and_grant(hops: int = 3, **options: Any) -> tuple[VerifiedChain, Grant]:
    chain = WORLD.verified(hops)
    grant = WORLD.grant(chain, **options)
    assert isinstance(grant, Grant)
    return chain, grant


def records() -> dict[str, Record]:
    """An execution at Vienna, the exchange it rests on, and the policies in force."""
    chain, grant = chain_and_grant()
    claims = grant.claims
    outcome: Record = {
        "v": 1, "kind": "outcome", "id": ID, "role": "ingress", "where": VIE.to_json(),
        "start_us": int((NOW_S + 5) * 1e6), "request": {"method": "POST", "path": "/v1/chat"},
        "who": {
            "human": chain.human, "agent": chain.last.agent, "grant": claims["jti"], "chain": chain.digest,
            "hops": [tag(hop.id) for hop in chain.hops], "keys": [], "client": "127.0.0.1",
        },
        "what": {"contract": "ward-chat", "workload": "chat", "data_class": "health"},
        "via": {"ingress": "vie", "executing_site": "vie", "peer": None},
        "under": {"policy_in_force": DIGEST, "sites_granted": claims["sites"]},
        "result": {"status": 200, "detail": "via_upstream", "duration_us": 900},
    }  # fmt: skip
    active = activation(VIE, int(NOW_S * 1e6), 1, 1, 0, {"all": TEXT}) | {"policy": DIGEST}
    given = exchange(VIE, int(NOW_S * 1e6), WORLD.chain(3), "ward-chat", claims, [])
    return {"outcome": outcome, "exchange": given, "activation": active}


def logged(directory: Path, site: str, entries: list[Record], signer: Signer | None = None) -> dict[str, Any]:
    """The answer of a site whose log holds these records."""
    signer = signer or SIGNERS[site]
    store = FileLogStore(directory / f"{site}-{len(list(directory.iterdir()))}")
    writer = LogWriter.open(store, signer, signer.name)
    writer.append([encode(entry) for entry in entries], b"")
    writer.publish(int(NOW_S))
    reader = LogReader(store, signer.verifier, signer.name)
    reader.checkpoint()
    answer = {"site": site, "records": [proof_of(reader, number) for number in range(len(entries))]}
    store.close()
    return answer


def traced(evidence: Any, execution: str = f"vie/{ID}", vkeys: dict[str, str] = VKEYS) -> Trace:
    return trace(evidence, execution, vkeys, WORLD.registry, WORLD.groups)


def broken(found: Trace) -> list[str]:
    return [step.title for step in found.steps if not step.held]


@pytest.fixture
def evidence(tmp_path: Path) -> list[dict[str, Any]]:
    return [logged(tmp_path, "vie", list(records().values()))]


def test_true_evidence_holds_step_by_step(evidence: list[dict[str, Any]]) -> None:
    found = traced(evidence)
    assert broken(found) == []
    assert found.held
    titles = [step.title for step in found.steps]
    assert titles[3:] == [RECORDED, GRANTED, HUMAN, NOBODY_ELSE, IN_TIME, POLICY, WHERE]
    assert [step.number for step in found.steps] == list(range(1, 11))
    assert found.chain is not None
    assert found.chain.human_name == "Ada"


# --- evidence altered on its way ----------------------------------------------------------------------------------


def flip(text: str, at: int) -> str:
    return text[:at] + ("0" if text[at] != "0" else "1") + text[at + 1 :]


def in_record(each: dict[str, Any]) -> None:
    at = each["record"].index(ID) if ID in each["record"] else each["record"].index("1800000")
    each["record"] = flip(each["record"], at)


def in_proof(each: dict[str, Any]) -> None:
    lines = each["proof"].split("\n")
    lines[2] = ("A" if lines[2][0] != "A" else "B") + lines[2][1:]
    each["proof"] = "\n".join(lines)


def in_signature(each: dict[str, Any]) -> None:
    at = each["proof"].rindex("— ") + len(each["proof"].split("— ")[-1].split(" ")[0]) + 20
    each["proof"] = flip(each["proof"], at)


def in_root(each: dict[str, Any]) -> None:
    head, _, note = each["proof"].partition("\n\n")
    lines = note.split("\n")
    lines[2] = ("A" if lines[2][0] != "A" else "B") + lines[2][1:]
    each["proof"] = f"{head}\n\n" + "\n".join(lines)


@pytest.mark.parametrize("tamper", [in_record, in_proof, in_signature, in_root])
@pytest.mark.parametrize(("number", "follows"), [(0, RECORDED), (1, GRANTED), (2, POLICY)])
def test_one_flipped_character_breaks_that_record_and_what_rests_on_it(
    evidence: list[dict[str, Any]], tamper: Callable[[dict[str, Any]], None], number: int, follows: str
) -> None:
    tamper(evidence[0]["records"][number])
    wrong = broken(traced(evidence))
    assert wrong[:2] == [f"record {number} of vie {IN_LOG}", follows]
    # Without the exchange nothing says what was granted.
    assert wrong[2:] == ([WHERE] if follows == GRANTED else [])


def test_a_log_under_another_key_proves_nothing(evidence: list[dict[str, Any]], tmp_path: Path) -> None:
    other = Signer(SIGNERS["vie"].name, b"another".ljust(32, b"."))
    assert broken(traced(evidence, vkeys={"vie": other.vkey}))[:3] == [
        f"record {number} of vie {IN_LOG}" for number in range(3)
    ]
    forged = [logged(tmp_path, "vie", list(records().values()), signer=other)]
    assert broken(traced(forged))[-1] == RECORDED


def test_a_site_that_is_not_enrolled_proves_nothing(evidence: list[dict[str, Any]]) -> None:
    assert broken(traced(evidence, vkeys={})) == [f"record {n} of vie {IN_LOG}" for n in range(3)] + [RECORDED]


def test_a_record_of_another_site_is_not_taken_from_this_one(tmp_path: Path) -> None:
    parts = records()
    parts["outcome"]["where"] = VIE.to_json() | {"site": "ber"}
    found = traced([logged(tmp_path, "vie", list(parts.values()))])
    assert broken(found) == [f"record 0 of vie {IN_LOG}", RECORDED]


def test_a_proof_of_another_entry_does_not_do(evidence: list[dict[str, Any]]) -> None:
    first, second = evidence[0]["records"][:2]
    first["proof"], second["proof"] = second["proof"], first["proof"]
    assert broken(traced(evidence))[:2] == [f"record {n} of vie {IN_LOG}" for n in (0, 1)]


def test_another_execution_is_not_in_the_evidence(evidence: list[dict[str, Any]]) -> None:
    assert broken(traced(evidence, "vie/other")) == [RECORDED]
    assert broken(traced(evidence, f"ber/{ID}")) == [RECORDED]
    assert broken(traced(evidence, "nonsense")) == [RECORDED]


# --- records that are in the log and do not fit together ------------------------------------------------------------


def swap_hops(parts: dict[str, Record]) -> None:
    chain = parts["exchange"]["chain"]
    chain[1], chain[2] = chain[2], chain[1]


def drop_hop(parts: dict[str, Record]) -> None:
    del parts["exchange"]["chain"][1]


def other_chain(parts: dict[str, Record]) -> None:
    parts["exchange"]["chain"] = WORLD.chain(2)


def other_agent(parts: dict[str, Record]) -> None:
    parts["outcome"]["who"]["agent"] = "agent:mallory"


def other_human(parts: dict[str, Record]) -> None:
    parts["outcome"]["who"]["human"] = "human:ben"


def other_contract(parts: dict[str, Record]) -> None:
    parts["outcome"]["what"]["contract"] = "theatre"


def fewer_hops(parts: dict[str, Record]) -> None:
    parts["outcome"]["who"]["hops"].pop()


def other_grant(parts: dict[str, Record]) -> None:
    parts["outcome"]["who"]["grant"] = "grant-2"


def no_grant(parts: dict[str, Record]) -> None:
    parts["outcome"]["who"]["grant"] = None


def denied_exchange(parts: dict[str, Record]) -> None:
    parts["exchange"]["grant"] = None


def too_late(parts: dict[str, Record]) -> None:
    parts["outcome"]["start_us"] = (parts["exchange"]["grant"]["exp"] + 2) * 1_000_000


def too_early(parts: dict[str, Record]) -> None:
    parts["outcome"]["start_us"] = (parts["exchange"]["grant"]["iat"] - 2) * 1_000_000


def expired_chain(parts: dict[str, Record]) -> None:
    parts["exchange"]["start_us"] += 7200 * 1_000_000


def other_policy_text(parts: dict[str, Record]) -> None:
    parts["activation"]["policies"]["all"] = TEXT.replace("permit", "forbid")


def broken_policy_text(parts: dict[str, Record]) -> None:
    parts["activation"]["policies"]["all"] = "permit ("


def other_policy_digest(parts: dict[str, Record]) -> None:
    parts["outcome"]["under"]["policy_in_force"] = "0" * len(DIGEST)


def ran_elsewhere(parts: dict[str, Record]) -> None:
    parts["outcome"]["via"]["executing_site"] = "fra"


def claims_more_sites(parts: dict[str, Record]) -> None:
    parts["outcome"]["under"]["sites_granted"] = "*"
    parts["outcome"]["via"]["executing_site"] = "fra"


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        (swap_hops, [HUMAN]),
        (drop_hop, [HUMAN]),
        (other_chain, [NOBODY_ELSE]),
        (other_agent, [NOBODY_ELSE]),
        (other_human, [NOBODY_ELSE]),
        (other_contract, [NOBODY_ELSE]),
        (fewer_hops, [NOBODY_ELSE]),
        (other_grant, [GRANTED, WHERE]),
        (no_grant, [GRANTED, WHERE]),
        (denied_exchange, [GRANTED, WHERE]),
        (too_late, [IN_TIME]),
        (too_early, [IN_TIME]),
        (expired_chain, [HUMAN]),
        (other_policy_text, [POLICY]),
        (broken_policy_text, [POLICY]),
        (other_policy_digest, [POLICY]),
        (ran_elsewhere, [WHERE]),
        (claims_more_sites, [WHERE]),
    ],
)
def test_records_that_do_not_fit_break_exactly_their_step(
    tmp_path: Path, tamper: Callable[[dict[str, Record]], None], expected: list[str]
) -> None:
    parts = records()
    tamper(parts)
    found = traced([logged(tmp_path, "vie", list(parts.values()))])
    assert broken(found) == expected
    assert not found.held


def test_a_refusal_needs_no_place(tmp_path: Path) -> None:
    parts = records()
    parts["outcome"] |= {"kind": "refusal", "via": {"ingress": "vie", "executing_site": None, "peer": None}}
    found = traced([logged(tmp_path, "vie", list(parts.values()))])
    assert broken(found) == []
    assert found.steps[-1].title == "nothing was executed"


def test_the_exchange_may_be_on_record_at_another_site(tmp_path: Path) -> None:
    parts = records()
    parts["exchange"]["where"] = VIE.to_json() | {"site": "ber"}
    here = logged(tmp_path, "vie", [parts["outcome"], parts["activation"]])
    there = logged(tmp_path, "ber", [parts["exchange"]])
    assert broken(traced([here, there])) == []
    assert broken(traced([here])) == [GRANTED, WHERE]


# --- evidence of any form -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "evidence",
    [[], [{}], [{"site": "vie"}], [{"site": "vie", "records": None}], [{"site": 3, "records": [{}]}], [None], ["x"],
     [{"site": "vie", "records": [None, "x", {"record": 1, "proof": 2}, {"record": "{}", "proof": ""}]}]],
)  # fmt: skip
def test_evidence_of_any_form_is_broken_and_never_an_error(evidence: Any) -> None:
    found = traced(evidence)
    assert not found.held
    assert RECORDED in broken(found)


@pytest.mark.parametrize("part", ["outcome", "exchange", "activation"])
def test_a_site_may_log_records_of_any_form_and_no_step_holds_on_them(tmp_path: Path, part: str) -> None:
    """Every member replaced in turn: the trace must never raise, and never name another human."""
    whole = records()
    paths = [
        path for path in _paths(whole[part])
        if path[0] in ("who", "what", "via", "under", "result", "grant", "chain", "start_us", "kind", "id", "policies")
    ]  # fmt: skip
    for path in paths:
        for value in (None, "x", []):
            parts = copy.deepcopy(whole)
            _put(parts[part], path, value)
            found = traced([logged(tmp_path, "vie", list(parts.values()))])
            assert found.chain is None or found.chain.human == "human:ada", (path, value)


def _paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if not isinstance(value, dict):
        return [at]
    found = [at] if at else []
    for key, inner in value.items():
        found += _paths(inner, (*at, key))
    return found


def _put(record: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        record = record[key]
    record[path[-1]] = value


def test_evidence_survives_being_written_down(evidence: list[dict[str, Any]]) -> None:
    assert traced(json.loads(json.dumps(evidence))).held
