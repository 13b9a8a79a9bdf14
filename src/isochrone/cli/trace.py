"""``isochrone trace``: from an execution to its human."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from isochrone.cli.common import authority_of, echo_json, find_state, run, site_urls, state_option

__all__ = ["gather", "trace"]


@click.command()
@click.argument("execution")
@state_option
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Keep the evidence in a file.")
@click.option("--from", "saved", type=click.Path(path_type=Path, exists=True), help="Verify saved evidence, offline.")
@click.option("--trust", type=click.Path(path_type=Path, exists=True), help="Log keys and registry to verify against.")
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
def trace(
    execution: str, state: Path | None, save: Path | None, saved: Path | None, trust: Path | None, as_json: bool
) -> None:
    """Verify EXECUTION (the x-isochrone-execution header of an answer), step by numbered step.

    \b
    isochrone trace konstanz/6f9f0d3e-4f0c-4e5e-9a7e-0c6f6f2f9b1d
    isochrone trace konstanz/6f9f0d3e-... --save evidence.json
    isochrone trace konstanz/6f9f0d3e-... --from evidence.json --trust trusted.json    # needs nobody

    Saved evidence carries the log keys (`vkeys`) and the registry (`people`) it was gathered with. Who gives you the
    evidence could have made those up: keep a copy of yours and name it with --trust.

    Exit status 0 only when every step held.
    """
    document = json.loads(saved.read_text()) if saved else run(gather(find_state(state), execution))
    if save:
        save.write_text(json.dumps(document, indent=1))
    if trust:
        kept = json.loads(trust.read_text())
        document |= {name: kept[name] for name in ("fabric", "hub_key", "vkeys", "people", "witnesses") if name in kept}
    verified = verify(document, execution)
    if as_json:
        steps = [{"number": s.number, "title": s.title, "held": s.held, "detail": s.detail} for s in verified.steps]
        echo_json({"execution": execution, "held": verified.held, "steps": steps, "outcome": verified.outcome})
    else:
        show(execution, verified)
        if saved and not trust:
            click.echo("verified against the keys in the evidence itself; name your own with --trust")
    sys.exit(0 if verified.held else 1)


async def gather(state: Path, execution: str, *, timeout_s: float = 4.0) -> dict[str, Any]:
    """Evidence from every site, with what it is verified against: log keys and the identity registry.

    Waits until the record of the site that answers for it is covered by a checkpoint, and all that is shown by one
    that a quorum of witnesses has cosigned, at most `timeout_s`.
    """
    import httpx

    from isochrone.serve.client import client_context
    from isochrone.serve.hub_client import HubClient

    client = HubClient(state)
    status, people = await client.status(), await client.ask("GET", "/people")
    bases = site_urls(status)
    site, _, identifier = execution.partition("/")
    async with httpx.AsyncClient(timeout=5.0, verify=client_context(authority_of(state))) as http:
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while True:
            answers = await _ask_all(http, bases, identifier)
            ends = [record for record in _records(answers) if record["kind"] in ("outcome", "refusal")]
            grants = {record["who"]["grant"] for record in ends} - {None}
            for grant in sorted(grants):
                answers += await _ask_all(http, bases, grant)
            is_there = any(record["where"]["site"] == site for record in ends)
            document = {
                "fabric": status["fabric"],
                "hub_key": status["hub_key"],
                "vkeys": status["vkeys"],
                "witnesses": status["witnesses"],
                "people": {"anchor": people["anchor"], "acts": people["acts"]},
                "revocations": await _feed(http, bases),
                "evidence": answers,
            }
            is_whole = bool(grants) and is_there and _is_witnessed(document, execution)
            if is_whole or asyncio.get_running_loop().time() > deadline_s:
                return document
            await asyncio.sleep(0.3)


async def _feed(http: Any, bases: dict[str, str]) -> list[str]:
    """The longest revocation feed that a site shows: each is a beginning of the one feed."""
    import httpx

    async def ask(base: str) -> list[str]:
        try:
            answer = await http.get(f"{base}/.isochrone/revocations")
        except httpx.HTTPError:
            return []
        return list(answer.text.splitlines()) if answer.status_code == 200 else []

    return max(await asyncio.gather(*map(ask, bases.values())), key=len, default=[])


def _is_witnessed(document: dict[str, Any], execution: str) -> bool:
    from isochrone.record.trace import WITNESSED

    return all(step.held for step in verify(document, execution).steps if step.title == WITNESSED)


async def _ask_all(http: Any, bases: dict[str, str], identifier: str) -> list[dict[str, Any]]:
    """What every site that answers has about an id."""
    import httpx

    async def ask(base: str) -> dict[str, Any] | None:
        try:
            answer = await http.get(f"{base}/.isochrone/evidence/{identifier}")
        except httpx.HTTPError:
            return None
        return dict(answer.json()) if answer.status_code == 200 else None

    return [answer for answer in await asyncio.gather(*map(ask, bases.values())) if answer]


def _records(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [json.loads(each["record"]) for answer in answers for each in answer["records"]]


def verify(document: dict[str, Any], execution: str) -> Any:
    """The verified trace of a gathered document: pure, offline."""
    from isochrone.authority.known_groups import known_groups
    from isochrone.record.trace import trace as verify_trace
    from isochrone.serve.people import registry_from

    registry = registry_from(document["fabric"], document["people"])
    witnesses, feed = document.get("witnesses"), _past_feed(document)
    return verify_trace(document["evidence"], execution, document["vkeys"], registry, known_groups(), witnesses, feed)


def _past_feed(document: dict[str, Any]) -> Any:
    """The revocations in a gathered document, or why they prove nothing."""
    from isochrone.authority.jose import PublicKey
    from isochrone.errors import IntegrityError, IsochroneError
    from isochrone.record.revoked import PastFeed

    if "hub_key" not in document:
        return IntegrityError("the hub's key, which signs revocations, is not given", code="record.feed")
    try:
        return PastFeed(document["fabric"], PublicKey.from_jwk(document["hub_key"]), document.get("revocations", []))
    except IsochroneError as error:
        return error


def show(execution: str, verified: Any) -> None:
    """Print the steps as people read them."""
    click.echo(f"execution {execution}\n")
    show_steps(verified.steps, held=verified.held)


def show_steps(steps: Sequence[Any], *, held: bool) -> None:
    """Print numbered steps and the verdict."""
    for step in steps:
        mark = click.style("held", fg="green") if step.held else click.style("BROKEN", fg="red", bold=True)
        click.echo(f"{step.number:>3}. {step.title}: {mark}")
        for line in step.detail.splitlines():
            click.echo(f"       {line}")
    verdict = "every step held" if held else "NOT verified"
    click.echo(f"\n{verdict}")
