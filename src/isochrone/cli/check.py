"""``isochrone check`` and ``init``: a fabric document before anything runs."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import click

from isochrone.cli.common import echo_json
from isochrone.errors import InputError

if TYPE_CHECKING:
    from isochrone.model.document import DocumentError

__all__ = ["check", "init"]


@click.command()
@click.argument("fabric", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
def check(fabric: Path, as_json: bool) -> None:
    """Check a fabric document and the policy files it names; show every mistake at once.

    \b
    isochrone check fabric.yaml
    isochrone check fabric.yaml --json | jq .findings

    Without mistakes it says where each contract may run, and from where that is in time: by emulated distances
    if the document states them, else by the physics floor and the usual detour of fibre. Exit status 1 on mistakes.
    """
    from isochrone.console.known import Known
    from isochrone.model.document import DocumentError
    from isochrone.serve.desired import read_desired, validate_desired

    try:
        nouns = validate_desired(*read_desired(fabric), file=fabric.name)
    except DocumentError as error:
        _tell(error, fabric.parent, as_json)
        sys.exit(1)
    from isochrone.console.checked import render, summary
    from isochrone.console.tables import show

    found = summary(Known.declared(*nouns))
    if as_json:
        echo_json({"ok": True, "findings": [], **found})
    else:
        show(render(found))


def _tell(error: DocumentError, folder: Path, as_json: bool) -> None:
    """Mistakes as compilers print them, with paths that an editor can open."""
    findings = [
        {
            "file": str(folder / each.file), "line": each.line, "column": each.column,
            "where": each.where, "problem": each.problem, "hint": each.hint,
        }
        for each in error.findings
    ]  # fmt: skip
    if as_json:
        echo_json({"ok": False, "findings": findings})
        return
    for each in findings:
        place = click.style(f"{each['file']}:{each['line']}:{each['column']}:", bold=True)
        where = f"{each['where']}: " if each["where"] else ""
        click.echo(f"{place} {where}{each['problem']}")
        if each["hint"]:
            click.echo(f"    {each['hint']}")
    click.secho(f"{len(findings)} mistake{'' if len(findings) == 1 else 's'}", fg="red", bold=True)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), default=Path())
def init(directory: Path) -> None:
    """Write a fabric.yaml to start from, with its policies, into DIRECTORY (default: here).

    \b
    isochrone init
    isochrone init my-fabric

    It is a fabric of four sites with emulated distances that runs on this machine. Nothing is overwritten.
    """
    source = resources.files("isochrone.cli") / "demo"
    policies = (source / "policies").iterdir()
    texts = {Path("fabric.yaml"): _HEAD + (source / "fabric.yaml").read_text(encoding="utf-8")}
    texts |= {Path("policies") / each.name: each.read_text(encoding="utf-8") for each in policies}
    present = [str(directory / name) for name in texts if (directory / name).exists()]
    if present:
        raise InputError(
            f"already there: {', '.join(present)}", code="init.exists", hint="name an empty directory, or remove them"
        )
    try:
        for name, text in texts.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {directory}: {error.strerror}", code="init.write") from error
    for name in texts:
        click.echo(f"wrote {directory / name}")
    document = directory / "fabric.yaml"
    click.echo("\nnext:")
    click.echo(f"  isochrone check {document}    what it promises, and where that can be kept")
    click.echo(f"  isochrone up {document}       run it on this machine")


_HEAD = """\
# A fabric document: the sites, the workloads they serve, and the contracts that must hold. After an edit,
# `isochrone check fabric.yaml` shows every mistake, and `isochrone apply fabric.yaml` changes a running fabric.
#
"""
