"""``isochrone revoke``: authority taken back; and the switches that stop a contract, a workload or all of it."""

from __future__ import annotations

import asyncio
import secrets
import time
from functools import partial
from pathlib import Path
from typing import Any, cast

import click

from isochrone.cli.common import echo_json, find_state, run, state_option
from isochrone.cli.signing import ActDesk
from isochrone.errors import AuthorityError, InputError

__all__ = ["revoke", "revoke_everywhere"]

_KINDS = ("delegation", "agent", "human", "key", "grant")
_SWITCHES = ("contract", "workload", "fabric")
_WAIT_S = 10.0


@click.command()
@click.argument("kind", type=click.Choice(_KINDS), required=False)
@click.argument("item", required=False)
@click.option("--stop", metavar="WHAT", help="contract:NAME, workload:NAME or fabric: refuse all of it until resumed.")
@click.option("--resume", metavar="WHAT", help="Undo a stop.")
@click.option("--by", default="human:operator", show_default=True, help="Who revokes: a person or agent.")
@click.option("--reason", required=True)
@click.option("--json", "as_json", is_flag=True)
@state_option
def revoke(
    kind: str | None,
    item: str | None,
    stop: str | None,
    resume: str | None,
    by: str,
    reason: str,
    as_json: bool,
    state: Path | None,
) -> None:
    """Take authority back, at every site.

    ITEM names what is revoked: for `delegation` the agent that holds it (its last hop is revoked), for `key` a
    thumbprint or the agent or person whose key it is, for `grant` its id. A person may revoke what they gave, an agent
    what it gave on, an operator anything. Revocations are final; only stops can be undone.

    \b
    isochrone revoke delegation agent:caller --reason "job done"
    isochrone revoke delegation agent:sub --by agent:planner --reason "sub-agent misbehaves"
    isochrone revoke agent agent:planner --by human:operator --reason "key lost"
    isochrone revoke --stop contract:assistant --reason "incident 12"
    isochrone revoke --resume contract:assistant --reason "incident 12 is closed"
    """
    directory = find_state(state)
    given = [text for text in (kind, stop, resume) if text is not None]
    if len(given) != 1 or (kind is None) != (item is None):
        raise click.UsageError("name one thing: KIND ITEM, or --stop WHAT, or --resume WHAT")
    if kind is None:
        kind, _, item = (stop or resume or "").partition(":")
        if kind not in _SWITCHES or (kind == "fabric") == bool(item):
            raise click.UsageError("WHAT is contract:NAME, workload:NAME or fabric")
    answer = run(revoke_everywhere(directory, kind, item or "", by, reason, is_lifted=resume is not None))
    if as_json:
        echo_json(answer)
        return
    from isochrone.console.revoked import bound_text

    took_s = max(answer["in_force"].values(), default=0.0)
    click.echo(f"revocation {answer['seq']} is in force at {len(answer['in_force'])} sites after {took_s:.2f} s")
    for site, seconds in sorted(answer["in_force"].items()):
        click.echo(f"  {site} {seconds:.2f} s")
    click.echo(bound_text(answer["contracts"]))
    if answer["missing"]:
        click.echo(f"not confirmed by: {', '.join(answer['missing'])}")


async def revoke_everywhere(
    state: Path, kind: str, item: str, by: str, reason: str, *, is_lifted: bool = False
) -> dict[str, Any]:
    """Sign a revocation, hand it to the hub, and wait until every site says that it is in force.

    Returns:
        `seq`; `in_force`, the seconds after which each site had confirmed it; `missing`, the sites that had not within
        10 s; `contracts`, as the hub knows them.

    Raises:
        AuthorityError: the key may not revoke this. InputError: there is nothing of that name to revoke.
    """
    from isochrone.authority.entitlement import REQUEST_TYP, request_claims
    from isochrone.authority.jose import sign_compact
    from isochrone.authority.revocation import Kind
    from isochrone.serve.hub_client import HubClient
    from isochrone.serve.keyring import Keyring

    ring, client = Keyring(state), HubClient(state)
    status = await client.status()
    kind, item, chain = _named(ring, status, kind, item)
    claims = partial(
        request_claims, status["fabric"], cast(Kind, kind), item, reason=reason, now_s=time.time(),
        jti=secrets.token_urlsafe(12), is_lifted=is_lifted,
    )  # fmt: skip
    if by.startswith("agent:"):
        key = ring.get(by).key
        request = sign_compact(claims(by=key.public.thumbprint), key, typ=REQUEST_TYP)
    else:
        desk = ActDesk(state, by)
        request = await desk.sign(await desk.registry(), REQUEST_TYP, lambda thumbprint: claims(by=thumbprint))
    begun_s = time.monotonic()
    answer = await client.ask("POST", "/revocations", {"request": request, "chain": list(chain)})
    if "refused" in answer:
        raise AuthorityError("; ".join(answer["refused"]), code="revoke.refused")
    confirmed = await _wait_in_force(client, int(answer["seq"]), begun_s)
    return confirmed | {"seq": answer["seq"], "contracts": status["nouns"].get("contracts", {})}


def _named(ring: Any, status: dict[str, Any], kind: str, item: str) -> tuple[str, str, tuple[str, ...]]:
    """What the feed calls it, and the chain that shows who gave it."""
    from isochrone.authority.delegation import parse_hop

    if kind == "delegation":
        chain = ring.get(item).chain
        if not chain:
            raise InputError(f"{item} holds no delegation here", code="revoke.nothing")
        return "hop", parse_hop(chain[-1]).id, chain
    if kind == "key" and ":" in item:
        holder = ring.get(item)
        return "key", holder.key.public.thumbprint, holder.chain
    if kind == "fabric":
        return kind, status["fabric"], ()
    nouns = status["nouns"].get(f"{kind}s", {})
    if kind in _SWITCHES and item not in nouns:
        raise InputError(f"there is no {kind} {item}", code="revoke.unknown", hint=f"{kind}s: {', '.join(nouns)}")
    return kind, item, ()


async def _wait_in_force(client: Any, seq: int, begun_s: float) -> dict[str, Any]:
    in_force: dict[str, float] = {}
    while True:
        sites = (await client.status())["sites"]
        now_s = time.monotonic() - begun_s
        in_force |= {name: now_s for name, at in sites.items() if at["epoch"] >= seq and name not in in_force}
        if len(in_force) == len(sites) or now_s > _WAIT_S:
            return {"in_force": in_force, "missing": sorted(set(sites) - set(in_force))}
        await asyncio.sleep(0.02)
