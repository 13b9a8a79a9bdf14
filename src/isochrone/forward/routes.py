"""Routes of both listeners.

Ingress: contract (from the grant) and deadline rung (from the header) choose an entry of the FIB. A grant whose
own scope is narrower than its contract goes to the best site of the entry that its scope names, and nowhere else.
Peer: the contract chooses the local model servers, or nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from isochrone.forward.clusters import NODE_API, chain_name, exec_name
from isochrone.forward.fib import Entry
from isochrone.forward.filters import (
    AUTHORIZE_HERE,
    AUTHORIZE_THERE,
    BODY_BYTES_MAX,
    POLICY_ANYWHERE,
    POLICY_HERE,
    REVOCATION,
    REVOCATION_RECENT,
    SCOPE,
)
from isochrone.forward.headers import (
    CHAINS_PATH,
    CLIENT_CERTIFICATE,
    CONTRACT,
    DEADLINE,
    EXECUTION,
    INGRESS,
    MEANT,
    MODEL_US,
    NODE_PREFIX,
    PEER_PREFIX,
    PLAN,
    REFUSED,
    SITES,
    STALE,
)
from isochrone.forward.problem import direct_response, problem_type, refusal_response
from isochrone.forward.view import SiteView
from isochrone.forward.xds import Json, any_of, header, seconds, typed
from isochrone.model.workload import Protocol

__all__ = ["BODY_BYTES_MAX", "INGRESS_ROUTES", "PEER_ROUTES", "UNRECORDED", "ingress_routes", "peer_routes"]

# Runtime key that the node sets to 100 where executions cannot be recorded: at once, and without writing any file.
UNRECORDED = "isochrone.unrecorded"

INGRESS_ROUTES = "ingress-routes"
PEER_ROUTES = "peer-routes"
PROBE_PATH = "/.isochrone/probe"

_INT64_MAX = 2**63 - 1
_IDLE_S = 60.0
_STREAM_S_MAX = 600.0
_SITES_NAMED_MAX = 20
# A request that is slow everywhere is not sent everywhere.
_HEDGED_SITES_MAX = 3

_PATHS = {Protocol.OPENAI: "/v1/", Protocol.OPEN_INFERENCE: "/v2", Protocol.HTTP: "/"}

_OFF = any_of("envoy.extensions.filters.http.rbac.v3.RBACPerRoute")
# Endpoints of the node itself authenticate their callers themselves.
_UNGOVERNED = {
    "envoy.filters.http.jwt_authn": any_of("envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig", disabled=True),
    **dict.fromkeys((SCOPE, POLICY_HERE, POLICY_ANYWHERE, REVOCATION, REVOCATION_RECENT), _OFF),
}
# What is handed over is judged by the site that executes it, and a refusal executes nothing.
_THERE = {POLICY_HERE: _OFF}
_NOT_HERE = {"typed_per_filter_config": _THERE}
# What this site may execute is judged by this site's own rules, which allow nothing that no site would: asking twice
# would cost and change nothing.
_HERE = {POLICY_ANYWHERE: _OFF}
_EXT_AUTHZ = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
# Routes are chosen anew once the claims are known: a filter that is switched off is so by its route, not in its chain,
# which is made before.
_ASK = any_of(_EXT_AUTHZ, check_settings={})
_ASK_NOBODY = dict.fromkeys((AUTHORIZE_HERE, AUTHORIZE_THERE), any_of(_EXT_AUTHZ, disabled=True))
# A route that ends at this site's own model servers, whatever happens: they see no grant, and do not speak for the
# fabric. A route that may also hand over must keep both, because a retry sends the request on as it left.
_AT_MODEL = {
    "request_headers_to_remove": ["authorization"],
    "response_headers_to_remove": [EXECUTION, MODEL_US, PLAN, REFUSED, STALE],
}


# What is left of an answer's time without it is the way there and back: distances are measured by executions, too.
_MODEL_TIME = header(MODEL_US, "%COMMON_DURATION(US_TX_BEG:US_RX_BEG:us)%", "OVERWRITE_IF_EXISTS_OR_ADD")


def ingress_routes(view: SiteView) -> Json:
    """`RouteConfiguration` of the ingress listener."""
    routes = [_peers_only(), _node_route(NODE_PREFIX), _unrecorded(view)]
    by_contract: dict[str, list[Entry]] = {}
    for entry in view.fib.entries:
        by_contract.setdefault(entry.contract, []).append(entry)
    for contract in sorted(by_contract):
        routes += _contract_routes(view, contract, by_contract[contract])
    routes.append(_unknown("No contract of this fabric is served under this grant and path"))
    return _configuration(view, INGRESS_ROUTES, routes, request=[header(INGRESS, view.site)])


def peer_routes(view: SiteView) -> Json:
    """`RouteConfiguration` of the handover listener: local executions only, nothing is handed over twice."""
    routes = [_node_route(PEER_PREFIX), _node_route(CHAINS_PATH), _unrecorded(view), _probe_route()]
    for contract, terms in sorted(view.fabric.contracts.items()):
        if view.site in view.allowed.get(contract, ()):
            prefix = _PATHS[view.fabric.workloads[terms.workload].protocol]
            route = {"cluster": exec_name(contract), **_times()}
            match = {"prefix": prefix, "headers": [_is(CONTRACT, contract)]}
            asked = {"typed_per_filter_config": _asked(view, contract, here=True)}
            routes.append({"match": match, "route": route, **_AT_MODEL, **asked})
    routes.append(_unknown("This site does not execute the contract of this grant"))
    return _configuration(view, PEER_ROUTES, routes, request=[])


def _configuration(view: SiteView, name: str, routes: list[Json], request: list[Json]) -> Json:
    here = name == PEER_ROUTES
    execution = header(
        EXECUTION, f"{view.site}/%REQ(X-REQUEST-ID)%", "OVERWRITE_IF_EXISTS_OR_ADD" if here else "ADD_IF_ABSENT"
    )
    # Milliseconds until the answer's head: known for refusals too, which no upstream has answered.
    timing = f'{"exec" if here else "ingress"};desc="{view.site}";dur=%DURATION%'
    return any_of(
        "envoy.config.route.v3.RouteConfiguration",
        name=name,
        virtual_hosts=[
            {
                "name": name,
                "domains": ["*"],
                "routes": routes,
                "typed_per_filter_config": _ASK_NOBODY,
                "request_headers_to_add": [header(PLAN, str(view.fib.revision)), *request],
                "response_headers_to_add": [
                    execution,
                    header(PLAN, str(view.fib.revision), "OVERWRITE_IF_EXISTS_OR_ADD"),
                    header("server-timing", timing, "APPEND_IF_EXISTS_OR_ADD"),
                    *([_MODEL_TIME] if here else _staleness(view)),
                ],
                "request_body_buffer_limit": BODY_BYTES_MAX,
            }
        ],
    )


def _staleness(view: SiteView) -> list[Json]:
    """How old the plan is that the ingress goes on with, in a form that changes only when the hub comes or goes."""
    if view.stale_since_s is None:
        return []
    return [header(STALE, str(int(view.stale_since_s)), "OVERWRITE_IF_EXISTS_OR_ADD")]


# --- one contract -------------------------------------------------------------------------------------------------


def _contract_routes(view: SiteView, contract: str, entries: list[Entry]) -> list[Json]:
    prefix = _PATHS[view.fabric.workloads[view.fabric.contracts[contract].workload].protocol]
    entries = sorted(entries, key=lambda entry: entry.deadline_ms)
    routes: list[Json] = []
    for index, entry in enumerate(entries):
        last = index == len(entries) - 1
        end = _INT64_MAX if last else math.ceil(entries[index + 1].deadline_ms)
        within = {"name": DEADLINE, "range_match": {"start": math.ceil(entry.deadline_ms), "end": end}}
        matches = [within, {"name": DEADLINE, "present_match": False}] if last else [within]
        for deadline in matches:
            routes += _entry_routes(view, entry, {"prefix": prefix, "headers": [_is(CONTRACT, contract), deadline]})
    routes.append(_bad_deadline(contract, prefix, entries[0].deadline_ms))
    return routes


def _entry_routes(view: SiteView, entry: Entry, match: Json) -> list[Json]:
    if entry.refusal is not None:
        action, headers = refusal_response(entry.refusal, entry.contract, entry.deadline_ms)
        return [{"match": match, "direct_response": action, "response_headers_to_add": headers, **_NOT_HERE}]
    routes = []
    weighted = _weighted(view, entry)
    if weighted:
        over = _over(view, entry.contract, {site for path in entry.paths for site in path.sites})
        # A grant that names every site of the entry is as good as one that names none.
        every: list[Json] = [{"name": SITES, "string_match": {"contains": f"|{site}|"}} for site in entry.candidates]
        for names in ([_is(SITES, "*")], every):
            routes.append({"match": _and(match, *names), "route": weighted, **over})
    for site in entry.candidates:
        if site == view.site or site in view.peers:
            named: Json = {"name": SITES, "string_match": {"contains": f"|{site}|"}}
            route = _to(view, entry.contract, {(site,): 1}, tries=1)
            routes.append({"match": _and(match, named), "route": route, **_over(view, entry.contract, {site})})
        else:
            named = {"name": SITES, "string_match": {"contains": f"|{site}|"}}
            routes.append(_no_address(entry, _and(match, named)))
    if not weighted:
        routes.append(_no_address(entry, _and(match, _is(SITES, "*"))))
    routes.append(_narrow_grant(entry, match))
    return routes


def _over(view: SiteView, contract: str, sites: set[str]) -> Json:
    """What a route to these sites changes of what holds for its virtual host."""
    here = view.site in sites
    per_filter = (_HERE if here else _THERE) | _asked(view, contract, here=here)
    alone = here and not any(site in view.peers for site in sites)
    return {"typed_per_filter_config": per_filter, **(_AT_MODEL if alone else {})}


def _asked(view: SiteView, contract: str, *, here: bool) -> Json:
    """The node is asked where the proxy cannot decide alone, or must not forward before the admission is durable."""
    undecided = here and contract in view.asked
    if not (undecided or view.fabric.contracts[contract].on_record.is_synchronous):
        return {}
    return {AUTHORIZE_HERE if here else AUTHORIZE_THERE: _ASK}


def _weighted(view: SiteView, entry: Entry) -> Json:
    chains: dict[tuple[str, ...], int] = {}
    for path in entry.paths:
        known = tuple(site for site in path.sites if site == view.site or site in view.peers)
        if known:
            chains[known] = chains.get(known, 0) + path.weight
    return _to(view, entry.contract, chains, entry.tries, entry.hedge_ms) if chains else {}


def _to(
    view: SiteView, contract: str, chains: Mapping[tuple[str, ...], int], tries: int, hedge_ms: float | None = None
) -> Json:
    """Route to chains of sites by weight. Where a site's node judges, it learns which site was meant."""
    most = min(tries, max(map(len, chains)))
    again = _retry(most) if hedge_ms is None or most < 2 else _hedge(most, hedge_ms)
    common = {**_times(), **again}
    named = {chain_name(contract, sites): (sites[0], weight) for sites, weight in chains.items()}
    if not view.some_ask:
        if len(named) == 1:
            return {"cluster": next(iter(named)), **common}
        weighted = [{"name": name, "weight": weight} for name, (_, weight) in sorted(named.items())]
    else:
        weighted = [
            {"name": name, "weight": weight, "request_headers_to_add": [header(MEANT, meant)]}
            for name, (meant, weight) in sorted(named.items())
        ]
    return {"weighted_clusters": {"clusters": weighted}, **common}


def _times() -> Json:
    """A route time-out would cut streams in the middle: bound idleness and the whole stream instead."""
    return {
        "timeout": "0s",
        "idle_timeout": seconds(_IDLE_S),
        "max_stream_duration": {"max_stream_duration": seconds(_STREAM_S_MAX)},
    }


def _retry(sites: int) -> Json:
    """Try the next site when one is unreachable, dies before its answer begins, or says that it executed nothing:
    it is full, has no model server that answers, or cannot record."""
    return {
        "retry_policy": {
            "retry_on": "connect-failure,refused-stream,reset-before-request,reset,retriable-headers",
            "retriable_headers": [
                {"name": REFUSED, "string_match": {"exact": kind}} for kind in ("full", "unavailable", "unrecorded")
            ],
            "num_retries": max(1, sites - 1),
            "retry_priority": typed(
                "envoy.retry_priorities.previous_priorities",
                "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                update_frequency=1,
            ),
            "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.005s"},
        }
    }


def _hedge(sites: int, after_ms: float) -> Json:
    """As `_retry`, and the next site is asked as well when none has begun to answer after a while: the first attempt
    goes on, the first answer counts, and the other attempts are broken off."""
    policy = _retry(min(sites, _HEDGED_SITES_MAX))["retry_policy"]
    policy |= {"per_try_timeout": seconds(after_ms / 1e3)}
    return {"retry_policy": policy, "hedge_policy": {"hedge_on_per_try_timeout": True}}


# --- refusals and endpoints of the node ---------------------------------------------------------------------------


def _refuse(match: Json, kind: str, status: int, title: str, detail: str) -> Json:
    body = {"type": problem_type(kind), "title": title, "status": status, "detail": detail}
    action, headers = direct_response(body, kind)
    return {"match": match, "direct_response": action, "response_headers_to_add": headers, **_NOT_HERE}


def _narrow_grant(entry: Entry, match: Json) -> Json:
    detail = f"In time and in bounds at {entry.deadline_ms:g} ms from here: {_some(entry.candidates)}. "
    detail += "The grant's scope names none of them."
    return _refuse(match, "out_of_bounds", 422, "The grant allows no site that is in time", detail)


def _no_address(entry: Entry, match: Json) -> Json:
    """Until a peer has published its address, what only it could execute is refused as what time will mend."""
    detail = f"In time and in bounds at {entry.deadline_ms:g} ms from here: {_some(entry.candidates)}. "
    detail += "The address of the site meant is not known here yet."
    return _refuse(match, "unavailable", 503, "The executing site is not known yet", detail)


def _unrecorded(view: SiteView) -> Json:
    """What cannot be recorded is not executed, neither here nor from here, except where its contract says so."""
    nobody = {"default_value": {"numerator": 0, "denominator": "HUNDRED"}, "runtime_key": UNRECORDED}
    detail = "This site cannot write its journal or its log now: enter at another site."
    going_on = [
        {"name": CONTRACT, "string_match": {"exact": name}, "invert_match": True, "treat_missing_header_as_empty": True}
        for name, terms in sorted(view.fabric.contracts.items())
        if terms.on_record.goes_on_unrecorded
    ]
    match = _and({"prefix": "/", "runtime_fraction": nobody}, *going_on)
    return _refuse(match, "unrecorded", 503, "Nothing can be recorded here now", detail)


def _some(sites: tuple[str, ...]) -> str:
    """The first sites by name, as a body has room for, and how many more."""
    rest = len(sites) - _SITES_NAMED_MAX
    return ", ".join(sites[:_SITES_NAMED_MAX]) + (f" and {rest} more" if rest > 0 else "")


def _bad_deadline(contract: str, prefix: str, tightest_ms: float) -> Json:
    detail = f"{DEADLINE} must be a whole number of milliseconds, at least {math.ceil(tightest_ms)} for this contract."
    return _refuse(
        {"prefix": prefix, "headers": [_is(CONTRACT, contract)]},
        "deadline",
        400,
        "The deadline cannot be met as asked",
        detail,
    )


def _unknown(detail: str) -> Json:
    return _refuse({"prefix": "/"}, "unknown", 404, "Nothing is served here", detail)


def _peers_only() -> Json:
    """What only other sites may ask, by mutual TLS, is not there for clients."""
    body = {"type": problem_type("unknown"), "title": "Nothing is served here", "status": 404, "detail": ""}
    action, headers = direct_response(body, "unknown")
    match = {"prefix": PEER_PREFIX}
    extra = {"response_headers_to_add": headers, "typed_per_filter_config": _UNGOVERNED}
    return {"match": match, "direct_response": action, **extra}


def _node_route(prefix: str) -> Json:
    return {
        "match": {"prefix": prefix},
        "route": {"cluster": NODE_API, "timeout": "15s"},
        "request_headers_to_add": [header(CLIENT_CERTIFICATE, "%DOWNSTREAM_PEER_CERT%")],
        "typed_per_filter_config": _UNGOVERNED,
    }


def _probe_route() -> Json:
    """Round trips are measured here, through the same connections and (emulated) distances as executions."""
    return {
        "match": {"path": PROBE_PATH},
        "direct_response": {"status": 200, "body": {"inline_string": "ok"}},
        "typed_per_filter_config": _UNGOVERNED,
    }


def _is(name: str, value: str) -> Json:
    return {"name": name, "string_match": {"exact": value}}


def _and(match: Json, *extra: Json) -> Json:
    return match | {"headers": [*match.get("headers", []), *extra]}
