"""``isochrone revocations``: what was taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from isochrone.cli.common import echo_json, find_state, run, state_option

__all__ = ["revocations"]


@click.command()
@click.option("--all", "show_all", is_flag=True, help="Also those that no longer hold: expired, or resumed since.")
@click.option("--json", "as_json", is_flag=True, help="Print all of them for machines.")
@state_option
def revocations(show_all: bool, as_json: bool, state: Path | None) -> None:
    """List revocations: who took back what, why and when, and since when each site has it in force.

    Times are UTC; those in force are by each site's own clock, once its Envoy has confirmed the change.

    \b
    isochrone revocations
    isochrone revocations --json | jq '.revocations[] | select(.holds) | .id'
    """
    found, status = run(_ask(find_state(state)))
    if as_json:
        echo_json({"revocations": found, "sites": sorted(status["sites"])})
        return
    from isochrone.console.revoked import bound_text, render
    from isochrone.console.tables import show

    shown = found if show_all else [each for each in found if each["holds"]]
    if shown:
        show(render(shown, sorted(status["sites"])))
    else:
        click.echo("nothing is revoked")
    click.echo(bound_text(status["nouns"].get("contracts", {})))


async def _ask(state: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    from isochrone.serve.hub_client import HubClient

    client = HubClient(state)
    return (await client.ask("GET", "/revocations"))["revocations"], await client.status()
