"""The governed path: what `isochrone.forward` compiles for a site of the demo's fabric, in one Envoy with one worker.

Everything is the product's own: the fabric and its policies, the grant minted from a verified chain of two hops, the
compiled policy, the routes, the journal's fields, the lock on upstream addresses, the revocation map. The execution is
local: the site where the request enters also executes it, so that there is one hop, as there is with every peer.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import httpx
import psutil
from benchmarks.hop import envoy, load
from benchmarks.hop.processes import NotReady, end, free_port

from isochrone.authority.grant import HOP_HEADERS, KEY_HEADERS, Grant, issuer_name, tag
from isochrone.authority.scope import Execution, Scope
from isochrone.authority.testing import World, named_key
from isochrone.forward.fib import Entry, Fib
from isochrone.forward.fib import Path as SitePath
from isochrone.forward.secrets import CREDENTIAL, secret_file, secret_path
from isochrone.forward.snapshot import bootstrap, compile_site
from isochrone.forward.view import Files, SiteView, site_uri
from isochrone.forward.xds import Address, Json
from isochrone.model.document import parse_fabric
from isochrone.model.fabric import Fabric
from isochrone.policy import PolicySet, compile_anywhere, compile_for_site
from isochrone.policy.bounds import bounds_of, world_of
from isochrone.serve.pki import Authority

WORK = (
    "ES256 grant, Cedar policy, revocation maps (1,000 hops, 10 keys), route by contract and deadline, address lock on "
    "the upstream, journal of both ends, execution id"
)
_SITE, _CONTRACT = "frankfurt", "assistant"
_MINTING_KEY = "site vie"  # the one that `authority.testing` mints with
_REVOKED_HOPS, _REVOKED_KEYS = 1000, 10
_GRANT_LIFE_S = 1700


Edit = Callable[[dict[str, Json]], None]
"""Changes the compiled discovery files, by name, in place."""


def start(upstream_port: int, folder: Path) -> tuple[int, str, list[psutil.Popen]]:
    """Port, grant to send as bearer token (for 28 minutes), and processes of the path in front of `upstream_port`."""
    view, token = _site(upstream_port, folder)
    # Clusters and endpoints before the listener that needs them; nothing follows the files yet.
    for name, data in compile_site(view).files.items():
        path = Path(view.files.xds) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    process = envoy.run(folder, bootstrap(view.files), view.ingress.port)
    try:
        _prove(view.ingress.port, token, Path(view.files.journal))
    except NotReady:
        end([process])
        raise
    return view.ingress.port, token, [process]


def start_edited(upstream_port: int, folder: Path, edit: Edit) -> tuple[int, str, list[psutil.Popen]]:
    """The same with something left out, and from one static file: Envoys that follow files take inotify instances, and
    many of them at once run out. A request takes the same way through both."""
    view, token = _site(upstream_port, folder)
    compiled = {name: json.loads(data) for name, data in compile_site(view).files.items()}
    edit(compiled)
    process = envoy.run(folder, _static(view.files, compiled), view.ingress.port)
    return view.ingress.port, token, [process]


def _static(files: Files, compiled: dict[str, Json]) -> bytes:
    """The ingress listener with its routes, filters and clusters as one bootstrap; peers without their certificates."""

    def resources_of(name: str) -> list[Json]:
        return [{k: v for k, v in each.items() if k != "@type"} for each in compiled[name]["resources"]]

    listener = next(each for each in resources_of("lds/listeners.json") if each["name"] == "ingress")
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    manager["route_config"] = resources_of("rds/ingress.json")[0]
    revocation = {each["name"]: each for each in resources_of("ecds/revocation.json")}
    manager["http_filters"] = [revocation.get(each["name"], each) for each in manager["http_filters"]]
    clusters = [{k: v for k, v in c.items() if k != "transport_socket"} for c in resources_of("cds/clusters.json")]
    document = json.loads(bootstrap(files))
    del document["dynamic_resources"]
    return json.dumps(document | {"static_resources": {"listeners": [listener], "clusters": clusters}}).encode()


def _site(upstream_port: int, folder: Path) -> tuple[SiteView, str]:
    demo = resources.files("isochrone.cli") / "demo"
    fabric = parse_fabric((demo / "fabric.yaml").read_text())
    policies = PolicySet.parse({name: (demo / name).read_text() for name in fabric.policies})
    files = _folders(folder, fabric)
    view = _view(fabric, policies, files, Address("127.0.0.1", upstream_port))
    return view, _grant(fabric, policies).token


def _prove(port: int, token: str, journal: Path) -> None:
    """That it governs: no answer without a grant, one with it, and that one journaled at both ends.

    Raises:
        NotReady: it does not.
    """
    url = f"http://127.0.0.1:{port}{load.PATH}"
    refused = httpx.post(url, content=load.BODY)
    answered = httpx.post(url, content=load.BODY, headers={"authorization": f"Bearer {token}"})
    if (refused.status_code, answered.status_code) != (401, 200):
        raise NotReady(f"answers {refused.status_code} without a grant and {answered.status_code} with one")
    execution = answered.headers["x-isochrone-execution"].partition("/")[2]
    deadline = time.monotonic() + 5
    while journal.read_text().count(execution) != 2:
        if time.monotonic() > deadline:
            raise NotReady(f"execution {execution} is not journaled at both ends")
        time.sleep(0.05)


def _folders(folder: Path, fabric: Fabric) -> Files:
    """State of a node: its folders, and the identity that the handover listener shows to other sites."""
    identity = folder / "identity"
    identity.mkdir(parents=True)
    now = dt.datetime.now(dt.UTC)
    authority = Authority.create(fabric.name, now)
    issued = authority.issue(site_uri(fabric.name, _SITE), now)
    (identity / "trust.pem").write_bytes(authority.certificate)
    secret = folder / "xds" / secret_path(CREDENTIAL)
    secret.parent.mkdir(parents=True)
    secret.write_bytes(secret_file(CREDENTIAL, issued.certificate, issued.key))
    return Files(
        xds=str(folder / "xds"),
        identity=str(identity),
        journal=str(folder / "journal.jsonl"),
        admin=str(folder / "admin.sock"),
    )


def _view(fabric: Fabric, policies: PolicySet, files: Files, model: Address) -> SiteView:
    bounds = bounds_of(fabric, policies)
    allowed = {
        contract: frozenset(site for site in fabric.sites if bounds[contract, site].allowed)
        for contract in fabric.contracts
    }
    others = sorted(allowed[_CONTRACT] - {_SITE})
    objective_ms = fabric.contracts[_CONTRACT].in_time.objective_ms
    # Meant for this site, with every other site in bounds to fall back on.
    paths = (SitePath((_SITE, *others), 1000),)
    entry = Entry(_CONTRACT, objective_ms, paths, (_SITE, *others), None)
    world = world_of(fabric)
    key = named_key(_MINTING_KEY).public
    return SiteView(
        fabric=fabric,
        site=_SITE,
        fib=Fib(_SITE, 1, (entry,), {}),
        files=files,
        ingress=_address(),
        peer=_address(),
        node_api=_address(),
        peers={site: _address() for site in fabric.sites if site != _SITE},
        replicas={fabric.contracts[_CONTRACT].workload: (model,)},
        jwks={"keys": [key.jwk | {"kid": tag(key.thumbprint)}]},
        issuer=issuer_name(fabric.name),
        rules=compile_for_site(policies, _SITE, world, check_grant_sites=False).rules,
        anywhere_rules=compile_anywhere(policies, world).rules,
        allowed=allowed,
        deny=_revoked(),
        policy_digest=policies.digest,
        epoch=1,
    )


def _address() -> Address:
    return Address("127.0.0.1", free_port())


def _revoked() -> dict[str, frozenset[str]]:
    """What a deny map holds after revocations that do not concern this grant: hops by depth, keys at any place."""

    def tags(kind: str, count: int) -> frozenset[str]:
        return frozenset(tag(hashlib.sha256(f"{kind} {i}".encode()).hexdigest()) for i in range(count))

    hops = {header: tags(header, _REVOKED_HOPS // 2) for header in HOP_HEADERS[:2]}
    return hops | dict.fromkeys(KEY_HEADERS, tags("key", _REVOKED_KEYS))


def _grant(fabric: Fabric, policies: PolicySet) -> Grant:
    terms = fabric.contracts[_CONTRACT]
    scope = Scope(may_delegate=True)
    world = World(fabric=fabric.name, now_s=time.time())
    asked = Execution(
        workload=terms.workload,
        contract=_CONTRACT,
        site=_SITE,
        jurisdiction=fabric.sites[_SITE].jurisdiction,
        vendor=fabric.sites[_SITE].vendor,
        hardware_class=next(iter(fabric.sites[_SITE].hardware)),
        data_class=terms.in_bounds.data_class,
        at_s=world.now_s,
    )
    minted = world.grant(
        world.verified(2, scope), asked=asked, candidates=None, policy=policies.digest, epoch=1, life_s=_GRANT_LIFE_S
    )
    if not isinstance(minted, Grant):
        raise RuntimeError(f"no grant: {minted.reasons}")
    return minted
