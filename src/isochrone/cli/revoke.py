"""``isochrone revoke``: authority taken back."""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path
from typing import Any, cast

import click

from isochrone.cli.common import echo_json, find_state, run, state_option
from isochrone.cli.signing import ActDesk
from isochrone.errors import AuthorityError, InputError

__all__ = ["revoke", "revoke_everywhere"]

_KINDS = ("delegation", "agent", "human", "key", "contract", "workload", "fabric")


@click.command()
@click.argument("kind", type=click.Choice(_KINDS))
@click.argument("item")
@click.option("--by", default="human:operator", show_default=True, help="Who revokes.")
@click.option("--reason", required=True)
@click.option("--json", "as_json", is_flag=True)
@state_option
def revoke(kind: str, item: str, by: str, reason: str, as_json: bool, state: Path | None) -> None:
    """Take authority back, at every site.

    ITEM is an agent for `delegation` (the last hop it holds) and otherwise the name of what is revoked.

    \b
    isochrone revoke delegation agent:caller --reason "job done"
    isochrone revoke agent agent:planner --by human:operator --reason "key lost"
    isochrone revoke contract assistant --reason "incident 12"        # a kill switch
    """
    answer = run(revoke_everywhere(find_state(state), kind, item, by, reason))
    if as_json:
        echo_json(answer)
        return
    from isochrone.authority.grant import GRANT_LIFE_S
    from isochrone.authority.revocation import bound_s
    from isochrone.serve.exchange import STALE_AFTER_S

    click.echo(
        f"revocation {answer['seq']} is in force at {len(answer['in_force'])} sites after {answer['seconds']:.2f} s"
    )
    cut_off = bound_s(stale_after_s=STALE_AFTER_S, grant_life_s=GRANT_LIFE_S, is_connected=False)
    click.echo(f"bound: under 1 s at connected sites, {cut_off:g} s at a site that is cut off")
    if answer["missing"]:
        click.echo(f"not confirmed by: {', '.join(answer['missing'])}")


async def revoke_everywhere(state: Path, kind: str, item: str, by: str, reason: str) -> dict[str, Any]:
    """Sign a revocation, hand it to the hub, and wait until every site says that it is in force.

    Raises:
        AuthorityError: the key may not revoke this.
    """
    from isochrone.authority.delegation import parse_hop
    from isochrone.authority.entitlement import REQUEST_TYP, request_claims
    from isochrone.authority.revocation import Kind
    from isochrone.serve.hub_client import HubClient
    from isochrone.serve.keyring import Keyring

    ring, client = Keyring(state), HubClient(state)
    fabric = (await client.status())["fabric"]
    chain: tuple[str, ...] = ()
    if kind == "delegation":
        chain = ring.get(item).chain
        if not chain:
            raise InputError(f"{item} holds no delegation here", code="revoke.nothing")
        kind, item = "hop", parse_hop(chain[-1]).id
    desk, jti, now_s = ActDesk(state, by), secrets.token_urlsafe(12), time.time()
    request = await desk.sign(
        await desk.registry(), REQUEST_TYP,
        lambda key: request_claims(fabric, cast(Kind, kind), item, reason=reason, by=key, now_s=now_s, jti=jti),
    )  # fmt: skip
    start_s = time.monotonic()
    answer = await client.ask("POST", "/revocations", {"request": request, "chain": list(chain)})
    if "refused" in answer:
        raise AuthorityError("; ".join(answer["refused"]), code="revoke.refused")
    return await _wait_in_force(client, int(answer["seq"]), start_s)


async def _wait_in_force(client: Any, seq: int, start_s: float, timeout_s: float = 10.0) -> dict[str, Any]:
    while True:
        sites = (await client.status())["sites"]
        done = sorted(name for name, report in sites.items() if report["epoch"] >= seq)
        seconds = time.monotonic() - start_s
        if len(done) == len(sites) or seconds > timeout_s:
            return {"seq": seq, "in_force": done, "missing": sorted(set(sites) - set(done)), "seconds": seconds}
        await asyncio.sleep(0.05)
