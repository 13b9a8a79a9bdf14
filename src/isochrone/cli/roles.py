"""The roles: a whole fabric, the hub alone, a node alone."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import click

from isochrone.cli.common import find_state, site_urls, state_option

__all__ = ["hub", "node", "up"]


def _log(verbose: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _run(main: Any) -> Any:
    """Run a role until it ends or a signal stops it."""
    import uvloop

    from isochrone.serve.process import run_until_signal

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run_until_signal(main))


_certificate_life = click.option(
    "--certificate-life-s", default=86_400, show_default=True, type=click.IntRange(min=2),
    help="Life of sites' certificates, in seconds; sites renew theirs at half of it.",
)  # fmt: skip


@click.command()
@click.argument("fabric", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--state", type=click.Path(path_type=Path, file_okay=False), help="Default: ./.isochrone/NAME.")
@click.option("--operator", default="human:operator", show_default=True, help="First operator, if nobody is enrolled.")
@_certificate_life
@click.option("-v", "--verbose", is_flag=True)
def up(fabric: Path, state: Path | None, operator: str, certificate_life_s: int, verbose: bool) -> None:
    """Run a whole fabric on this machine: bus, hub, and a node, Envoy and model servers per site.

    \b
    isochrone up fabric.yaml
    isochrone up fabric.yaml --state /var/lib/isochrone

    Stop it with Ctrl-C: everything it started stops with it.
    """
    _log(verbose)
    from isochrone.serve.desired import read_desired, validate_desired
    from isochrone.serve.up import Embedded

    noun, _ = validate_desired(*read_desired(fabric), file=fabric.name)
    directory = state or Path(".isochrone") / noun.name
    embedded = Embedded(fabric, directory, operator, certificate_life_s=certificate_life_s, say=click.echo)

    async def ready(status: dict[str, Any], _: object) -> None:
        click.echo(f"\nfabric {status['fabric']} is up (plan {status['plan']}); state in {directory}\n")
        urls = site_urls(status)
        for name, report in status["sites"].items():
            models = ", ".join(f"{workload} x{count}" for workload, count in report["ready"].items()) or "-"
            click.echo(f"  {name:<14} {urls[name]:<29} {models}")
        click.echo("\nCtrl-C stops everything.")
        await asyncio.Event().wait()

    _run(embedded.run(ready))
    click.echo("stopped")


@click.command()
@click.argument("fabric", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--state", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--bus", help="URL of a bus that runs already; without it the hub starts one.")
@click.option("--api", default="127.0.0.1:7700", show_default=True, help="Where operators' commands reach it.")
@click.option("--origin", help="Where browsers reach it, for passkeys. Default: http://localhost and the API's port.")
@click.option("--sites", help="Where to listen for sites that join or renew. Default: the address they were told.")
@_certificate_life
@click.option("-v", "--verbose", is_flag=True)
def hub(
    fabric: Path | None, state: Path, bus: str | None, api: str, origin: str | None, sites: str | None,
    certificate_life_s: int, verbose: bool,
) -> None:  # fmt: skip
    """Run the hub alone.

    FABRIC is applied at start when it differs from what is in force, signed with an operator's key if one is here.

    \b
    isochrone hub fabric.yaml --state ./state
    isochrone hub --state ./state --bus tls://10.0.0.5:4222
    """
    _log(verbose)
    from isochrone.console.hub_pages import HubPages
    from isochrone.errors import InputError
    from isochrone.forward.xds import Address
    from isochrone.serve.ceremonies import Origin
    from isochrone.serve.files import atomic_write, lock
    from isochrone.serve.home import HubHome
    from isochrone.serve.hub import Hub, read_desired
    from isochrone.serve.keyring import Keyring
    from isochrone.serve.process import Supervisor
    from isochrone.serve.signing import act_signer

    first = read_desired(fabric) if fabric else None
    mark = state / "hub" / "fabric"
    if not mark.exists():
        raise InputError(
            f"{state} is not enrolled", code="hub.no-state", hint="run `isochrone enrol FABRIC --site NAME`"
        )
    home = HubHome(state / "hub", mark.read_text())
    address, sign = Address.parse(api), act_signer(Keyring(state))
    web = Origin.parse(origin or f"http://localhost:{address.port}")

    def new(bus_url: str) -> Hub:
        at = Address.parse(sites) if sites else None
        return Hub(home, bus_url, address, web, HubPages(home.fabric), at, certificate_life_s)

    async def main() -> None:
        if bus is not None:
            await new(bus).run(first, sign)
            return
        async with Supervisor(state / "logs") as supervisor:
            server = home.bus_server()
            await supervisor.start(server.spec())
            await new(server.url).run(first, sign)

    with lock(home.root / "lock"):
        atomic_write(home.root / "api.json", json.dumps({"url": f"http://{address}"}).encode())
        _run(main())


@click.command()
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="The enrolled site's directory.")
@click.option("--site", help="Instead of --home: a site below --state.")
@state_option
@click.option("--concurrency", default=1, show_default=True, help="Envoy's worker threads.")
@click.option("-v", "--verbose", is_flag=True)
def node(home: Path | None, site: str | None, state: Path | None, concurrency: int, verbose: bool) -> None:
    """Run one site's node, with its Envoy and model servers, alone.

    \b
    isochrone node --home ./konstanz
    isochrone node --site konstanz --state ./state
    """
    _log(verbose)
    from isochrone.errors import InputError
    from isochrone.serve.files import lock
    from isochrone.serve.home import SiteHome
    from isochrone.serve.node import Node

    if (home is None) == (site is None):
        raise InputError("name the site's directory", code="node.home", hint="--home DIR, or --site NAME with --state")
    directory = home if home is not None else find_state(state) / "sites" / str(site)
    enrolled = SiteHome(directory)
    enrolled.document()
    with lock(directory / "lock"):
        _run(Node(enrolled, concurrency=concurrency).run())
