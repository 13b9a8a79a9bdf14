"""Data that must stay in Germany, while everything else goes wrong: how many requests were tried, how many left?

Three real Envoys. Zurich is out of bounds for `bounded-audio`, and is tempted in every way there is: the plan prefers
it, sites die, addresses lie, clients override, a hostile site signs. A violation is one request of that contract that
reaches Zurich's model server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from support.fabric_of_envoys import FRANKFURT, KONSTANZ, SITES, ZURICH, FabricOfEnvoys, running

CONTRACT = "bounded-audio"
EACH = 40
OVERRIDES: list[dict[str, str]] = [
    {"x-isochrone-contract": "line-audio"},
    {"x-isochrone-sites": f"|{ZURICH}|"},
    {"x-isochrone-ingress": ZURICH, "x-isochrone-meant": ZURICH},
    {"x-isochrone-data-class": "public", "x-isochrone-workload": "chat"},
    {"x-envoy-original-dst-host": "ZURICH-MODEL"},
    {"x-envoy-upstream-alt-stat-name": "x", "x-envoy-retry-on": "5xx", "x-envoy-max-retries": "9"},
    {"x-envoy-decorator-operation": "x", "x-envoy-hedge-on-per-try-timeout": "true"},
    {"host": "zurich", "x-forwarded-host": "zurich"},
    {"x-isochrone-deadline-ms": "19"},
]


class Tally:
    """What was tried and where it ended."""

    def __init__(self, fabric: FabricOfEnvoys) -> None:
        self.fabric, self.outcomes, self.tried = fabric, Counter[str](), 0

    def call(self, site: str, token: str, **options: Any) -> None:
        self.tried += 1
        try:
            answer = self.fabric.call(site, token, **options)
        except OSError:
            self.outcomes["no connection"] += 1
            return
        self.outcomes[answer.json["site"] if answer.status == 200 else answer.headers["x-isochrone-refused"]] += 1

    def rounds(self, *ingresses: str, token: str = "", count: int = EACH, **options: Any) -> None:
        for site in ingresses:
            for _ in range(count):
                self.call(site, token or self.fabric.token(ctr=CONTRACT), **options)

    @property
    def violations(self) -> int:
        """Requests of the contract that Zurich's model server was given."""
        seen = self.fabric.sites[ZURICH].model.seen
        return sum(CONTRACT in request.get("x-isochrone-contract") for request in seen)


@pytest.fixture(scope="module")
def tally() -> Iterator[Tally]:
    with running() as fabric:
        yield Tally(fabric)


def test_nothing_leaves_while_everything_goes_wrong(tally: Tally, capsys: pytest.CaptureFixture[str]) -> None:
    fabric = tally.fabric
    # The plan gives Zurich 90 % of the contract, and another contract is free to use it.
    tally.rounds(*SITES)
    assert fabric.call(ZURICH, fabric.token(), headers={"x-isochrone-deadline-ms": "12"}).site == ZURICH
    # A client overrides what it can think of.
    model = str(fabric.sites[ZURICH].model.address)
    for headers in OVERRIDES:
        tally.rounds(*SITES, count=4, headers={k: v.replace("ZURICH-MODEL", model) for k, v in headers.items()})
    # A hostile site signs grants that name Zurich.
    for claims in ({"sites": f"|{ZURICH}|"}, {"sites": "*"}, {"sites": f"|{ZURICH}|{KONSTANZ}|"}):
        tally.rounds(*SITES, count=10, token=fabric.token(ZURICH, ctr=CONTRACT, **claims))
    # Reports lie: Zurich's address is published as Frankfurt's, and Konstanz's as Zurich's.
    lies = {FRANKFURT: fabric.sites[ZURICH].peer, ZURICH: fabric.sites[FRANKFURT].peer}
    fabric.publish(KONSTANZ, peers=lies)
    tally.rounds(KONSTANZ, token=fabric.token(ctr=CONTRACT, sites=f"|{FRANKFURT}|"))
    tally.rounds(KONSTANZ)
    fabric.publish(KONSTANZ)
    # Sites in bounds die one after the other, until Zurich alone is left.
    for gone in (FRANKFURT, KONSTANZ):
        fabric.sites[gone].kill()
        tally.rounds(*(site for site in SITES if fabric.sites[site].process is not None))
    tally.rounds(ZURICH, token=fabric.token(ZURICH, ctr=CONTRACT, sites=f"|{ZURICH}|"))
    fabric.start(FRANKFURT, KONSTANZ)
    tally.rounds(*SITES)
    with capsys.disabled():
        print(f"\nresidency: {tally.tried} requests tried, {tally.violations} violations; {dict(tally.outcomes)}")
    assert tally.tried > 600
    assert tally.violations == 0
    assert tally.outcomes[ZURICH] == 0
    assert tally.outcomes[KONSTANZ] > 200
