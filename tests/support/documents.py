"""Fabrics, plans and reports for tests: what a test does not speak of has a usual value.

JSON is YAML: the text of a fabric is a document as users write it, and goes through the same parser.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from isochrone.control.report import SiteReport
from isochrone.model.document import parse_fabric
from isochrone.model.fabric import Fabric
from isochrone.plan.plan import Plan, Prices

Json = dict[str, Any]

AT: dict[str, Json] = {
    "konstanz": {"lat": 47.66, "lon": 9.18},
    "zurich": {"lat": 47.37, "lon": 8.54},
    "frankfurt": {"lat": 50.11, "lon": 8.68},
    "ashburn": {"lat": 39.04, "lon": -77.49},
}
PROCESS: Json = {"kind": "process", "command": ["serve", "{port}"]}


def site(place: str = "konstanz", **changes: Any) -> Json:
    """An edge site in Germany with four units of `cpu`."""
    usual = {"tier": "edge", "jurisdiction": "DE", "vendor": "v", "hardware": {"cpu": {"units": 4}}}
    return {"at": AT[place], **usual, **changes}


def external(*sites: str) -> Json:
    """A runtime that is there already, at these sites."""
    return {"kind": "external", "at": {name: f"127.0.0.1:{port}" for port, name in enumerate(sites, start=1)}}


def workload(
    p50_ms: float = 1, p99_ms: float = 4, *, runtime: Json = PROCESS, hardware: str = "cpu", **service: Any
) -> Json:
    """A model over HTTP, with its service times and the rest of what is declared of its service on one hardware."""
    declared = {"duration": {"p50_ms": p50_ms, "p99_ms": p99_ms}, "rps_max": 100, **service}
    return {"protocol": "http", "model": {"name": "m"}, "runtime": runtime, "service": {hardware: declared}}


def contract(workload: str, objective_ms: float, **changes: Any) -> Json:
    """A promise of a time for the whole answer."""
    return {"workload": workload, "in_time": {"objective_ms": objective_ms}, **changes}


def document(
    sites: Mapping[str, Json], workloads: Mapping[str, Json], contracts: Mapping[str, Json], *, name: str = "pair",
    **more: Any,
) -> str:  # fmt: skip
    """The text of a fabric document."""
    nouns = {"sites": dict(sites), "workloads": dict(workloads), "contracts": dict(contracts)}
    return json.dumps({"name": name, **nouns, **more}, indent=1)


def fabric(
    sites: Mapping[str, Json], workloads: Mapping[str, Json], contracts: Mapping[str, Json], *, name: str = "pair",
    **more: Any,
) -> Fabric:  # fmt: skip
    """What `document` says, parsed."""
    return parse_fabric(document(sites, workloads, contracts, name=name, **more), "fabric.yaml")


def plan(**changes: Any) -> Plan:
    """The first plan of a hub that had nothing to plan."""
    usual: Json = {
        "revision": 1, "fabric_digest": "", "reach_digest": "", "placements": {}, "hardware": {}, "placed_since": {},
        "routes": {}, "limits": {}, "prices": Prices(), "shortfalls": (), "objective": 0.0, "solved_s": 0.0,
        "placed_s": 0.0, "gap": 0.0, "placement_gap": 0.0,
    }  # fmt: skip
    return Plan(**(usual | changes))


def report(site: str, at_s: float = 1.0, **changes: Any) -> SiteReport:
    """What a site that has desired state 1 and plan 1 in force tells the hub."""
    usual: Json = {
        "site": site, "boot": "b", "at_s": at_s, "ingress": "127.0.0.1:1", "peer": "127.0.0.1:2", "ready": {},
        "desired": 1, "plan": 1, "epoch": 0,
    }  # fmt: skip
    return SiteReport(**(usual | changes))
