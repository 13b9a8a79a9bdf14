"""``isochrone connect``: a local address and key for programs that cannot renew a grant."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import click

from isochrone.cli.common import authority_of, find_state, run, site_urls, state_option
from isochrone.errors import InputError

if TYPE_CHECKING:
    from isochrone.serve.keyring import Holder

__all__ = ["connect"]


@click.command()
@click.option("--as", "agent", required=True, help="The agent whose delegation is used.")
@click.option("--contract", required=True)
@click.option("--listen", default="127.0.0.1:0", show_default=True, help="Loopback address; port 0 takes a free one.")
@click.option("--key", envvar="ISOCHRONE_CONNECT_KEY", help="Local key. Default: $ISOCHRONE_CONNECT_KEY, or a new one.")
@click.option("--site", "sites", multiple=True, help="Base URL of an ingress, nearest first. Default: the fabric's.")
@state_option
def connect(
    agent: str, contract: str, listen: str, key: str | None, sites: tuple[str, ...], state: Path | None
) -> None:
    """Give programs that can hold only a base URL and a static key a way into the fabric.

    Listens on loopback, takes requests with the local key, and sends them to the nearest site with a fresh grant of
    the agent's delegation. When a site is lost it goes on with the next. Refusals come through as they are.

    \b
    isochrone connect --as agent:caller --contract assistant
    isochrone connect --as agent:caller --contract assistant --listen 127.0.0.1:8000 --key local
    OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=local python program.py
    isochrone connect --as agent:caller --contract assistant --site https://vienna.example --site https://milan.example
    """
    from isochrone.serve.keyring import Keyring

    host, _, port = listen.rpartition(":")
    if host not in ("127.0.0.1", "[::1]", "localhost") or not port.isdigit():
        raise InputError(f"{listen!r} is no loopback address", code="connect.listen", hint="127.0.0.1:8000")
    directory = find_state(state)
    holder = Keyring(directory).get(agent)
    if not holder.chain:
        raise InputError(f"nobody delegated to {agent} yet", code="connect.nothing", hint=f"isochrone delegate {agent}")
    with contextlib.suppress(KeyboardInterrupt):
        run(_serve(directory, holder, contract, f"{host}:{port}", key or secrets.token_urlsafe(24), sites))


async def _serve(state: Path, holder: Holder, contract: str, listen: str, key: str, sites: tuple[str, ...]) -> None:
    import httpx

    from isochrone.forward.xds import Address
    from isochrone.serve.client import GrantSource
    from isochrone.serve.connect import Connector
    from isochrone.serve.http import serve
    from isochrone.serve.hub_client import HubClient
    from isochrone.serve.process import free_port

    if not sites:
        sites = tuple(site_urls(await HubClient(state).status()).values())
    host, _, port = listen.rpartition(":")
    at = Address.parse(f"{host}:{int(port) or free_port()}")
    sources = {
        base: GrantSource([base], holder.chain, holder.key, contract, verify=authority_of(state)) for base in sites
    }
    trust = next(iter(sources.values())).tls if sources else True
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), verify=trust) as client:
        click.echo(f"base URL http://{at}, or http://{at}/v1 for OpenAI's API")
        click.echo(f"key      {key}")
        click.echo(f"sites    {', '.join(sites)}")
        await serve(Connector(sources, key, client).application(), at)
