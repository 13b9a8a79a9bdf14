"""``isochrone identity``: people and agents."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from isochrone.cli.common import echo_json, find_state, run, state_option
from isochrone.errors import AuthorityError

if TYPE_CHECKING:
    from isochrone.serve.keyring import Keyring

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
@click.option("--by", default="human:operator", show_default=True, help="The operator who enrols.")
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
    run(_enrol(directory, ring, by, "enrol", holder.identity().to_json()))
    click.echo(f"enrolled {identifier}, signed by {by}")


async def _enrol(state: Path, ring: Keyring, by: str, act: str, subject: dict[str, object]) -> None:
    from isochrone.authority.identity import sign_act
    from isochrone.serve.hub_client import HubClient
    from isochrone.serve.people import registry_from

    client = HubClient(state)
    registry = registry_from((await client.status())["fabric"], await client.ask("GET", "/people"))
    signed = sign_act(registry, act, subject, key=ring.get(by).key, now_s=time.time())
    answer = await client.ask("POST", "/people", {"act": signed})
    if "refused" in answer:
        raise AuthorityError("; ".join(answer["refused"]), code="identity.refused")


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
@click.option("--by", default="human:operator", show_default=True)
@state_option
def retire(identifier: str, by: str, state: Path | None) -> None:
    """Retire a person or agent for good; their chains stop at the next exchange."""
    from isochrone.serve.keyring import Keyring

    directory = find_state(state)
    run(_enrol(directory, Keyring(directory), by, "retire", {"id": identifier}))
    click.echo(f"retired {identifier}")
