"""``isochrone status``: a running fabric at a glance."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isochrone.cli.common import authority_of, echo_json, find_state, run, state_option

if TYPE_CHECKING:
    from isochrone.control.report import SiteReport

__all__ = ["status"]

_REFRESH_S = 1.0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print for machines; with --watch one line a second.")
@click.option("--watch", is_flag=True, help="Keep showing it until Ctrl-C.")
@click.option("--site", metavar="URL", help="Ask the site that answers there, hub or no hub: http://HOST:PORT.")
@state_option
def status(as_json: bool, watch: bool, site: str | None, state: Path | None) -> None:
    """Show sites, contracts, plans in force, attainment and alarms.

    \b
    isochrone status
    isochrone status --watch
    isochrone status --json | jq '.contracts[].budget_left'
    isochrone status --site http://10.0.0.7:8080     # a site that is cut off says how old its plan is
    """
    if site is not None:
        _show_site(run(_ask_site(site, state)), as_json)
        return
    directory = find_state(state)
    if watch:
        with contextlib.suppress(KeyboardInterrupt):
            run(_watch_json(directory) if as_json else _watch(directory))
        return
    found, plan = run(_ask(directory))
    if as_json:
        echo_json(_document(found, plan))
        return
    from isochrone.console.fabric_status import render
    from isochrone.console.tables import show

    show(render(found, plan))


def _show_site(report: SiteReport, as_json: bool) -> None:
    if as_json:
        echo_json(report.to_json())
        return
    from isochrone.console.site_status import render
    from isochrone.console.tables import show

    show(render(report))


async def _ask_site(base: str, state: Path | None) -> SiteReport:
    """What a site says of itself.

    Raises:
        PeerError: nobody answers there, or not with a site's status.
    """
    import httpx

    from isochrone.control.report import SiteReport
    from isochrone.errors import PeerError
    from isochrone.serve.client import client_context

    tls = client_context(authority_of(state) if state else True)
    try:
        async with httpx.AsyncClient(timeout=5.0, verify=tls) as http:
            answer = await http.get(f"{base.rstrip('/')}/.isochrone/status")
            answer.raise_for_status()
            return SiteReport.from_json(answer.json())
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise PeerError(f"{base} tells no site's status: {error}", code="status.site") from error


async def _ask(state: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The hub's status and its plan; None while it has none."""
    from isochrone.serve.hub_client import HubClient

    client = HubClient(state)
    found, plan = await asyncio.gather(client.status(), client.ask("GET", "/plan"))
    return found, plan if plan["status_code"] == 200 else None


def _document(found: dict[str, Any], plan: dict[str, Any] | None) -> dict[str, Any]:
    from isochrone.console.fabric_status import contracts_of

    return {key: value for key, value in found.items() if key != "status_code"} | {
        "contracts": contracts_of(found, plan)
    }


async def _watch(state: Path) -> None:
    from isochrone.console.fabric_status import render
    from isochrone.console.tables import live, stack, weak, wrong
    from isochrone.errors import PeerError

    shown: Any = weak("asking the hub")
    with live() as screen:
        while True:
            try:
                shown = render(*await _ask(state))
                screen.update(stack([shown, weak("Ctrl-C ends this")]), refresh=True)
            except PeerError as error:
                screen.update(stack([shown, wrong(str(error))]), refresh=True)
            await asyncio.sleep(_REFRESH_S)


async def _watch_json(state: Path) -> None:
    while True:
        click.echo(json.dumps(_document(*await _ask(state)), sort_keys=True))
        await asyncio.sleep(_REFRESH_S)
