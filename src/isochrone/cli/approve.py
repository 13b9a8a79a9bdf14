"""``isochrone approve`` and ``approvals``: a named person's word before a contract may be executed."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from isochrone.cli.common import TAKES_DIGESTS, echo_json, find_state, run, state_option
from isochrone.cli.delegate import seconds
from isochrone.cli.signing import ActDesk, by_option, passkey_option
from isochrone.errors import InputError

__all__ = ["approvals", "approve"]


@click.command()
@click.argument("contract")
@click.option("--reason", required=True, help="Why: on record at every site.")
@click.option("--for", "life", default="30d", show_default=True, help="How long it holds: 8h, 30d.")
@by_option
@passkey_option
@state_option
def approve(contract: str, reason: str, life: str, by: str, passkey: bool, state: Path | None) -> None:
    """Approve that CONTRACT may be executed, on its present terms.

    \b
    isochrone approve diagnosis --reason "risk assessment 12 is done" --for 90d
    isochrone approve diagnosis --reason "reviewed" --by human:ada --passkey

    A contract whose `oversight` asks for approvals gets no grants without. Other terms need another approval.
    """
    seq = run(_approve(ActDesk(find_state(state), by, passkey), contract, reason, seconds(life)))
    click.echo(f"approved contract {contract}: act {seq}")


async def _approve(desk: ActDesk, contract: str, reason: str, life_s: int) -> int:
    from isochrone.authority.acts import approve_subject
    from isochrone.serve.desired import desired_in_force

    known = await desk.client.ask("GET", "/known")
    fabric, _ = desired_in_force(known["fabric"], known["policies"])
    terms = fabric.contracts.get(contract)
    if terms is None:
        hint = f"contracts: {', '.join(sorted(fabric.contracts))}"
        raise InputError(f"there is no contract {contract}", code="approve.contract", hint=hint)
    return await desk.enter("approve", approve_subject(contract, terms.digest, reason, int(time.time()) + life_s))


@click.group()
def approvals() -> None:
    """List approvals, and take one back.

    \b
    isochrone approvals list
    isochrone approvals withdraw 6j-t7mItJ3qm --reason "the review was of another model"
    """


@approvals.command("list")
@click.option("--json", "as_json", is_flag=True)
@state_option
def list_(as_json: bool, state: Path | None) -> None:
    """Every approval given: contract, person, until when, reason."""
    given = list(run(ActDesk(find_state(state)).registry()).approvals.values())
    if as_json:
        echo_json(
            [
                {"id": a.id, "contract": a.contract, "by": a.by, "reason": a.reason, "until_s": a.until_s,
                 "terms": a.terms, "withdrawn": a.ended_s is not None}
                for a in given
            ]
        )  # fmt: skip
        return
    for each in given:
        until = datetime.fromtimestamp(each.until_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
        mark = "withdrawn" if each.ended_s is not None else f"until {until}"
        click.echo(f"{each.id[:12]}  {each.contract:<20} {each.by:<20} {mark}: {each.reason}")
    if not given:
        click.echo("nobody approved anything yet")


@approvals.command(context_settings=TAKES_DIGESTS)
@click.argument("approval")
@click.option("--reason", required=True)
@by_option
@passkey_option
@state_option
def withdraw(approval: str, reason: str, by: str, passkey: bool, state: Path | None) -> None:
    """Take APPROVAL back, by the beginning of its id. No new grants rest on it; those given end within a minute."""
    from isochrone.authority.acts import withdraw_subject

    desk = ActDesk(find_state(state), by, passkey)
    found = [each for each in run(desk.registry()).approvals if each.startswith(approval)]
    if len(found) != 1:
        what = "no approval" if not found else "more than one approval"
        raise InputError(f"{what} begins with {approval}", code="approve.unclear", hint="isochrone approvals list")
    seq = run(desk.enter("withdraw", withdraw_subject(found[0], reason)))
    click.echo(f"took approval {found[0][:12]} back: act {seq}")
