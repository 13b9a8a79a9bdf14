"""Clusters of one site: local model servers, the other sites, and chains of them in order of preference.

- ``exec/<contract>``: model servers on this site, with the contract's concurrency limit. Both listeners use it, so the
  limit counts every execution of the contract here, wherever it entered.
- ``peer/<site>``: the handover listener of another site, mutual TLS, HTTP/2.
- ``chain/<contract>/<a>+<b>``: an aggregate of the above: `a` is meant, `b` takes over when `a` cannot.

The upstream lock sits on every cluster a route can name. An aggregate runs its *own* upstream filters and never those
of the clusters inside it (measured on Envoy 1.40), so a lock on the inner cluster alone would not hold.
"""

from __future__ import annotations

from collections.abc import Iterable

from isochrone.forward.filters import AUTHORIZER
from isochrone.forward.secrets import CREDENTIAL, followed
from isochrone.forward.view import SiteView, site_uri
from isochrone.forward.xds import Address, Json, any_of, socket, typed

__all__ = ["chain_name", "clusters", "exec_name", "tls_context"]

NODE_API = "node-api"
_LIMIT_NONE = 1_000_000
_CONNECT_TIMEOUT = "1s"


def exec_name(contract: str) -> str:
    return f"exec/{contract}"


def chain_name(contract: str, sites: Iterable[str]) -> str:
    return f"chain/{contract}/{'+'.join(sites)}"


def chains_of(view: SiteView) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Every chain a route may name: cluster name -> (contract, sites in order)."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for entry in view.fib.entries:
        orders = [path.sites for path in entry.paths] + [(site,) for site in entry.candidates]
        for sites in orders:
            known = tuple(site for site in sites if site == view.site or site in view.peers)
            if known:
                found[chain_name(entry.contract, known)] = (entry.contract, known)
    return found


def clusters(view: SiteView) -> list[Json]:
    """All clusters, in the order of their names."""
    here = [contract for contract in sorted(view.fabric.contracts) if view.site in view.allowed.get(contract, ())]
    made = [_exec_cluster(view, contract) for contract in here]
    made += [_peer_cluster(view, site) for site in sorted(view.peers)]
    made += [_chain_cluster(view, name, *chain) for name, chain in chains_of(view).items()]
    made.append(_static(NODE_API, (view.node_api,)))
    made.append(_authorizer(view))
    return sorted(made, key=lambda cluster: str(cluster["name"]))


# --- the three kinds ----------------------------------------------------------------------------------------------


def _exec_cluster(view: SiteView, contract: str) -> Json:
    replicas = view.replicas.get(view.fabric.contracts[contract].workload, ())
    limit = view.fib.limits.get(contract, _LIMIT_NONE)
    return _static(exec_name(contract), replicas) | {
        "circuit_breakers": {"thresholds": [_threshold(limit)]},
        "typed_extension_protocol_options": _protocol("http_protocol_options", replicas),
    }


def _peer_cluster(view: SiteView, site: str) -> Json:
    health = "UNHEALTHY" if site in view.down else "HEALTHY"
    return _static(f"peer/{site}", (view.peers[site],), health) | {
        "transport_socket": _peer_tls(view, site),
        "circuit_breakers": {"thresholds": [_threshold(_LIMIT_NONE)]},
        # Only failures of the connection itself eject a peer: its refusals are answers.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 2,
            "enforcing_consecutive_5xx": 0,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
            "interval": "0.25s",
            "base_ejection_time": "2s",
            "max_ejection_time": "10s",
            "max_ejection_percent": 100,
        },
        "typed_extension_protocol_options": _protocol("http2_protocol_options", (view.peers[site],)),
    }


def _chain_cluster(view: SiteView, name: str, contract: str, sites: tuple[str, ...]) -> Json:
    inner = [exec_name(contract) if site == view.site else f"peer/{site}" for site in sites]
    return {
        "name": name,
        "connect_timeout": _CONNECT_TIMEOUT,
        # Retries count here, and Envoy allows three at a time by default: a dying site would cost the fourth request.
        "circuit_breakers": {"thresholds": [_threshold(_LIMIT_NONE)]},
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": typed(
            "envoy.clusters.aggregate", "envoy.extensions.clusters.aggregate.v3.ClusterConfig", clusters=inner
        ),
        # The lock is made from the bounds, not from the plan: a wrong weight meets it.
        "typed_extension_protocol_options": _protocol("http_protocol_options", _lock_addresses(view, contract)),
    }


def _authorizer(view: SiteView) -> Json:
    """The node's socket: a file that only this site's user opens, so no client can speak to it."""
    endpoint = {"endpoint": {"address": {"pipe": {"path": view.files.authorizer}}}}
    hosts = [endpoint] if view.files.authorizer else []
    return _static(AUTHORIZER, ()) | {
        "load_assignment": {"cluster_name": AUTHORIZER, "endpoints": [{"lb_endpoints": hosts}]},
        "circuit_breakers": {"thresholds": [_threshold(_LIMIT_NONE)]},
    }


def _lock_addresses(view: SiteView, contract: str) -> tuple[Address, ...]:
    allowed = view.allowed.get(contract, frozenset())
    remote = [view.peers[site] for site in sorted(allowed) if site in view.peers]
    local = view.replicas.get(view.fabric.contracts[contract].workload, ()) if view.site in allowed else ()
    return (*remote, *local)


# --- pieces -------------------------------------------------------------------------------------------------------


def _static(name: str, addresses: Iterable[Address], health: str = "HEALTHY") -> Json:
    """Endpoints stand in the cluster itself: a file of their own would cost one inotify instance each, of which Linux
    gives a user 128 by default, and Envoy aborts when it gets none (measured with 4 Envoys of 11 clusters)."""
    hosts = [{"endpoint": {"address": socket(address)}, "health_status": health} for address in addresses]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": _CONNECT_TIMEOUT,
        "lb_policy": "LEAST_REQUEST",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}] if hosts else []},
    }


def _threshold(limit: int) -> Json:
    return {
        "max_requests": limit,
        "max_pending_requests": limit,
        "max_connections": _LIMIT_NONE,
        "max_retries": _LIMIT_NONE,
    }


def _protocol(kind: str, allowed: Iterable[Address]) -> Json:
    """HTTP options of a cluster, with the upstream lock: the last check, on the address actually chosen."""
    return {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": any_of(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            explicit_http_config={kind: {}},
            http_filters=[
                typed(
                    "envoy.filters.http.upstream_rbac",
                    "envoy.extensions.filters.http.rbac.v3.RBAC",
                    rules={"action": "ALLOW", "policies": _lock(allowed)},
                ),
                typed(
                    "envoy.filters.http.upstream_codec",
                    "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
                ),
            ],
        )
    }


def _lock(allowed: Iterable[Address]) -> Json:
    permissions = [
        {
            "matcher": typed(
                "envoy.rbac.matchers.upstream_ip_port",
                "envoy.extensions.rbac.matchers.upstream_ip_port.v3.UpstreamIpPortMatcher",
                upstream_ip={"address_prefix": address.host, "prefix_len": 128 if ":" in address.host else 32},
                upstream_port_range={"start": address.port, "end": address.port + 1},
            )
        }
        for address in sorted(set(allowed))
    ]
    # An ALLOW rule set without policies allows nothing: that is what no allowed address must mean.
    return {"in-bounds": {"permissions": permissions, "principals": [{"any": True}]}} if permissions else {}


def _peer_tls(view: SiteView, site: str) -> Json:
    return typed(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        sni=site,
        common_tls_context=tls_context(view, [site_uri(view.fabric.name, site)]),
    )


def tls_context(view: SiteView, uris: Iterable[str]) -> Json:
    """TLS 1.3 with this site's certificate; the other end's must come from the fabric's authority and carry a URI of
    these, of which there must be one: Envoy takes an empty list for no condition."""
    names = [{"san_type": "URI", "matcher": {"exact": uri}} for uri in uris]
    if not names:
        raise ValueError("a TLS context that expects nobody would accept everybody")
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [followed(view.files, CREDENTIAL)],
        "validation_context": {
            "trusted_ca": {"filename": f"{view.files.identity}/trust.pem"},
            "match_typed_subject_alt_names": names,
        },
    }
