"""``isochrone drain``: take a site out of service without losing a request, and bring it back."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import click

from isochrone.cli.common import echo_json, find_state, run, state_option
from isochrone.cli.signing import ActDesk, by_option, passkey_option

__all__ = ["drain"]


@click.command()
@click.argument("site")
@click.option("--undo", is_flag=True, help="Let the site have executions again.")
@click.option("--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds to wait for what runs there.")
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
@by_option
@passkey_option
@state_option
def drain(site: str, undo: bool, timeout_s: float, as_json: bool, by: str, passkey: bool, state: Path | None) -> None:
    """Send SITE no new executions, by an operator's signed act, and wait until what runs there has ended.

    \b
    isochrone drain zurich
    isochrone drain zurich --undo

    Every other site stops choosing it first; then executions that began there end. Its replicas stay up, so that it can
    come back at once. Requests that enter at SITE are forwarded to other sites as long as its node runs.

    Exit status 1 when executions still run there, or a site still sends some, after the time-out.
    """
    directory = find_state(state)
    desk = ActDesk(directory, by, passkey)
    run(desk.enter("undrain" if undo else "drain", {"site": site}))
    status = run(desk.client.status())
    waited = run(_wait(directory, site, status["plan"], timeout_s, undo))
    if as_json:
        echo_json({"drained": status["drained"], "plan": status["plan"], **waited})
    else:
        _say(site, undo, waited, timeout_s)
    sys.exit(1 if waited["behind"] or waited["in_flight"] else 0)


async def _wait(state: Path, site: str, plan: int, timeout_s: float, undo: bool) -> dict[str, Any]:
    """Which live sites have not the plan in force, and what still runs at the site."""
    from isochrone.serve.hub_client import HubClient

    client, start_s, turned_at_s = HubClient(state), time.monotonic(), float("inf")
    while True:
        status = await client.status()
        behind = sorted(name for name in status["up"] if status["sites"][name]["plan"] < plan)
        report = status["sites"][site] if site in status["up"] and not undo else None
        left = report["in_flight"] if report else 0
        elapsed_s = round(time.monotonic() - start_s, 3)
        # What a site said of itself before the last one turned away may be out of date.
        if not behind and report:
            turned_at_s = min(turned_at_s, report["at_s"])
        settled = not (behind or left) and (report is None or report["at_s"] > turned_at_s)
        if settled or elapsed_s > timeout_s:
            return {"behind": behind, "in_flight": left, "after_s": elapsed_s}
        await asyncio.sleep(0.1)


def _say(site: str, undo: bool, waited: dict[str, Any], timeout_s: float) -> None:
    for name in waited["behind"]:
        click.secho(f"{name}: the plan is not in force after {timeout_s:g} s", fg="red")
    if waited["in_flight"]:
        click.secho(f"{site}: {waited['in_flight']} executions still run after {timeout_s:g} s", fg="red")
    if not waited["behind"] and not waited["in_flight"]:
        what = "has executions again" if undo else "is drained: nobody sends to it and nothing runs there"
        click.echo(f"{site} {what}, after {waited['after_s']:.2f} s")
