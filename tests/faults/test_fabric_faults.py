"""A running fabric whose parts are killed one by one: what keeps working, what is refused, and does it all come back?

One fabric for the whole file: every test leaves it as it found it, and the last ones end it.
"""

from __future__ import annotations

import collections
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest

from isochrone.errors import PeerError
from isochrone.forward.problem import MEDIA_TYPE
from isochrone.serve.exchange import STALE_AFTER_S
from support.fabric import SITES, RunningFabric, alive, running_fabric, until

KONSTANZ, FRANKFURT = SITES
GONE_S = 5.0


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFabric]:
    with running_fabric(tmp_path_factory.mktemp("f")) as running:
        yield running


@pytest.fixture
def healthy(fabric: RunningFabric) -> RunningFabric:
    if fabric.process is None:
        fabric.up()
    fabric.wait_up()
    return fabric


class Load:
    """Calls one site again and again, in the background; keeps every answer's status (0: no connection)."""

    def __init__(self, fabric: RunningFabric, site: str, contract: str = "anywhere") -> None:
        self.statuses: list[int] = []
        self.refusals: list[str] = []
        token = fabric.token(site, contract)
        self._thread = threading.Thread(target=self._run, args=(fabric, site, contract, token), daemon=True)
        self._end = threading.Event()

    def _run(self, fabric: RunningFabric, site: str, contract: str, token: str) -> None:
        while not self._end.is_set():
            try:
                answer = fabric.call(site, contract, token)
                self.statuses.append(answer.status_code)
                if answer.status_code != 200:
                    self.refusals.append(answer.text[:300])
            except httpx.HTTPError:
                self.statuses.append(0)
            time.sleep(0.02)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(20)

    @property
    def lost(self) -> list[int]:
        return [status for status in self.statuses if status != 200]

    def more(self, count: int) -> None:
        """Wait until so many calls more were answered."""
        target = len(self.statuses) + count
        until(lambda: len(self.statuses) >= target, f"{count} more calls")


def back(find: Callable[[], psutil.Process], old: psutil.Process) -> psutil.Process:
    """The process that took the place of one that was killed."""

    def other() -> psutil.Process | None:
        found = find()
        return found if found.pid != old.pid else None

    found = until(other, f"something takes the place of {old}")
    assert found is not None
    return found


# --- starting twice -----------------------------------------------------------------------------------------------


def test_a_second_up_on_the_same_state_is_refused_and_disturbs_nothing(healthy: RunningFabric) -> None:
    second = healthy.run("up", str(healthy.path), "--state", str(healthy.state))
    assert second.returncode == 1
    assert "is locked by process" in second.stderr
    assert "Traceback" not in second.stderr
    assert healthy.call(KONSTANZ).status_code == 200


def test_a_second_node_of_a_site_is_refused(healthy: RunningFabric) -> None:
    second = healthy.run("node", "--site", KONSTANZ, "--state", str(healthy.state))
    assert second.returncode == 1
    assert "is locked by process" in second.stderr


# --- model servers ------------------------------------------------------------------------------------------------


def test_a_model_server_that_dies_is_a_problem_document_and_it_comes_back(healthy: RunningFabric) -> None:
    healthy.models[KONSTANZ].stop()
    try:
        answer = until(lambda: not_ok(healthy, "lakeside"), "the dead model server shows")
        assert answer.status_code == 503
        assert answer.headers["content-type"] == MEDIA_TYPE
        assert answer.json()["type"].endswith(":unavailable")
    finally:
        healthy.models[KONSTANZ].start()
    until(lambda: healthy.call(KONSTANZ, "lakeside").status_code == 200, "it serves again")


def test_where_another_site_may_execute_a_dead_model_server_costs_nothing(healthy: RunningFabric) -> None:
    healthy.models[KONSTANZ].stop()
    try:
        answers = [healthy.call(KONSTANZ) for _ in range(20)]
    finally:
        healthy.models[KONSTANZ].start()
    assert collections.Counter(answer.status_code for answer in answers) == {200: 20}
    assert {answer.json()["answer"] for answer in answers} == {FRANKFURT}


BROKEN = """
  exits:
    protocol: http
    model: {name: exits}
    runtime:
      kind: process
      command: [sh, -c, "echo no weights for {port} >&2; exit 3"]
    service: {cpu: {duration: {p50_ms: 1, p99_ms: 4}, concurrency: 8, rps_max: 200}}
  sleeps:
    protocol: http
    model: {name: sleeps}
    runtime:
      kind: process
      command: [sh, -c, "echo still loading {port} >&2; exec sleep 300"]
      ready_timeout_s: 1
    service: {cpu: {duration: {p50_ms: 1, p99_ms: 4}, concurrency: 8, rps_max: 200}}
"""
TERMS = """
  needs-{name}:
    workload: {name}
    in_time: {{quantile: 0.9, objective_ms: 500}}
    in_bounds: {{sites: [konstanz]}}
    demand_rps: {{konstanz: 1}}
    price_per_1k: 1
    penalty_per_1k: 20
"""


def test_model_servers_that_never_become_ready_are_alarms_with_their_last_words(healthy: RunningFabric) -> None:
    contracts = TERMS.format(name="exits") + TERMS.format(name="sleeps")
    policies = {"bounds.cedar": (healthy.directory / "bounds.cedar").read_text()}
    try:
        with Load(healthy, KONSTANZ) as load:
            applied = healthy.apply(healthy.text(BROKEN, contracts), policies)
            assert applied["status_code"] == 200, applied

            def alarms() -> str:
                return "\n".join(healthy.report(KONSTANZ)["alarms"])

            until(lambda: "no weights for" in alarms(), "the one that exits is named")
            assert "exits.0" in alarms()
            assert "exit status 3" in alarms()
            until(lambda: "still loading" in alarms(), "the one that sleeps is named")
            assert "sleeps.0" in alarms()
            assert "not ready within 1 s" in alarms()
            load.more(20)
        assert load.lost == []
        refused = healthy.call(KONSTANZ, "needs-exits")
        assert (refused.status_code, refused.headers["content-type"]) == (503, MEDIA_TYPE)
    finally:
        healthy.apply(healthy.text(), policies)
    healthy.wait_up()
    until(
        lambda: not [p for p in healthy.processes() if "still loading" in " ".join(p.cmdline())],
        "its process is stopped with the workload",
    )


# --- Envoy and node -----------------------------------------------------------------------------------------------


def test_a_killed_envoy_is_started_again_and_serves(healthy: RunningFabric) -> None:
    old = healthy.envoy(KONSTANZ)
    old.kill()
    back(lambda: healthy.envoy(KONSTANZ), old)
    until(lambda: healthy.call(KONSTANZ).status_code == 200, "requests work again")
    assert any("Envoy died: SIGKILL" in alarm for alarm in healthy.report(KONSTANZ)["alarms"])


def test_a_killed_node_takes_its_envoy_along_comes_back_and_loses_no_record(healthy: RunningFabric) -> None:
    answered: list[str] = []
    for _ in range(30):
        answer = healthy.call(KONSTANZ)
        answered.append(answer.headers["x-isochrone-execution"].partition("/")[2])
    # Envoy holds lines back for 50 ms: what dies with it in that time is the stated gap of streamed evidence.
    journal = healthy.state / "sites" / KONSTANZ / "journal.jsonl"
    until(lambda: journal.read_text().count(answered[-1]) == 2, "both ends of the last request are journaled")
    node, envoy = healthy.node(KONSTANZ), healthy.envoy(KONSTANZ)
    node.kill()
    assert alive([envoy], GONE_S) == []
    back(lambda: healthy.node(KONSTANZ), node)
    until(lambda: healthy.call(KONSTANZ).status_code == 200, "requests work again")
    last = healthy.call(KONSTANZ).headers["x-isochrone-execution"]
    healthy.wait_recorded(last)
    records = healthy.entries(KONSTANZ)
    for kind in ("admission", "outcome"):
        ids = [record["id"] for record in records if record["kind"] == kind and record["role"] == "ingress"]
        counts = collections.Counter(ids)
        assert {identifier: counts[identifier] for identifier in answered} == dict.fromkeys(answered, 1), kind
        assert max(counts.values()) == 1, kind


# --- hub and bus --------------------------------------------------------------------------------------------------


def test_without_a_hub_sites_go_on_and_the_revision_continues(healthy: RunningFabric) -> None:
    before = healthy.status()
    old = healthy.hub()
    with Load(healthy, KONSTANZ) as here, Load(healthy, FRANKFURT) as there:
        old.kill()
        here.more(20)
        back(healthy.hub, old)
        until(lambda: set(healthy.status()["up"]) == set(SITES), "the new hub hears every site")
        there.more(50)
    assert (here.lost, there.lost) == ([], [])
    after = healthy.status()
    assert after["plan"] >= before["plan"]
    assert after["desired"] == before["desired"]
    assert {report["plan"] for report in after["sites"].values()} <= {after["plan"], after["plan"] - 1}
    assert not [alarm for alarm in after["alarms"] if "no site" in alarm]


def test_a_hub_that_restarts_keeps_what_was_applied_since_the_fabric_came_up(healthy: RunningFabric) -> None:
    policies = {"bounds.cedar": (healthy.directory / "bounds.cedar").read_text()}
    changed = healthy.text().replace("objective_ms: 500", "objective_ms: 400")
    assert healthy.apply(changed, policies)["status_code"] == 200
    applied = healthy.status()["desired"]
    old = healthy.hub()
    old.kill()
    back(healthy.hub, old)
    status = until(healthy.status, "the hub answers again")
    assert status["desired"] == applied
    assert status["nouns"]["contracts"]["anywhere"]["in_time"]["objective_ms"] == 400


def test_without_a_bus_grants_end_when_revocations_may_be_missed_and_executions_go_on(healthy: RunningFabric) -> None:
    nats = healthy.nats()
    token = healthy.token(KONSTANZ)
    plan = healthy.status()["plan"]
    # Stopped, not killed: killed it would be back at once.
    nats.suspend()
    cut_s = time.monotonic()
    try:
        assert healthy.source(KONSTANZ).token()
        assert time.monotonic() - cut_s < STALE_AFTER_S, "too slow a machine to tell"

        def refused() -> str:
            try:
                healthy.source(KONSTANZ).token()
            except PeerError as error:
                return str(error)
            return ""

        reason = until(refused, "a stale site mints nothing")
        assert "503" in reason
        assert "temporarily_unavailable" in reason
        answer = healthy.call(KONSTANZ, token=token)
        assert (answer.status_code, answer.headers["x-isochrone-plan"]) == (200, str(plan))
    finally:
        nats.resume()
    until(lambda: healthy.source(KONSTANZ).token(), "grants are minted again")


def test_a_killed_bus_is_started_again_and_costs_no_execution(healthy: RunningFabric) -> None:
    old, before = healthy.nats(), healthy.status()
    with Load(healthy, KONSTANZ) as here, Load(healthy, FRANKFURT) as there:
        old.kill()
        back(healthy.nats, old)

        def heard_again() -> bool:
            status = healthy.status()
            newer = all(status["sites"][site]["at_s"] > before["sites"][site]["at_s"] + 2 for site in SITES)
            return newer and set(status["up"]) == set(SITES)

        until(heard_again, "the hub hears the sites again")
        here.more(20)
        there.more(20)
    assert (here.lost, there.lost) == ([], [])
    assert healthy.source(KONSTANZ).token()
    # A bus that hung (the test before) is an alarm that stays; one that was killed and came back is none.
    assert not [alarm for alarm in healthy.status()["alarms"] if "no site" in alarm and alarm not in before["alarms"]]


# --- the end ------------------------------------------------------------------------------------------------------


def test_sigterm_ends_everything_and_the_same_state_serves_again(healthy: RunningFabric) -> None:
    held = healthy.token(KONSTANZ)
    first = healthy.call(KONSTANZ, token=held).headers["x-isochrone-execution"]
    bases = {site: healthy.base(site) for site in SITES}
    epoch, desired = healthy.status()["epoch"], healthy.status()["desired"]
    processes = healthy.processes()
    assert healthy.stop() == 0, healthy.output[-3000:]
    assert alive(processes, GONE_S) == []
    assert healthy.processes() == []
    sizes = {site: len(healthy.entries(site)) for site in SITES}

    healthy.up()
    assert {site: healthy.base(site) for site in SITES} == bases
    status = healthy.status()
    assert (status["epoch"], status["desired"]) == (epoch, desired)
    assert healthy.call(KONSTANZ, token=held).status_code in (200, 401)  # 401 once it has expired
    last = healthy.call(KONSTANZ).headers["x-isochrone-execution"]
    healthy.wait_recorded(last)
    for site in SITES:
        until(lambda site=site: len(healthy.entries(site)) > sizes[site], f"the log of {site} goes on")
        records = healthy.entries(site)
        ids = collections.Counter(
            (record["kind"], record["role"], record["id"]) for record in records if "role" in record
        )
        assert max(ids.values()) == 1
    kinds = {record["kind"] for record in healthy.entries(KONSTANZ) if record.get("id") == first.partition("/")[2]}
    assert kinds == {"admission", "outcome"}
    for site in SITES:
        _fsck(healthy, site)


def _fsck(fabric: RunningFabric, site: str) -> None:
    from isochrone.serve.enrolment import log_origin
    from isochrone.serve.home import SiteHome
    from isochrone.serve.logstore import FileLogStore
    from isochrone.tlog.fsck import fsck

    home = SiteHome(fabric.state / "sites" / site)
    store = FileLogStore(home.root / "log", writable=False)
    assert fsck(store, home.log_signer("pair", site).verifier, log_origin("pair", site)) == []


def test_a_killed_up_leaves_no_orphan(healthy: RunningFabric) -> None:
    processes = healthy.processes()
    names = {p.name() for p in processes}
    assert {"envoy", "nats-server"} <= names
    healthy.stop(signal.SIGKILL)
    assert alive(processes, GONE_S) == []
    assert until(lambda: not healthy.processes(), "nothing is left", GONE_S)


def test_a_site_starts_from_what_it_kept_while_hub_and_bus_are_away(healthy: RunningFabric) -> None:
    token = healthy.source(KONSTANZ, "lakeside").token()
    healthy.wait_up()
    healthy.stop()
    healthy.process = healthy.spawn("node", "--home", str(healthy.state / "sites" / KONSTANZ))
    try:
        answer = until(lambda: ok(healthy, token), "an unexpired grant is served")
        assert answer.json() == {"answer": KONSTANZ}
        with pytest.raises(PeerError, match="temporarily_unavailable"):
            healthy.source(KONSTANZ, "lakeside").token()
        execution = answer.headers["x-isochrone-execution"]
        kept_s = int((healthy.state / "sites" / KONSTANZ / "cache" / "plan.jwt").stat().st_mtime)
        stale = until(lambda: is_stale(healthy, token), "every answer says since when the hub is not heard")
        assert abs(int(stale.headers["x-isochrone-stale-since"]) - kept_s) <= 1
        told = healthy.run("status", "--site", healthy.base(KONSTANZ))
        assert "the hub is not heard" in told.stdout, told
        found = healthy.wait_recorded(execution)
        assert {json.loads(each["record"])["kind"] for each in found["records"]} >= {"admission", "outcome"}
    finally:
        assert healthy.stop() == 0, healthy.output[-3000:]


def not_ok(fabric: RunningFabric, contract: str) -> Any:
    answer = fabric.call(KONSTANZ, contract)
    return answer if answer.status_code != 200 else None


def is_stale(fabric: RunningFabric, token: str) -> Any:
    answer = fabric.call(KONSTANZ, "lakeside", token)
    return answer if "x-isochrone-stale-since" in answer.headers else None


def ok(fabric: RunningFabric, token: str) -> Any:
    answer = fabric.call(KONSTANZ, "lakeside", token)
    return answer if answer.status_code == 200 else None
