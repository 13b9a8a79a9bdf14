"""``isochrone delegate`` and ``token``: authority handed on, and used."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isochrone.cli.common import authority_of, find_state, run, site_urls, state_option
from isochrone.cli.signing import ActDesk, passkey_option
from isochrone.errors import AuthorityError, InputError

if TYPE_CHECKING:
    from isochrone.authority.delegation import DelegationRefused
    from isochrone.authority.scope import Scope
    from isochrone.serve.keyring import Holder, Keyring

__all__ = ["delegate", "issue", "token"]


@click.command()
@click.argument("agent")
@click.option(
    "--from", "giver", default="human:operator", show_default=True, help="Who delegates: a human or an agent."
)
@click.option(
    "--contract", "contracts", multiple=True, help="Contracts allowed; may be repeated. Default: as the giver."
)
@click.option("--site", "sites", multiple=True)
@click.option("--jurisdiction", "jurisdictions", multiple=True, help="ISO 3166-1 alpha-2, or a group such as EU.")
@click.option("--vendor", "vendors", multiple=True)
@click.option("--data-class", "data_classes", multiple=True)
@click.option("--may-delegate", default=0, show_default=True, help="How many further hops may follow.")
@click.option("--for", "life", default="8h", show_default=True, help="How long it holds: 30m, 8h, 7d.")
@passkey_option
@state_option
def delegate(
    agent: str, giver: str, may_delegate: int, life: str, passkey: bool, state: Path | None, **named: tuple[str, ...]
) -> None:
    """Delegate to AGENT, narrower or equal to what the giver has.

    \b
    isochrone delegate agent:planner --contract line-audio --contract assistant --may-delegate 1
    isochrone delegate agent:caller --from agent:planner --contract line-audio --jurisdiction EU --for 30m
    isochrone delegate agent:planner --from human:ada --passkey --contract assistant

    With --passkey it prints a link, at which the person reads what is delegated and signs; then it goes on here.
    """
    from isochrone.authority.delegation import parse_hop
    from isochrone.authority.explain import explain_chain
    from isochrone.authority.scope import Scope
    from isochrone.serve.keyring import Keyring

    directory = find_state(state)
    ring = Keyring(directory)
    given: dict[str, Any] = {member: frozenset(values) for member, values in named.items() if values}
    scope, life_s = Scope(**given, may_delegate=may_delegate > 0), seconds(life)
    if passkey or (giver.startswith("human:") and ring.find(giver) is None):
        chain = run(_at_the_page(ActDesk(directory, giver, passkey), ring, agent, scope, may_delegate, life_s))
    else:
        chain = issue(directory, ring, giver, agent, scope, may_delegate, life_s)
    click.echo(explain_chain(tuple(map(parse_hop, chain))))


def issue(state: Path, ring: Keyring, giver: str, agent: str, scope: Scope, depth: int, life_s: int) -> list[str]:
    """Sign one more hop with a key that is here, and keep it with the agent's key, which is made when it is not there.

    Raises:
        AuthorityError: it would widen what the giver has, or not verify otherwise.
    """
    from isochrone.authority.delegation import issue_child, issue_root, parse_hop, root_claims
    from isochrone.authority.known_groups import known_groups
    from isochrone.serve.home import HubHome

    source, target = ring.get(giver), _holder(ring, agent)
    terms = _terms(target, scope, life_s)
    answer: str | list[str] | DelegationRefused
    if source.kind == "human":
        registry = HubHome(state / "hub", (state / "hub" / "fabric").read_text()).people()
        claims = root_claims(registry, giver, source.key.public.thumbprint, depth_max=depth, **terms)
        answer = issue_root(claims, source.key)
    else:
        if not source.chain:
            raise InputError(f"nobody delegated to {giver} yet", code="delegate.nothing", hint="delegate to it first")
        at = parse_hop(source.chain[-1]).depth + 1
        answer = issue_child(source.chain, source.key, known_groups(), depth_max=at + depth, **terms)
    return _kept(ring, target, [answer] if isinstance(answer, str) else answer)


async def _at_the_page(desk: ActDesk, ring: Keyring, agent: str, scope: Scope, depth: int, life_s: int) -> list[str]:
    """As `issue`, for a person who signs with a passkey at the hub's page."""
    from isochrone.authority.delegation import HOP_TYP, root_claims

    target, registry = _holder(ring, agent), await desk.registry()
    terms = _terms(target, scope, life_s)
    hop = await desk.sign(registry, HOP_TYP, lambda key: root_claims(registry, desk.by, key, depth_max=depth, **terms))
    return _kept(ring, target, [hop])


def _holder(ring: Keyring, agent: str) -> Holder:
    from isochrone.authority.jose import PrivateKey
    from isochrone.serve.keyring import Holder

    return ring.find(agent) or Holder(agent, agent.partition(":")[2], PrivateKey.generate())


def _terms(target: Holder, scope: Scope, life_s: int) -> dict[str, Any]:
    return {
        "agent": target.id, "agent_key": target.key.public, "scope": scope, "now_s": time.time(), "life_s": life_s,
        "jti": secrets.token_urlsafe(12),
    }  # fmt: skip


def _kept(ring: Keyring, target: Holder, answer: list[str] | DelegationRefused) -> list[str]:
    """A new agent's key is kept only once the delegation stands."""
    from isochrone.authority.delegation import DelegationRefused
    from isochrone.serve.keyring import Holder

    if isinstance(answer, DelegationRefused):
        raise AuthorityError(
            "; ".join(map(str, answer.reasons)), code="delegate.refused", hint="a delegation can only narrow"
        )
    ring.save(Holder(target.id, target.name, target.key, tuple(answer)))
    return answer


def seconds(text: str) -> int:
    """A length of time such as 30m, 8h or 7d.

    Raises:
        InputError: it is none.
    """
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:])
    if unit is None or not text[:-1].isdigit():
        raise InputError(f"{text!r} is no length of time", code="delegate.life", hint="30m, 8h, 7d")
    return int(text[:-1]) * unit


@click.command()
@click.option("--as", "agent", required=True, help="The agent that asks.")
@click.option("--contract", required=True)
@click.option("--at", "site", help="Site to ask. Default: the first that answers.")
@click.option("--show", is_flag=True, help="Print the grant's claims instead.")
@state_option
def token(agent: str, contract: str, site: str | None, show: bool, state: Path | None) -> None:
    """Exchange the delegation that an agent holds for a grant, and print it.

    \b
    TOKEN=$(isochrone token --as agent:caller --contract assistant)
    curl -H "authorization: Bearer $TOKEN" ...
    """
    from isochrone.authority.jose import b64u_decode
    from isochrone.serve.client import GrantSource
    from isochrone.serve.hub_client import HubClient
    from isochrone.serve.keyring import Keyring

    directory = find_state(state)
    holder = Keyring(directory).get(agent)
    if not holder.chain:
        raise InputError(f"nobody delegated to {agent} yet", code="token.nothing", hint=f"isochrone delegate {agent}")
    sites = site_urls(run(HubClient(directory).status()))
    if site is not None and site not in sites:
        raise InputError(f"there is no site {site}", code="token.site", hint=f"sites: {', '.join(sites)}")
    bases = [url for name, url in sites.items() if site in (None, name)]
    grant = GrantSource(bases, holder.chain, holder.key, contract, verify=authority_of(directory)).token()
    click.echo(json.dumps(json.loads(b64u_decode(grant.split(".")[1])), indent=2) if show else grant)
