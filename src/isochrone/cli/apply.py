"""``isochrone apply``: change a running fabric, and know when every site has the change in force."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import click

from isochrone.cli.common import echo_json, find_state, run, state_option
from isochrone.cli.signing import ActDesk, by_option, passkey_option
from isochrone.errors import InputError

__all__ = ["apply", "change", "check_asks"]

_COLOURS = {"+": "green", "-": "red", "~": "yellow"}


@click.command()
@click.argument("fabric", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only show the difference.")
@click.option("--timeout", "timeout_s", default=30.0, show_default=True, help="Seconds until a site counts as failed.")
@click.option("--json", "as_json", is_flag=True, help="Print for machines; needs --yes or --dry-run.")
@by_option
@passkey_option
@click.option("--shadow", is_flag=True, help="Change nothing: have every site count what the policies would change.")
@state_option
def apply(
    fabric: Path,
    yes: bool,
    dry_run: bool,
    timeout_s: float,
    as_json: bool,
    by: str,
    passkey: bool,
    shadow: bool,
    state: Path | None,
) -> None:
    """Change a running fabric to what FABRIC says: show the difference, ask, apply, wait until it is in force.

    \b
    isochrone apply fabric.yaml
    isochrone apply fabric.yaml --dry-run
    isochrone apply fabric.yaml --yes --json
    isochrone apply fabric.yaml --shadow && isochrone rollout && isochrone promote

    Exit status 1 when a site has not the change in force in time; it is named, with its alarms.
    """
    from isochrone.serve.desired import read_desired, validate_desired

    check_asks(as_json, yes or dry_run)
    text, policies = read_desired(fabric)
    validate_desired(text, policies, file=fabric.name)
    directory = find_state(state)
    if shadow:
        _show_changes(answer := run(_post(directory, {"fabric": text, "policies": policies}, "PUT", "/shadow")))
        click.echo(
            f"candidate {answer['number']} runs in shadow beside revision {answer['revision']}: isochrone rollout"
        )
        return
    desk = ActDesk(directory, by, passkey)
    change(desk, text, policies, yes=yes, dry_run=dry_run, timeout_s=timeout_s, as_json=as_json)


def check_asks(as_json: bool, answered: bool) -> None:
    """Raises UsageError where a machine would be asked a question."""
    if as_json and not answered:
        raise click.UsageError("--json does not ask: add --yes, or --dry-run")


def change(
    desk: ActDesk, text: str, policies: dict[str, str], *, yes: bool, timeout_s: float, as_json: bool,
    dry_run: bool = False, expected: int | None = None,
) -> NoReturn:  # fmt: skip
    """Change desired state to these documents, in view of the difference; ends the process.

    Args:
        expected: the revision that the documents were meant to change; another one is refused.
    """
    state = desk.state
    body = {"fabric": text, "policies": policies, "expected": expected}
    answer = run(_post(state, body | {"dry_run": True}))
    if not as_json:
        _show_changes(answer)
    if answer["changes"] and not dry_run:
        if not yes:
            click.confirm(f"apply {len(answer['changes'])} changes?", abort=True)
        act = run(_sign(desk, text, policies))
        answer = run(_post(state, body | {"expected": answer["revision"], "act": act}))
    # Also when nothing differs: a site may still be on its way to what was applied before.
    waited = {} if dry_run else run(_wait(state, answer["revision"], timeout_s, quiet=as_json))
    if as_json:
        echo_json(answer | waited)
    elif waited:
        _show_missing(waited, timeout_s)
    sys.exit(1 if waited.get("missing") else 0)


async def _sign(desk: ActDesk, text: str, policies: dict[str, str]) -> str:
    """The act that applies these documents. Its digests are made here, of the files as they are on this machine."""
    from isochrone.authority.acts import apply_subject

    registry = await desk.registry()
    revision = registry.applied[-1].revision if registry.applied else 0
    subject = apply_subject(revision + 1, text, policies)
    return await desk.act("apply", subject, registry, documents={"fabric": text, "policies": policies})


async def _post(state: Path, body: dict[str, Any], method: str = "POST", path: str = "/apply") -> dict[str, Any]:
    from isochrone.serve.hub_client import HubClient

    answer = await HubClient(state).ask(method, path, body)
    if answer.pop("status_code") != 200:
        findings = answer.get("findings") or answer.get("refused")
        problem = "\n".join(findings) if findings else answer.get("title", "the hub refused the change")
        raise InputError(problem, code="apply.refused", hint=answer.get("detail", ""))
    return answer


def _show_changes(answer: dict[str, Any]) -> None:
    if not answer["changes"]:
        click.echo(f"nothing differs from revision {answer['revision']}")
    for change in answer["changes"]:
        click.secho(change, fg=_COLOURS.get(change[:1]))


async def _wait(state: Path, revision: int, timeout_s: float, *, quiet: bool) -> dict[str, Any]:
    """Seconds until each site had the revision in force, and what is known of those that had not."""
    from isochrone.serve.hub_client import HubClient

    client, start_s = HubClient(state), time.monotonic()
    done: dict[str, float] = {}
    while True:
        status = await client.status()
        elapsed_s = time.monotonic() - start_s
        sites = sorted(status["nouns"].get("sites", {}))
        reports = {site: status["sites"].get(site) for site in sites}
        for site, report in reports.items():
            if site not in done and report is not None and report["desired"] >= revision:
                done[site] = round(elapsed_s, 3)
                if not quiet:
                    click.echo(f"{site}: revision {revision} in force after {elapsed_s:.2f} s")
        missing = sorted(set(sites) - done.keys())
        if not missing or elapsed_s > timeout_s:
            return {"in_force": done, "missing": {site: _trouble(status, site) for site in missing}}
        await asyncio.sleep(0.1)


def _trouble(status: dict[str, Any], site: str) -> dict[str, Any]:
    report = status["sites"].get(site)
    if report is None:
        return {"in_force": 0, "up": False, "alarms": ["the hub has never heard of this site: is its node running?"]}
    alarms = [report["rejected"], *report["alarms"]]
    return {"in_force": report["desired"], "up": site in status["up"], "alarms": [text for text in alarms if text]}


def _show_missing(waited: dict[str, Any], timeout_s: float) -> None:
    for site, trouble in waited["missing"].items():
        state = "is up" if trouble["up"] else "is silent"
        problem = f"not in force after {timeout_s:g} s; it {state}, at revision {trouble['in_force']}"
        click.secho(f"{site}: {problem}", fg="red")
        for alarm in trouble["alarms"]:
            click.echo(f"    {alarm}")
