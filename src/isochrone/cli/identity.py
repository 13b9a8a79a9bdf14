"""``isochrone identity``: people and agents, and their keys. Every change is an act that an operator signs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isochrone.cli.common import TAKES_DIGESTS, echo_json, find_state, run, state_option
from isochrone.cli.signing import ActDesk, by_option, passkey_option
from isochrone.errors import AuthorityError, InputError

if TYPE_CHECKING:
    from isochrone.authority.identity import Identity, Registry
    from isochrone.authority.proof import EnrolledKey

__all__ = ["identity"]


@click.group()
def identity() -> None:
    """People and agents: create, invite, enrol, list, show, retire.

    \b
    isochrone identity create human:ada --name "Ada Lovelace"
    isochrone identity invite human:grace --name "Grace Hopper"
    isochrone identity create agent:planner
    isochrone identity list

    Every change is an act that an operator signs; every site verifies and records it.
    """


@identity.command()
@click.argument("identifier")
@click.option("--name", default="", help="The person's name, or what the agent is for.")
@click.option("--operator", is_flag=True, help="May enrol, change the fabric, and revoke with cause.")
@click.option("--spiffe-id", default="", help="The agent's SPIFFE id.")
@click.option("--local", is_flag=True, help="Only make a key; an agent need not be enrolled to be delegated to.")
@by_option
@passkey_option
@state_option
def create(
    identifier: str, name: str, operator: bool, spiffe_id: str, local: bool, by: str, passkey: bool, state: Path | None
) -> None:
    """Make a key for IDENTIFIER (human:NAME or agent:NAME) on this machine, and enrol it."""
    from isochrone.authority.proof import EnrolledKey
    from isochrone.serve.keyring import Keyring

    directory = find_state(state)
    holder = Keyring(directory).create(identifier, name or _plain(identifier))
    if local:
        click.echo(f"made a key for {identifier}; not enrolled")
        return
    subject = _identity(identifier, holder.name, EnrolledKey(holder.key.public), operator, spiffe_id)
    _enter(ActDesk(directory, by, passkey), "enrol", subject.to_json(), f"enrolled {identifier}")


@identity.command()
@click.argument("identifier")
@click.option("--key", "key_file", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True,
              help="A public key: JWK or PEM, P-256 or Ed25519.")  # fmt: skip
@click.option("--name", default="", help="The person's name, or what the agent is for.")
@click.option("--operator", is_flag=True, help="May enrol, change the fabric, and revoke with cause.")
@click.option("--spiffe-id", default="", help="The agent's SPIFFE id.")
@by_option
@passkey_option
@state_option
def enrol(
    identifier: str,
    key_file: Path,
    name: str,
    operator: bool,
    spiffe_id: str,
    by: str,
    passkey: bool,
    state: Path | None,
) -> None:
    """Enrol IDENTIFIER with a key that was made elsewhere, or one more key of somebody enrolled.

    \b
    isochrone identity enrol agent:planner --key planner.pub.pem --spiffe-id spiffe://acme.example/planner
    """
    key = _public_key(key_file)
    desk = ActDesk(find_state(state), by, passkey)
    _enrol_key(desk, identifier, name, key, operator, spiffe_id)


@identity.command()
@click.argument("identifier")
@click.option("--name", default="", help="The person's name.")
@click.option("--operator", is_flag=True, help="May enrol, change the fabric, and revoke with cause.")
@click.option("--yes", is_flag=True, help="Do not ask whether the codes are the same.")
@by_option
@state_option
def invite(identifier: str, name: str, operator: bool, yes: bool, by: str, state: Path | None) -> None:
    """Have a person make a passkey at a page of the hub, and enrol it; or one more of a person who is enrolled.

    \b
    isochrone identity invite human:grace --name "Grace Hopper"

    Prints a link for that person, good once and for an hour, and waits. Ask her for the code that her page shows, by
    telephone or face to face: it tells that the passkey is hers.
    """
    desk = ActDesk(find_state(state), by)
    key = run(_invited(desk, identifier, name or _plain(identifier), operator, yes))
    _enrol_key(desk, identifier, name, key, operator, "")


async def _invited(desk: ActDesk, identifier: str, name: str, operator: bool, yes: bool) -> EnrolledKey:
    from isochrone.authority.proof import EnrolledKey, comparison_code

    signer = desk.signer(await desk.registry())
    body = {"person": identifier, "name": name, "operator": operator, "by": signer}
    asking = f"{identifier}: open this and make a passkey. It works once, for an hour."
    outcome = await desk.ceremony("/invitations", body, asking)
    key = EnrolledKey.from_json(outcome["key"])
    code = comparison_code("passkey", {"key": key.key.thumbprint})
    if not yes and not click.confirm(f"a passkey was made. Does {identifier} read {code} on that page?"):
        raise AuthorityError("not enrolled: the codes differ", code="invite.code", hint="invite again")
    return key


@identity.command("list")
@state_option
@click.option("--json", "as_json", is_flag=True)
def list_(state: Path | None, as_json: bool) -> None:
    """Show everyone enrolled, and whose keys are on this machine."""
    from isochrone.serve.keyring import Keyring

    directory = find_state(state)
    registry = _registry(directory)
    here = {holder.id for holder in Keyring(directory).all()}
    if as_json:
        echo_json([{**each.to_json(), "active": each.is_active} for each in registry.people.values()])
        return
    for each in registry.people.values():
        marks = [each.name, "(operator)" if each.is_operator else "", "" if each.is_active else "(retired)"]
        marks += ["(passkey)"] if any(key.passkey and key.is_active for key in each.keys) else []
        click.echo(f"{each.id:<24} {' '.join(m for m in marks if m)}{'  (key here)' if each.id in here else ''}")
    for name in sorted(here - registry.people.keys()):
        click.echo(f"{name:<24} not enrolled  (key here)")


@identity.command()
@click.argument("identifier")
@state_option
@click.option("--json", "as_json", is_flag=True)
def show(identifier: str, state: Path | None, as_json: bool) -> None:
    """Show one person or agent: keys, passkeys, and what is retired."""
    registry = _registry(find_state(state))
    known = registry.people.get(identifier)
    if known is None:
        names = ", ".join(sorted(registry.people))
        raise InputError(f"{identifier} is not enrolled", code="identity.unknown", hint=f"enrolled: {names}")
    if as_json:
        echo_json({**known.to_json(), "active": known.is_active})
        return
    role = "operator" if known.is_operator else known.kind
    click.echo(f"{known.id}: {known.name}, {role}{'' if known.is_active else ', retired'}")
    for key in known.keys:
        noun = f"passkey for {', '.join(key.passkey.origins)}" if key.passkey else f"key ({key.key.alg})"
        click.echo(f"  {key.key.thumbprint}  {noun}{'' if key.is_active else '  retired'}")
    if known.spiffe_id:
        click.echo(f"  {known.spiffe_id}")


@identity.command()
@click.argument("identifier")
@by_option
@passkey_option
@state_option
def retire(identifier: str, by: str, passkey: bool, state: Path | None) -> None:
    """Retire a person or agent for good; their chains stop at the next exchange."""
    _enter(ActDesk(find_state(state), by, passkey), "retire", {"id": identifier}, f"retired {identifier}")


@identity.command("retire-key", context_settings=TAKES_DIGESTS)
@click.argument("identifier")
@click.argument("thumbprint")
@by_option
@passkey_option
@state_option
def retire_key(identifier: str, thumbprint: str, by: str, passkey: bool, state: Path | None) -> None:
    """Retire one key of IDENTIFIER, by its thumbprint as `isochrone identity show` prints it."""
    subject = {"id": identifier, "thumbprint": thumbprint}
    _enter(ActDesk(find_state(state), by, passkey), "retire-key", subject, f"retired a key of {identifier}")


def _enrol_key(desk: ActDesk, identifier: str, name: str, key: EnrolledKey, operator: bool, spiffe_id: str) -> None:
    """Enrol somebody new with a key, or a further key of somebody known."""
    known = run(desk.registry()).people.get(identifier)
    if known is None:
        subject = _identity(identifier, name or _plain(identifier), key, operator, spiffe_id)
        _enter(desk, "enrol", subject.to_json(), f"enrolled {identifier}")
        return
    if operator != known.is_operator and operator:
        raise InputError(
            f"{identifier} is enrolled, and not as an operator", code="identity.role",
            hint="enrol the person under another id as operator",
        )  # fmt: skip
    _enter(desk, "enrol-key", {"id": identifier, "key": key.to_json()}, f"enrolled a further key of {identifier}")


def _enter(desk: ActDesk, kind: str, subject: dict[str, Any], done: str) -> None:
    seq = run(desk.enter(kind, subject))
    click.echo(f"{done}: act {seq}")


def _identity(identifier: str, name: str, key: EnrolledKey, operator: bool, spiffe_id: str) -> Identity:
    from isochrone.authority.identity import Identity

    kind = identifier.partition(":")[0]
    value: dict[str, Any] = {"id": identifier, "kind": kind, "name": name, "keys": [key.to_json()]}
    return Identity.from_json(value | {"operator": operator, "spiffe_id": spiffe_id})


def _public_key(path: Path) -> EnrolledKey:
    import json

    from isochrone.authority.jose import PublicKey
    from isochrone.authority.proof import EnrolledKey

    data = path.read_bytes()
    if data.lstrip().startswith(b"{"):
        try:
            return EnrolledKey(PublicKey.from_jwk(json.loads(data)))
        except ValueError as error:
            raise InputError(f"{path} is no JWK: {error}", code="identity.key") from error
    return EnrolledKey(PublicKey.from_pem(data))


def _registry(state: Path) -> Registry:
    from isochrone.serve.home import HubHome

    return HubHome(state / "hub", (state / "hub" / "fabric").read_text()).people()


def _plain(identifier: str) -> str:
    return identifier.partition(":")[2]
