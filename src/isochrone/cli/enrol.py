"""Enrolment of sites: `isochrone enrol` where the hub is, `isochrone join` on the site's own machine."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from isochrone.cli.common import find_state, run, state_option
from isochrone.cli.signing import ActDesk, by_option, passkey_option
from isochrone.errors import InputError

if TYPE_CHECKING:
    from isochrone.serve.home import HubHome

__all__ = ["enrol", "join"]

_BUS, _HUB = "127.0.0.1:7701", "127.0.0.1:7702"


@click.command()
@click.argument("fabric", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option(
    "--site", "sites", multiple=True, help="Site to enrol; may be repeated. Default: all that have not joined."
)
@click.option("--remove", help="Site to take out of the fabric: its grants, certificate and bus user are refused.")
@state_option
@click.option("--hours", default=24.0, show_default=True, help="How long a token is good for.")
@click.option("--bus", help=f"Where sites reach the bus. Default: {_BUS}, or as said before.")
@click.option("--hub", help=f"Where sites reach the hub to join and renew. Default: {_HUB}, or as said before.")
@click.option("--operator", default="human:operator", show_default=True, help="First operator, if nobody is enrolled.")
@by_option
@passkey_option
def enrol(
    fabric: Path | None, sites: tuple[str, ...], remove: str | None, state: Path | None, hours: float,
    bus: str | None, hub: str | None, operator: str, by: str, passkey: bool,
) -> None:  # fmt: skip
    """Let sites in: an operator signs for each, and a command is printed, to be run once on its machine.

    \b
    isochrone enrol fabric.yaml --state ./state --hub 10.0.0.5:7702 --bus 10.0.0.5:7701
    isochrone enrol --site konstanz --hours 1
    isochrone enrol --remove konstanz

    FABRIC is needed the first time, and for sites that the running hub's fabric does not name.
    """
    if remove is not None:
        _remove(ActDesk(find_state(state), by, passkey), remove)
        return
    from isochrone.authority.sites import admit_subject, admitted
    from isochrone.serve.act_book import ActBook
    from isochrone.serve.admission import Admission, new_join_key

    home, known = _opened(fabric, state, operator)
    unknown = sorted(set(sites) - known)
    if unknown:
        hint = f"sites: {', '.join(sorted(known))}"
        raise InputError(f"the fabric has no site {', '.join(unknown)}", code="enrol.site", hint=hint)
    _say_addresses(home, bus, hub)
    admission, desk = Admission(home), ActDesk(home.root.parent, by, passkey)
    believed, _ = admitted(ActBook(home).sites, home.fabric, home.roster())
    for name in sites or sorted(known - believed.keys()):
        key = new_join_key()
        run(desk.enter_here("admit", admit_subject(name, key.public)))
        token = admission.invite(name, hours * 3600, key)
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(token.exp_s))
        click.echo(f"{name}: run this on its machine, once, until {until}", err=True)
        click.echo(f"isochrone join {token.encode()} --home {name}")


@click.command()
@click.argument("token")
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="The site's directory. Default: ./SITE.")
def join(token: str, home: Path | None) -> None:
    """Make this machine a site's: its keys are made here and stay here; the hub certifies them.

    \b
    isochrone join isochrone-join-... --home konstanz
    isochrone join - --home konstanz < token     (a token on the command line shows in lists of processes)
    """
    from functools import partial

    from isochrone.serve.enrolment import JoinToken
    from isochrone.serve.home import SiteHome
    from isochrone.serve.hub_link import ask_to_join
    from isochrone.serve.joining import join as join_fabric

    invitation = JoinToken.parse(sys.stdin.readline() if token == "-" else token, time.time())  # noqa: S105
    directory = home or Path(invitation.site)
    join_fabric(SiteHome(directory), invitation, partial(ask_to_join, invitation))
    click.echo(f"{invitation.site} has joined {invitation.fabric}; run `isochrone node --home {directory}`")


def _opened(fabric: Path | None, state: Path | None, operator: str) -> tuple[HubHome, set[str]]:
    """The hub's directory, made where there is none, and the sites that may be enrolled."""
    from isochrone.serve.desired import read_desired, validate_desired
    from isochrone.serve.files import private_dir
    from isochrone.serve.home import HubHome
    from isochrone.serve.hub_client import HubClient
    from isochrone.serve.keyring import Keyring

    if fabric is None:
        directory = find_state(state)
        status = run(HubClient(directory).status())
        return HubHome.open(directory, str(status["fabric"])), set(status["nouns"].get("sites", {}))
    noun, _ = validate_desired(*read_desired(fabric), file=fabric.name)
    directory = private_dir(state or Path(".isochrone") / noun.name)
    home = HubHome.open(directory, noun.name)
    if not (home.root / "identities.json").exists():
        holder = Keyring(directory).create(operator, operator.partition(":")[2])
        home.save_people({"anchor": [holder.identity(is_operator=True).to_json()], "acts": []})
        click.echo(f"enrolled {operator} as the first operator", err=True)
    return home, set(noun.sites)


def _say_addresses(home: HubHome, bus: str | None, hub: str | None) -> None:
    from isochrone.forward.xds import Address

    told = home.addresses() if (home.root / "addresses.json").exists() else {"bus": _BUS, "sites": _HUB}
    for name, value in (("bus", bus), ("sites", hub)):
        if value is not None:
            try:
                told[name] = str(Address.parse(value))
            except ValueError as error:
                raise InputError(f"{value!r} is not host:port", code="enrol.address") from error
    home.save_addresses(told["bus"], told["sites"])


def _remove(desk: ActDesk, site: str) -> None:
    """By an act, which every site hears; and out of the roster, which the hub hears of where one runs."""
    from isochrone.errors import PeerError
    from isochrone.serve.act_book import ActBook
    from isochrone.serve.admission import Admission
    from isochrone.serve.home import HubHome
    from isochrone.serve.hub_client import HubClient

    home = HubHome(desk.state / "hub", (desk.state / "hub" / "fabric").read_text())
    is_admitted = site in ActBook(home).sites
    if is_admitted:
        run(desk.enter_here("remove-site", {"site": site}))
    if not Admission(home).remove(site) and not is_admitted:
        hint = f"enrolled: {', '.join(sorted(home.roster())) or 'nobody'}"
        raise InputError(f"{site} is not enrolled", code="enrol.site", hint=hint)
    try:
        run(HubClient(desk.state).ask("POST", "/roster"))
        click.echo(f"removed {site}: the bus and every connected site refuse it now")
    except PeerError:
        click.echo(f"removed {site}: in force once the hub runs")
