"""A revision on its way to every site: acknowledged, tried in shadow, promoted, taken back, and rejected by Envoy."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.fabric import POLICY, SITES, RunningFabric, running_fabric, until
from support.policy_change import change_under_load

KONSTANZ, FRANKFURT = SITES
STRICTER = (
    POLICY
    + """
@id("lakeside-at-home")
forbid (principal, action == Action::"execute", resource)
when { context.contract == Contract::"lakeside" };
"""
)


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFabric]:
    with running_fabric(tmp_path_factory.mktemp("r")) as running:
        running.token(KONSTANZ, "lakeside")
        yield running


def command(fabric: RunningFabric, *words: str) -> str:
    done = fabric.run(*words, "--state", str(fabric.state))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rollout(fabric: RunningFabric) -> dict[str, Any]:
    return dict(json.loads(command(fabric, "rollout", "--json")))


def policies(fabric: RunningFabric, text: str) -> None:
    (fabric.directory / "bounds.cedar").write_text(text)


def test_every_site_acknowledges_a_revision_with_its_time(fabric: RunningFabric) -> None:
    before_s = time.time()
    policies(fabric, POLICY + "// the same, said again\n" + POLICY.replace("agents-may", "agents-may-too"))
    command(fabric, "apply", str(fabric.path), "--yes")
    found = until(lambda: (r := rollout(fabric))["rollout"]["complete_s"] and r, "both acknowledged")
    assert set(found["rollout"]["in_force"]) == set(SITES)
    assert all(before_s - 1 < since_s < time.time() + 1 for since_s in found["rollout"]["in_force"].values())
    assert [each["revision"] for each in found["revisions"]] == [1, 2]
    for site in SITES:  # each site's own log says so, with the policies' text
        activations = until(
            lambda site=site: [r for r in fabric.entries(site) if r["kind"] == "activation" and r["desired"] == 2],
            "the activation is recorded",
        )
        assert "agents-may-too" in activations[0]["policies"]


def test_a_candidate_decides_nothing_and_is_counted_by_site_contract_and_policy(fabric: RunningFabric) -> None:
    policies(fabric, STRICTER)
    command(fabric, "apply", str(fabric.path), "--shadow")
    until(lambda: "candidate" in _last_outcome(fabric), "the journal has what the candidate says")
    start = rollout(fabric)["shadow"]["sites"].get(KONSTANZ, {}).get("lakeside", {"tried": 0, "would_deny": 0})
    for _ in range(5):
        assert fabric.call(KONSTANZ, "lakeside").status_code == 200
        assert fabric.call(KONSTANZ, "anywhere").status_code == 200

    def counted() -> dict[str, Any] | None:
        sites = rollout(fabric)["shadow"]["sites"]
        here = sites.get(KONSTANZ, {})
        # Earlier tries may be counted after `start` was read: one contract's count does not tell of the other's.
        are_in = {"lakeside", "anywhere"} <= here.keys() and here["lakeside"]["tried"] >= start["tried"] + 5
        return sites if are_in else None

    sites = until(counted, "the shadow's counts arrive")
    lakeside, anywhere = sites[KONSTANZ]["lakeside"], sites[KONSTANZ]["anywhere"]
    assert lakeside["would_deny"] == lakeside["tried"] == lakeside["by_policy"]["lakeside-at-home"]
    assert (anywhere["would_deny"], anywhere["would_allow"]) == (0, 0)
    assert "lakeside-at-home" in command(fabric, "rollout")


def _last_outcome(fabric: RunningFabric) -> dict[str, Any]:
    answer = fabric.call(KONSTANZ, "lakeside")
    assert answer.status_code == 200
    records = fabric.wait_recorded(answer.headers["x-isochrone-execution"])["records"]
    outcome = next(r for r in (json.loads(each["record"]) for each in records) if r["kind"] == "outcome")
    return dict(outcome["under"])


def test_what_ran_in_shadow_is_promoted_and_taken_back(fabric: RunningFabric) -> None:
    token = fabric.token(KONSTANZ, "lakeside")
    command(fabric, "promote", "--yes")
    until(lambda: fabric.call(KONSTANZ, "lakeside", token).status_code != 200, "the candidate is in force")
    assert rollout(fabric)["shadow"] is None
    assert fabric.run("promote", "--yes", "--state", str(fabric.state)).returncode == 1
    assert "candidate" not in json.dumps(fabric.report(KONSTANZ)["shadow"])
    revision = rollout(fabric)["rollout"]["revision"]

    command(fabric, "rollback", "--yes")
    until(lambda: fabric.call(KONSTANZ, "lakeside", token).status_code == 200, "the revision before is in force again")
    found = rollout(fabric)
    assert found["rollout"]["revision"] == revision + 1
    kept = fabric.ask_hub("GET", f"/revisions/{revision + 1}")
    assert kept["policies"] == fabric.ask_hub("GET", f"/revisions/{revision - 1}")["policies"]


def test_a_revision_that_is_not_kept_cannot_be_gone_back_to(fabric: RunningFabric) -> None:
    done = fabric.run("rollback", "--to", "999", "--yes", "--state", str(fabric.state))
    assert done.returncode == 1
    assert "no revision 999" in done.stderr


def test_a_revision_that_envoy_rejects_keeps_the_last_good_and_is_an_alarm(fabric: RunningFabric) -> None:
    """A listener that cannot be bound: only Envoy can find that out."""
    policies(fabric, STRICTER)
    text = fabric.text()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        fabric.path.write_text(text.replace("vendor: mainkraft,", f'vendor: mainkraft, peer_address: "{address}",'))
        done = fabric.run("apply", str(fabric.path), "--yes", "--timeout", "8", "--state", str(fabric.state))
        assert done.returncode == 1, done.stdout
        found = rollout(fabric)["rollout"]
        assert FRANKFURT in found["rejected"], found
        assert found["complete_s"] is None
        assert "rejected, the last good goes on" in command(fabric, "status")
        # The last good goes on: Frankfurt serves what it served, and says by which revision.
        assert fabric.call(FRANKFURT, "anywhere").status_code == 200
        assert fabric.report(FRANKFURT)["desired"] == found["revision"] - 1
        command(fabric, "rollback", "--yes")
    found = until(lambda: (r := rollout(fabric)["rollout"])["complete_s"] and r, "rolled back everywhere")
    assert not found["rejected"]
    fabric.path.write_text(text)
    findings = [r for r in fabric.entries(FRANKFURT) if r["kind"] == "finding" and r["what"] == "rejected"]
    assert len(findings) == 1


def test_a_change_under_load_leaves_no_request_between_the_revisions(fabric: RunningFabric) -> None:
    """Last in the file: afterwards the callers' agent may do nothing."""
    policies(fabric, POLICY)
    command(fabric, "apply", str(fabric.path), "--yes")
    change = change_under_load(fabric, 1.0, 1.0)
    assert set(change.in_force_s) == set(SITES)
    assert change.decided["old"] > 0
    assert change.decided["new"] > 0
    assert (change.decided["neither"], change.lost) == (0, 0), change
