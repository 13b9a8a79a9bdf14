"""Snapshot: the immutable, self-consistent set of files that one Envoy is handed.

The same view gives the same bytes. A snapshot that names a cluster it does not contain is a defect and is refused here,
before Envoy sees it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from isochrone.authority.revocation import DenyMap
from isochrone.forward.clusters import clusters
from isochrone.forward.filters import REVOCATION, REVOCATION_RECENT, revocation_resource
from isochrone.forward.listeners import ingress_listener, peer_listener
from isochrone.forward.routes import ingress_routes, peer_routes
from isochrone.forward.view import Files, SiteView
from isochrone.forward.xds import Json, any_of, discovery

__all__ = ["RECENT_FILE", "Snapshot", "bootstrap", "compile_site", "revocation_file"]

RECENT_FILE = f"ecds/{REVOCATION_RECENT}.json"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Discovery files by path below the xds directory, in make-before-break order."""

    files: Mapping[str, bytes]

    @property
    def versions(self) -> dict[str, str]:
        """`version_info` by file, as Envoy's admin endpoint shows it once the file is in force."""
        return {name: str(json.loads(data)["version_info"]) for name, data in self.files.items()}


def compile_site(view: SiteView) -> Snapshot:
    """Compile everything one site's Envoy follows.

    Raises:
        ValueError: the result is inconsistent (a defect of the compiler, not of the input).
    """
    made = clusters(view)
    routes = {"rds/ingress.json": ingress_routes(view), "rds/peer.json": peer_routes(view)}
    _check_consistent(made, routes)
    files = {"cds/clusters.json": discovery([any_of("envoy.config.cluster.v3.Cluster", **each) for each in made])}
    files[f"ecds/{REVOCATION}.json"] = revocation_file(view.deny)
    files[RECENT_FILE] = revocation_file(view.deny_recent, REVOCATION_RECENT)
    files |= {name: discovery([each]) for name, each in routes.items()}
    files["lds/listeners.json"] = discovery([ingress_listener(view), peer_listener(view)])
    return Snapshot(files)


def revocation_file(deny: DenyMap, name: str = REVOCATION) -> bytes:
    """One of the two revocation maps alone. The large one stays the same for long and is not made anew each time."""
    return _revocation_file(name, tuple(sorted(deny.items())))


@lru_cache(maxsize=4)
def _revocation_file(name: str, deny: tuple[tuple[str, frozenset[str]], ...]) -> bytes:
    return discovery([revocation_resource(name, dict(deny))])


def bootstrap(files: Files) -> bytes:
    """What Envoy is started with: where to find everything else. It never changes while a site lives."""

    def source(name: str) -> Json:
        directory, _, file = name.rpartition("/")
        path = f"{files.xds}/{directory}"
        return {
            "path_config_source": {"path": f"{path}/{file}", "watched_directory": {"path": path}},
            "resource_api_version": "V3",
        }

    document = {
        "admin": {"address": {"pipe": {"path": files.admin, "mode": 0o600}}},
        "dynamic_resources": {"cds_config": source("cds/clusters.json"), "lds_config": source("lds/listeners.json")},
        "layered_runtime": {
            "layers": [
                {"name": "static", "static_layer": {"re2": {"max_program_size": {"error_level": 1000}}}},
                {"name": "admin", "admin_layer": {}},
            ]
        },
        # A cluster takes a hundred counters and more: those of one that nothing was ever sent to are not made.
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": any_of(
                        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        max_active_downstream_connections=50_000,
                    ),
                }
            ]
        },
    }
    return (json.dumps(document, sort_keys=True, indent=1) + "\n").encode()


def _check_consistent(made: list[Json], routes: Mapping[str, Json]) -> None:
    names = {str(cluster["name"]) for cluster in made}
    inner = {
        name for each in made if "cluster_type" in each for name in each["cluster_type"]["typed_config"]["clusters"]
    }
    missing = (inner | {name for route in routes.values() for name in _named_clusters(route)}) - names
    if missing:
        raise ValueError(f"routes or chains name clusters that do not exist: {sorted(missing)}")


def _named_clusters(value: Any) -> set[str]:
    """Every cluster a route configuration names, however deep."""
    if isinstance(value, list):
        return {name for item in value for name in _named_clusters(item)}
    if not isinstance(value, dict):
        return set()
    found = {name for item in value.values() for name in _named_clusters(item)}
    if isinstance(value.get("cluster"), str):
        found.add(value["cluster"])
    for weighted in value.get("weighted_clusters", {}).get("clusters", []):
        found.add(weighted["name"])
    return found
