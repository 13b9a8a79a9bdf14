"""``isochrone fork``: whether a file proves that a log signed two histories."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from isochrone.cli.common import echo_json

__all__ = ["fork"]


@click.command()
@click.argument("evidence", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--vkey", help="The log's key, as you know it.")
@click.option(
    "--trust", type=click.Path(path_type=Path, exists=True), help="Saved evidence or trust that has the keys."
)
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
def fork(evidence: Path, vkey: str | None, trust: Path | None, as_json: bool) -> None:
    """Verify EVIDENCE that a log forked: two checkpoints that its own key signed, and one is not the other's past.

    \b
    isochrone fork .isochrone/sites/zurich/forks/*.json --trust trusted.json
    isochrone fork fork.json --vkey isochrone.invalid/lakeside/konstanz+1f2e3d4c+AX...

    Needs nobody and no network. Give the log's key (`--vkey`), or a file with the keys of all sites (`--trust`: what
    `isochrone trace --save` wrote). Exit status 0 when the fork is proven, 1 when it is not.
    """
    from isochrone.errors import InputError
    from isochrone.record.shards import verifiers_of
    from isochrone.tlog.checkpoint import Checkpoint
    from isochrone.tlog.evidence import ForkEvidence
    from isochrone.tlog.note import Note

    vkeys = [vkey] if vkey else list(json.loads(trust.read_text())["vkeys"].values()) if trust else []
    if not vkeys:
        raise InputError("the key of the log is not given", code="fork.key", hint="name it with --vkey or --trust")
    found = ForkEvidence.parse(evidence.read_bytes())
    known = [verifier for key in vkeys for verifier in verifiers_of(key).values()]
    heads = [Checkpoint.parse(Note.parse(note).text) for note in (found.first, found.second)]
    held = found.holds([verifier for verifier in known if verifier.name == heads[0].origin])
    if as_json:
        echo_json({"forked": held, "origin": heads[0].origin, "checkpoints": [_plain(head) for head in heads]})
    else:
        for head in heads:
            click.echo(f"{head.origin} signed {head.size} entries with root {head.root.hex()}")
        verdict = click.style("PROVEN: the log forked", fg="red", bold=True) if held else "not proven"
        click.echo(f"{verdict}" + ("; both cannot be heads of one history" if held else ""))
    sys.exit(0 if held else 1)


def _plain(head: Any) -> dict[str, Any]:
    return {"size": head.size, "root": head.root.hex()}
