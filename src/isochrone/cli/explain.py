"""``isochrone explain`` and ``reach``: why requests go where they go, and what a time limit can reach."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from isochrone.cli.common import echo_json, find_state, run, state_option
from isochrone.errors import InputError

if TYPE_CHECKING:
    from isochrone.console.known import Known
    from isochrone.model.site import Position

__all__ = ["explain", "reach"]

_FABRIC = click.option(
    "--fabric", type=click.Path(path_type=Path, dir_okay=False),
    help="Answer from this document, as if nothing were measured yet, instead of from the running hub.",
)  # fmt: skip
_TIME = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(us|ms|s)\s*")
_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_POSITION = re.compile(r"\s*([+-]?[0-9.]+)\s*,\s*([+-]?[0-9.]+)\s*")


@click.command()
@click.option("--contract", required=True)
@click.option("--from", "ingress", required=True, help="The site where the request enters.")
@click.option("--within", help="A tighter deadline that the contract offers, such as 20ms. Default: its objective.")
@_FABRIC
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
@state_option
def explain(
    contract: str, ingress: str, within: str | None, fabric: Path | None, as_json: bool, state: Path | None
) -> None:
    """Say why a contract is served where it is, why not elsewhere, and what would change that.

    \b
    isochrone explain --contract line-audio --from konstanz
    isochrone explain --contract line-audio --from konstanz --within 10ms
    isochrone explain --contract line-audio --from konstanz --fabric fabric.yaml    # without a hub
    """
    from isochrone.plan.explain import explain as explain_plan

    known = _known(fabric, state)
    _require("contract", contract, known.fabric.contracts)
    _require("site", ingress, known.fabric.sites)
    deadline_ms = None if within is None else round(_seconds(within) * 1e3, 6)
    found = explain_plan(
        known.fabric, known.rtt, known.service, known.bounds, known.up, known.plan, contract, ingress, known.now_s,
        deadline_ms,
    )  # fmt: skip
    if as_json:
        echo_json(found.to_json())
        return
    from isochrone.console.explained import render
    from isochrone.console.tables import show

    show(render(found))


@click.command()
@click.option("--from", "place", required=True, help="A site, or a position as LAT,LON in degrees.")
@click.option("--within", required=True, help="The time limit: 20ms, 0.5s.")
@click.option("--workload", required=True)
@click.option("--metric", type=click.Choice(["duration", "first_byte"]), default="duration", show_default=True)
@click.option("--quantile", default=0.99, show_default=True, help="Share of executions that must make it.")
@click.option("--picture", type=click.Path(path_type=Path, dir_okay=False), help="Draw it: a .png, .svg or .pdf file.")
@_FABRIC
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
@state_option
def reach(
    place: str,
    within: str,
    workload: str,
    metric: str,
    quantile: float,
    picture: Path | None,
    fabric: Path | None,
    as_json: bool,
    state: Path | None,
) -> None:
    """Draw the isochrone: which sites can answer within a time, and how far any site could stand.

    \b
    isochrone reach --from konstanz --within 20ms --workload voice
    isochrone reach --from 48.2,16.4 --within 20ms --workload voice --picture vienna.png
    isochrone reach --from konstanz --within 20ms --workload voice --fabric fabric.yaml
    """
    from isochrone.latency.reach import reach as find_reach
    from isochrone.model.contract import Metric

    if not 0 < quantile < 1:
        raise InputError(f"{quantile:g} is no quantile", code="reach.quantile", hint="between 0 and 1, such as 0.99")
    within_s = _seconds(within)
    known = _known(fabric, state)
    start = place if place in known.fabric.sites else _position(place, sorted(known.fabric.sites))
    found = find_reach(
        known.fabric, known.rtt, known.service, start, within_s, workload, Metric(metric), quantile, known.now_s
    )
    if picture is not None:
        from isochrone.console.picture import draw

        draw(found, known.fabric, picture)
    if as_json:
        echo_json(found.to_json())
        return
    from isochrone.console.reached import render
    from isochrone.console.tables import show

    show(render(found))
    if picture is not None:
        click.echo(f"\nwrote {picture}")


def _known(fabric: Path | None, state: Path | None) -> Known:
    from isochrone.console.known import Known

    if fabric is not None:
        from isochrone.serve.desired import read_desired, validate_desired

        return Known.declared(*validate_desired(*read_desired(fabric), file=fabric.name))
    from isochrone.serve.hub_client import HubClient

    return Known.told(run(HubClient(find_state(state)).ask("GET", "/known")))


def _require(kind: str, name: str, names: object) -> None:
    known = sorted(names)  # type: ignore[call-overload]
    if name not in known:
        raise InputError(f"there is no {kind} {name!r}", code=f"explain.{kind}", hint=f"{kind}s: {', '.join(known)}")


def _seconds(text: str) -> float:
    match = _TIME.fullmatch(text)
    if match is None or float(match[1]) == 0:
        raise InputError(f"{text!r} is no time limit", code="reach.time", hint="a number and its unit: 20ms, 0.5s")
    return float(match[1]) * _UNITS_S[match[2]]


def _position(text: str, sites: list[str]) -> Position:
    from isochrone.model.site import Position

    match = _POSITION.fullmatch(text)
    try:
        if match is not None:
            return Position(lat=float(match[1]), lon=float(match[2]))
    except ValueError:
        pass  # numbers, but no place on earth
    raise InputError(
        f"{text!r} is neither a site nor a position", code="reach.place",
        hint=f"sites: {', '.join(sites)}; or LAT,LON in degrees, such as 47.66,9.18",
    )  # fmt: skip
