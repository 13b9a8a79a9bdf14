"""``isochrone identity``: people and agents."""

from __future__ import annotations

from pathlib import Path

import click

from isochrone.cli.common import echo_json, find_state, run, state_option
from isochrone.cli.signing import ActDesk

__all__ = ["identity"]


@click.group()
def identity() -> None:
    """Create and list people and agents.

    \b
    isochrone identity create human:ada --name "Ada Lovelace"
    isochrone identity create agent:planner
    isochrone identity list
    """


@identity.command()
@click.argument("identifier")
@click.option("--name", default="", help="The person's name, or what the agent is for.")
@click.option("--by", default="", help="The operator who signs. Default: the one whose key is here.")
@click.option("--local", is_flag=True, help="Only make a key; an agent need not be enrolled to be delegated to.")
@state_option
def create(identifier: str, name: str, by: str, local: bool, state: Path | None) -> None:
    """Make a key for IDENTIFIER (human:NAME or agent:NAME) and enrol it, signed by an operator."""
    from isochrone.serve.keyring import Keyring

    directory = find_state(state)
    ring = Keyring(directory)
    holder = ring.create(identifier, name or identifier.partition(":")[2])
    if local:
        click.echo(f"made a key for {identifier}; not enrolled")
        return
    seq = run(ActDesk(directory, by).enter("enrol", holder.identity().to_json()))
    click.echo(f"enrolled {identifier}, as act {seq}")


@identity.command("list")
@state_option
@click.option("--json", "as_json", is_flag=True)
def list_(state: Path | None, as_json: bool) -> None:
    """Show everyone enrolled, and whose keys are on this machine."""
    from isochrone.serve.home import HubHome
    from isochrone.serve.keyring import Keyring

    directory = find_state(state)
    registry = HubHome(directory / "hub", (directory / "hub" / "fabric").read_text()).people()
    here = {holder.id for holder in Keyring(directory).all()}
    if as_json:
        echo_json([{**each.to_json(), "active": each.is_active} for each in registry.people.values()])
        return
    for each in registry.people.values():
        marks = [each.name, "(operator)" if each.is_operator else "", "" if each.is_active else "(retired)"]
        click.echo(f"{each.id:<24} {' '.join(m for m in marks if m)}{'  (key here)' if each.id in here else ''}")
    for name in sorted(here - registry.people.keys()):
        click.echo(f"{name:<24} not enrolled  (key here)")


@identity.command()
@click.argument("identifier")
@click.option("--by", default="", help="The operator who signs. Default: the one whose key is here.")
@state_option
def retire(identifier: str, by: str, state: Path | None) -> None:
    """Retire a person or agent for good; their chains stop at the next exchange."""
    directory = find_state(state)
    run(ActDesk(directory, by).enter("retire", {"id": identifier}))
    click.echo(f"retired {identifier}")
