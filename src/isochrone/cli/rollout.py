"""``isochrone rollout``, ``promote`` and ``rollback``: revisions, where they are in force, and back again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from isochrone.cli.common import echo_json, find_state, run, state_option
from isochrone.cli.signing import ActDesk, by_option, passkey_option
from isochrone.errors import InputError

__all__ = ["promote", "rollback", "rollout"]

_yes = click.option("--yes", is_flag=True, help="Do not ask.")
_timeout = click.option(
    "--timeout", "timeout_s", default=30.0, show_default=True, help="Seconds until a site counts as failed."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print for machines; needs --yes.")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
@state_option
def rollout(as_json: bool, state: Path | None) -> None:
    """Show which sites have the newest revision in force since when, who rejected it, and what the shadow counts.

    \b
    isochrone rollout
    isochrone rollout --json | jq .rollout.complete_s
    """
    directory = find_state(state)
    found, status = run(_ask(directory, "/revisions")), run(_ask(directory, "/status"))
    shadow = status["shadow"] and status["shadow"] | {
        "sites": {site: report["shadow"] for site, report in status["sites"].items() if report["shadow"]}
    }
    if as_json:
        echo_json(found | {"shadow": shadow})
        return
    from isochrone.console.rollout import render
    from isochrone.console.tables import show

    show(render(found["rollout"], found["revisions"], shadow, time.time()))


@click.command()
@_yes
@_timeout
@_json
@by_option
@passkey_option
@click.option("--drop", is_flag=True, help="End the shadow instead.")
@state_option
def promote(yes: bool, timeout_s: float, as_json: bool, by: str, passkey: bool, drop: bool, state: Path | None) -> None:
    """Put into force what runs in shadow (`isochrone apply FABRIC --shadow`)."""
    from isochrone.cli.apply import change, check_asks

    check_asks(as_json, yes)
    directory = find_state(state)
    candidate = run(_ask(directory, "/shadow"))
    if not candidate:
        raise InputError("nothing runs in shadow", code="rollout.no-shadow", hint="isochrone apply FABRIC --shadow")
    if drop:
        run(_ask(directory, "/shadow", "PUT", {}))
        click.echo("nothing runs in shadow any more")
        return
    change(
        ActDesk(directory, by, passkey), candidate["fabric"], candidate["policies"],
        yes=yes, timeout_s=timeout_s, as_json=as_json, expected=candidate["base"],
    )  # fmt: skip


@click.command()
@click.option("--to", "revision", type=int, help="The revision to go back to. Default: the one before the newest.")
@_yes
@_timeout
@_json
@by_option
@passkey_option
@state_option
def rollback(
    revision: int | None, yes: bool, timeout_s: float, as_json: bool, by: str, passkey: bool, state: Path | None
) -> None:
    """Apply an earlier revision again, as a new one.

    \b
    isochrone rollback
    isochrone rollback --to 3 --yes
    """
    from isochrone.cli.apply import change, check_asks

    check_asks(as_json, yes)
    directory = find_state(state)
    if revision is None:
        kept = [each["revision"] for each in run(_ask(directory, "/revisions"))["revisions"]]
        if len(kept) < 2:
            raise InputError("there is no revision before this one", code="rollout.first")
        revision = kept[-2]
    before = run(_ask(directory, f"/revisions/{revision}"))
    desk = ActDesk(directory, by, passkey)
    run(desk.check_applied(revision, before["fabric"], before["policies"]))
    change(desk, before["fabric"], before["policies"], yes=yes, timeout_s=timeout_s, as_json=as_json)


async def _ask(state: Path, path: str, method: str = "GET", body: object = None) -> dict[str, Any]:
    from isochrone.serve.hub_client import HubClient

    answer = await HubClient(state).ask(method, path, body)
    if answer.pop("status_code") != 200:
        raise InputError(answer.get("title", "the hub refused"), code="rollout.refused", hint=answer.get("detail", ""))
    return answer
