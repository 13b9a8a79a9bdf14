"""``isochrone bundle``: policies that are signed with a workload and travel with it."""

from __future__ import annotations

import base64
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isochrone.cli.common import echo_json
from isochrone.errors import InputError

if TYPE_CHECKING:
    from isochrone.model.fabric import Fabric
    from isochrone.policy.bundle import Bundle

__all__ = ["bundle"]

_FILE = click.Path(path_type=Path, dir_okay=False)
_BUNDLE = click.argument("file", type=_FILE)
_FABRIC = click.argument("fabric", type=_FILE)
_WORKLOAD = click.option("--workload", required=True)
_DAY_S = 86_400


@click.group()
def bundle() -> None:
    """Sign policies with a workload, so that every site that serves it enforces them.

    \b
    isochrone bundle key lab                    # once, at who makes the model
    isochrone bundle sign fabric.yaml --workload chat --key lab.key --policies chat-policies/ --out chat.bundle.json
    isochrone bundle verify fabric.yaml --workload chat
    isochrone bundle push chat.bundle.json layout/ --tag chat:7

    In the fabric document a workload names its `publisher` and its `bundle`; `publishers` names their keys. A site
    serves the workload only while the bundle verifies: signed by that key, for the digest of that model, not expired,
    never an older revision than before, and for the contract terms that were signed.
    """


@bundle.command()
@click.argument("publisher")
@click.option("--out", type=_FILE, help="Where the private key goes. Default: PUBLISHER.key")
def key(publisher: str, out: Path | None) -> None:
    """Make a publisher's signing key; prints what goes into the fabric document.

    \b
    isochrone bundle key lab
    """
    from isochrone.authority.jose import PrivateKey
    from isochrone.serve.files import atomic_write

    path = out or Path(f"{publisher}.key")
    if path.exists():
        raise InputError(f"{path} is there already", code="bundle.exists", hint="name another file with --out")
    made = PrivateKey.generate("OKP")
    atomic_write(path, made.pem(), 0o600)
    click.echo(f"wrote {path}: keep it secret\n\npublishers:\n  {publisher}: {{key: {_public(made.public.jwk['x'])}}}")


@bundle.command()
@_FABRIC
@_WORKLOAD
@click.option("--key", "key_file", type=_FILE, required=True, help="The publisher's private key.")
@click.option(
    "--policies", type=click.Path(path_type=Path), multiple=True, required=True, help="Cedar file or directory."
)
@click.option("--out", type=_FILE, help="Where the bundle goes. Default: where the document says.")
@click.option("--revision", type=click.IntRange(1), help="Default: one more than that of the bundle it replaces, or 1.")
@click.option("--days", default=90, show_default=True, help="How long sites may serve under it.")
def sign(
    fabric: Path, workload: str, key_file: Path, policies: tuple[Path, ...], out: Path | None,
    revision: int | None, days: int,
) -> None:  # fmt: skip
    """Sign policies, and the terms of the workload's contracts, for the digest of its model.

    \b
    isochrone bundle sign fabric.yaml --workload chat --key lab.key --policies chat-policies/
    """
    from isochrone.policy.bundle import Bundle
    from isochrone.policy.bundle import sign as seal
    from isochrone.policy.governance import terms_of
    from isochrone.serve.files import atomic_write
    from isochrone.serve.policy_source import read_policies

    nouns = _read_fabric(fabric)
    noun = _workload(nouns, workload)
    path = out or (fabric.parent / noun.bundle if noun.bundle else None)
    if path is None or noun.publisher is None or noun.model.digest is None:
        raise InputError(
            f"workload {workload} lacks a publisher, a model digest or a bundle", code="bundle.document",
            hint="add `publisher:`, `model: {digest: sha256:...}` and `bundle: FILE` to it, or name a file with --out",
        )  # fmt: skip
    before = _statement(path)["predicate"]["revision"] if path.exists() else 0
    made = Bundle(
        subjects={noun.model.name: noun.model.digest.removeprefix("sha256:")},
        policies={name: text for source in policies for name, text in read_policies(source).items()},
        terms={name: terms_of(terms) for name, terms in nouns.contracts.items() if terms.workload == workload},
        revision=revision or before + 1,
        expires_s=int(time.time()) + days * _DAY_S,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, seal(made, {noun.publisher: _seed(key_file)}))
    click.echo(f"wrote {path}: revision {made.revision}, {len(made.policies)} files, expires {_date(made.expires_s)}")


@bundle.command()
@_FABRIC
@_WORKLOAD
@click.option("--file", "file", type=_FILE, help="The bundle. Default: the one that the document names.")
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
def verify(fabric: Path, workload: str, file: Path | None, as_json: bool) -> None:
    """Say whether a site would serve the workload under its bundle, and if not, why.

    \b
    isochrone bundle verify fabric.yaml --workload chat
    """
    from isochrone.policy.governance import govern

    nouns = _read_fabric(fabric)
    named = _workload(nouns, workload).bundle or (str(file) if file else None)
    if named is None:
        raise InputError(f"workload {workload} names no bundle", code="bundle.document", hint="name one with --file")
    alone = nouns.model_copy(
        update={"workloads": {workload: nouns.workloads[workload].model_copy(update={"bundle": named})}, "policies": ()}
    )
    governance = govern(alone, {named: _read(file or fabric.parent / named).decode()}, now_s=time.time())
    verified = governance.bundles.get(workload)
    found: dict[str, Any] = {"workload": workload, "verified": verified is not None}
    found |= _summary(verified) if verified else {"reason": str(governance.refused[workload].reasons[0])}
    if as_json:
        echo_json(found)
    elif verified is None:
        click.secho(f"refused: {found['reason']}", fg="red")
    else:
        click.secho(f"verified: revision {found['revision']}, expires {found['expires']}", fg="green")
    sys.exit(verified is None)


@bundle.command()
@_BUNDLE
@click.option("--json", "as_json", is_flag=True, help="Print the whole in-toto statement.")
def show(file: Path, as_json: bool) -> None:
    """Show what a bundle says, without verifying it.

    \b
    isochrone bundle show chat.bundle.json
    isochrone bundle show chat.bundle.json --json | jq .predicate.terms
    """
    statement = _statement(file)
    if as_json:
        echo_json(statement)
        return
    predicate = statement["predicate"]
    for subject in statement["subject"]:
        click.echo(f"for        {subject['name']} sha256:{subject['digest']['sha256']}")
    click.echo(f"revision   {predicate['revision']}, expires {_date(predicate['expires'])}")
    click.echo(f"policies   {predicate['policyDigest']}")
    for contract, terms in predicate["terms"].items():
        click.echo(f"terms      {contract}: {json.dumps(terms, sort_keys=True)}")
    for name, text in predicate["policies"].items():
        click.echo(f"\n// {name}\n{text.strip()}")


@bundle.command()
@_BUNDLE
@click.argument("layout", type=click.Path(path_type=Path, file_okay=False))
@click.option("--tag", required=True, help="Such as chat:7.")
def push(file: Path, layout: Path, tag: str) -> None:
    """Put a bundle into an OCI image layout, the folder form that registry tools copy from and to.

    \b
    isochrone bundle push chat.bundle.json layout/ --tag chat:7
    """
    from isochrone.serve.oci_layout import push as put

    _statement(file)
    click.echo(put(layout, tag, _read(file), file.name))


@bundle.command()
@click.argument("layout", type=click.Path(path_type=Path, file_okay=False))
@click.option("--tag", required=True, help="Such as chat:7.")
@click.option("--out", type=_FILE, required=True)
def pull(layout: Path, tag: str, out: Path) -> None:
    """Take a bundle out of an OCI image layout; every digest is checked, the signature by `verify`.

    \b
    isochrone bundle pull layout/ --tag chat:7 --out chat.bundle.json
    """
    from isochrone.serve.files import atomic_write
    from isochrone.serve.oci_layout import pull as get

    atomic_write(out, get(layout, tag))
    click.echo(f"wrote {out}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", code="input.file", hint="check the path") from error


def _read_fabric(path: Path) -> Fabric:
    """The document alone: the bundle that it names may be the one that is about to be made."""
    from isochrone.model.document import parse_fabric

    return parse_fabric(_read(path).decode("utf-8", "replace"), path.name)


def _workload(fabric: Fabric, name: str) -> Any:
    if name not in fabric.workloads:
        raise InputError(
            f"there is no workload {name}", code="bundle.workload", hint=f"workloads: {', '.join(fabric.workloads)}"
        )
    return fabric.workloads[name]


def _statement(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(base64.b64decode(json.loads(_read(path))["payload"])))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is no bundle: {error}", code="bundle.form", hint="see `isochrone bundle sign`"
        ) from error


def _seed(path: Path) -> bytes:
    from isochrone.authority.jose import PrivateKey, b64u_decode

    secret = PrivateKey.from_pem(_read(path))
    if secret.public.kty != "OKP":
        raise InputError(f"{path} is no Ed25519 key", code="bundle.key", hint="make one with `isochrone bundle key`")
    return b64u_decode(secret.jwk()["d"])


def _public(x: str) -> str:
    from isochrone.authority.jose import b64u_decode

    return base64.b64encode(b64u_decode(x)).decode()


def _summary(made: Bundle) -> dict[str, Any]:
    return {"revision": made.revision, "expires": _date(made.expires_s), "policies": sorted(made.policies)}


def _date(at_s: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at_s))
