"""Is a request that one site is slow with answered by the next, with both attempts on the record and both in bounds?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from isochrone.forward.headers import EXECUTION
from isochrone.model.document import parse_fabric
from isochrone.plan.plan import Rung, Share
from isochrone.record.records import SiteIdentity, from_journal
from support.fabric_of_envoys import FABRIC, FRANKFURT, KONSTANZ, SITES, ZURICH, FabricOfEnvoys, until

HEDGE_MS = 100.0
IDENTITY = SiteIdentity(KONSTANZ, "edge", "seewerk", "DE")


def routes(site: str) -> dict[str, tuple[Rung, ...]]:
    """Zurich first, then Frankfurt; the plan is wrong for `bounded-audio`, from which Zurich is out of bounds."""
    far = Rung(20.0, (Share(ZURICH, 1.0),), (FRANKFURT, KONSTANZ), hedge_ms=HEDGE_MS, tries=3)
    return {
        "line-audio": (far,),
        "bounded-audio": (Rung(20.0, (Share(FRANKFURT, 1.0),), (ZURICH, KONSTANZ), hedge_ms=HEDGE_MS),),
        "assistant": (Rung(1000.0, (Share(KONSTANZ, 1.0),), (FRANKFURT,), hedge_ms=HEDGE_MS),),
    }


@pytest.fixture(scope="module")
def fabric() -> Iterator[FabricOfEnvoys]:
    made = FabricOfEnvoys()
    made.fabric = parse_fabric(FABRIC.replace("{workload:", "{hedge: true, workload:"))
    try:
        made.publish(routes=routes)
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(autouse=True)
def nobody_waits(fabric: FabricOfEnvoys) -> Iterator[None]:
    for site in fabric.sites.values():
        site.model.seen.clear()
    yield
    for site in fabric.sites.values():
        site.model.hold.set()


def attempts(fabric: FabricOfEnvoys, execution: str, count: int) -> list[tuple[str | None, int]]:
    """(executing site, status) of every attempt, as the ingress's records have them, in the order they began."""
    wanted = execution.rpartition("/")[2]
    names = {str(fabric.sites[site].peer): site for site in SITES}
    names[str(fabric.sites[KONSTANZ].model.address)] = KONSTANZ

    def found() -> list[tuple[str | None, int]]:
        journal = [line for line in fabric.sites[KONSTANZ].journal() if line["id"] == wanted]
        records = [from_journal(line, IDENTITY, names.get) for line in journal if line["type"] == "UpstreamEnd"]
        assert all(record["kind"] == "attempt" for record in records)
        records.sort(key=lambda record: record["start_us"])
        return [(record["via"]["executing_site"], record["result"]["status"]) for record in records]

    until(lambda: len(found()) == count, lambda: f"{count} attempts: {found()}")
    return found()


def test_a_quick_site_answers_alone(fabric: FabricOfEnvoys) -> None:
    answer = fabric.call()
    assert answer.site == ZURICH
    assert attempts(fabric, answer.headers[EXECUTION], 1) == [(ZURICH, 200)]
    assert fabric.sites[KONSTANZ].journal_end(answer.headers[EXECUTION])["attempts"] == 1


def test_a_slow_site_s_request_is_answered_by_the_next_and_both_are_recorded(fabric: FabricOfEnvoys) -> None:
    slow = fabric.sites[ZURICH]
    slow.model.hold.clear()
    answer = fabric.call(body=b"abc")
    assert answer.site == FRANKFURT
    both = attempts(fabric, answer.headers[EXECUTION], 2)
    assert both == [(ZURICH, 0), (FRANKFURT, 200)]
    assert [seen.body_bytes for seen in fabric.sites[FRANKFURT].model.seen] == [3], "the whole request was sent again"
    end = fabric.sites[KONSTANZ].journal_end(answer.headers[EXECUTION])
    assert (end["status"], end["attempts"]) == (200, 2)
    for site, status in ((FRANKFURT, 200), (ZURICH, 0)):
        there = fabric.sites[site].journal_end(answer.headers[EXECUTION])
        assert (there["role"], there["status"], there["ingress"]) == ("peer", status, KONSTANZ), "its own record"


def test_a_slow_model_server_of_the_ingress_itself_is_hedged_and_recorded_too(fabric: FabricOfEnvoys) -> None:
    fabric.sites[KONSTANZ].model.hold.clear()
    answer = fabric.call(token=fabric.token(ctr="assistant", wl="chat"), path="/v1/chat/completions")
    assert answer.site == FRANKFURT
    both = attempts(fabric, answer.headers[EXECUTION], 2)
    assert both == [(KONSTANZ, 0), (FRANKFURT, 200)]


def test_a_hedge_stays_in_bounds(fabric: FabricOfEnvoys) -> None:
    fabric.sites[FRANKFURT].model.hold.clear()
    answer = fabric.call(token=fabric.token(ctr="bounded-audio"))
    assert answer.site == KONSTANZ, "Zurich would have been next, and is out of bounds"
    assert fabric.sites[ZURICH].model.seen == []


def test_a_site_that_dies_while_it_is_slow_loses_nothing(fabric: FabricOfEnvoys) -> None:
    """Slow everywhere but at the last: the request goes on until one answers."""
    fabric.sites[ZURICH].model.hold.clear()
    fabric.sites[FRANKFURT].model.hold.clear()
    answer = fabric.call()
    assert answer.site == KONSTANZ
    assert [site for site, _ in attempts(fabric, answer.headers[EXECUTION], 3)] == [ZURICH, FRANKFURT, KONSTANZ]
