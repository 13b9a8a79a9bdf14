"""Listeners of one site: `ingress`, where clients enter, and `peer`, where other sites hand over executions."""

from __future__ import annotations

import hashlib
import json

from isochrone.forward import filters
from isochrone.forward.clusters import tls_context
from isochrone.forward.journal import LIVE_INTERVAL, access_log, attempt_log
from isochrone.forward.problem import local_replies
from isochrone.forward.routes import INGRESS_ROUTES, PEER_ROUTES
from isochrone.forward.secrets import CREDENTIAL, INGRESS_CREDENTIAL, followed
from isochrone.forward.view import SiteView, members
from isochrone.forward.xds import Json, any_of, path_source, socket, typed

__all__ = ["counters_of", "ingress_listener", "peer_listener"]

_HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def ingress_listener(view: SiteView) -> Json:
    """Clients: a verified grant, the compiled policy, no revoked link in the chain, its allowance, then the FIB."""
    return _ingress_listener(view, counters_of(view))


def _ingress_listener(view: SiteView, counters: str) -> Json:
    candidate = view.candidate
    chain = [
        filters.grant(view),
        filters.binding(ends_tls=view.fabric.sites[view.site].ends_tls),
        # Every route switches one of the two off: what this site would execute, some site would.
        filters.policy(filters.POLICY_ANYWHERE, view.anywhere_rules, candidate.anywhere if candidate else None),
        filters.policy(filters.POLICY_HERE, view.rules, candidate.here if candidate else None),
        filters.revocation(view, filters.REVOCATION),
        filters.revocation(view, filters.REVOCATION_RECENT),
        filters.counted_here(counters),
        filters.allowance(),
        *_authorize(view, "ingress", (filters.AUTHORIZE_HERE, filters.AUTHORIZE_THERE)),
        filters.body_limit(),
        filters.router(attempt_log(view)),
    ]
    manager = _manager(view, "ingress", INGRESS_ROUTES, chain)
    return _listener("ingress", view, {"filters": [manager], **_client_tls(view)})


def _client_tls(view: SiteView) -> Json:
    """TLS towards clients, where it ends here. A client may show a certificate, of its own making too: what a grant is
    bound to is one certificate, whoever signed it, and the handshake proves that the client has its key."""
    tls = view.fabric.sites[view.site].tls
    if tls is None or tls.outside:
        return {}
    shown = CREDENTIAL if tls.certificate_file is None else INGRESS_CREDENTIAL
    context = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [followed(view.files, shown)],
        "validation_context": {
            "trusted_ca": {"filename": f"{view.files.identity}/trust.pem"},
            "trust_chain_verification": "ACCEPT_UNTRUSTED",
        },
        "alpn_protocols": ["h2", "http/1.1"],
    }
    message = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    return {"transport_socket": typed("envoy.transport_sockets.tls", message, common_tls_context=context)}


def counters_of(view: SiteView) -> str:
    """Names the ingress listener's counters: another whenever Envoy makes them anew (it started, the listener changed).

    A grant counted by counters that are gone could be used in full once more; it names them, and is refused instead.
    """
    listener = json.dumps(_ingress_listener(view, ""), sort_keys=True)
    return hashlib.sha256(f"{view.boot} {listener}".encode()).hexdigest()[:12]


def peer_listener(view: SiteView) -> Json:
    """Other sites: mutual TLS first, then everything is checked again by this site's own rules."""
    candidate = view.candidate
    distances = [filters.fault(site, rtt_ms) for site, rtt_ms in sorted(view.rtt_ms.items()) if rtt_ms >= 1]
    checks = [
        filters.grant(view),
        filters.scope(view),
        filters.policy(filters.POLICY_HERE, view.rules, candidate.here if candidate else None),
        filters.revocation(view, filters.REVOCATION),
        filters.revocation(view, filters.REVOCATION_RECENT),
        *_authorize(view, "peer", (filters.AUTHORIZE_HERE,)),
    ]
    manager = _manager(view, "peer", PEER_ROUTES, [*distances, *checks, filters.router()])
    tls = typed(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        require_client_certificate=True,
        common_tls_context=tls_context(view, members(view)) | {"alpn_protocols": ["h2", "http/1.1"]},
    )
    return _listener("peer", view, {"filters": [manager], "transport_socket": tls})


def _authorize(view: SiteView, role: str, names: tuple[str, ...]) -> list[Json]:
    """None where no contract needs them: even a filter that a route switches off costs every request a little."""
    needed = view.asked or any(contract.on_record.is_synchronous for contract in view.fabric.contracts.values())
    return [filters.authorize(name, role) for name in names] if needed else []


def _listener(name: str, view: SiteView, chain: Json) -> Json:
    address = view.ingress if name == "ingress" else view.peer
    return any_of(
        "envoy.config.listener.v3.Listener",
        name=name,
        address=socket(address),
        filter_chains=[chain | {"name": name}],
        per_connection_buffer_limit_bytes=1024 * 1024,
        tcp_backlog_size=4096,
    )


def _manager(view: SiteView, role: str, routes: str, chain: list[Json]) -> Json:
    peer = role == "peer"
    return typed(
        "envoy.filters.network.http_connection_manager",
        _HCM,
        stat_prefix=role,
        codec_type="AUTO",
        rds={"route_config_name": routes, "config_source": path_source(f"{view.files.xds}/rds", f"{role}.json")},
        http_filters=chain,
        early_header_mutation_extensions=filters.strip(trusted_peer=peer),
        access_log=access_log(view, role),
        access_log_options={"flush_access_log_on_new_request": True, "access_log_flush_interval": LIVE_INTERVAL},
        local_reply_config=local_replies(view.site),
        # No address is internal: nobody's x-envoy-* headers are believed.
        use_remote_address=True,
        internal_address_config={
            "unix_sockets": False,
            "cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}],
        },
        skip_xff_append=True,
        generate_request_id=True,
        # A peer's request keeps the id its ingress gave it; a client's own id is replaced.
        preserve_external_request_id=peer,
        request_id_extension={
            "typed_config": any_of("envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig", pack_trace_reason=False)
        },
        server_name=f"isochrone/{view.site}",
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        common_http_protocol_options={
            "headers_with_underscores_action": "REJECT_REQUEST",
            "idle_timeout": "300s",
            "max_headers_count": 100,
        },
        http2_protocol_options={
            "max_concurrent_streams": 1000,
            "initial_stream_window_size": 1048576,
            "initial_connection_window_size": 16777216,
        },
        request_headers_timeout="10s",
        request_timeout="60s",
        stream_idle_timeout="60s",
        max_request_headers_kb=32,
    )
