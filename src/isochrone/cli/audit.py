"""``isochrone audit``: export what was recorded, verify it anywhere, ask it questions, keep receipts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from isochrone.cli.common import authority_of, echo_json, find_state, run, site_urls, state_option

__all__ = ["audit"]

_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_EXISTING = click.Path(path_type=Path, file_okay=False, exists=True)
_FILE = click.Path(path_type=Path, dir_okay=False)


class _Time(click.ParamType[int]):
    """A time in ISO 8601, UTC where it names no offset, as microseconds since 1970."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            at = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no time like 2026-06-30T14:00:00Z", param, ctx)
        return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000_000)


_from = click.option("--from", "from_us", type=_Time(), help="Only what began at this time or later (ISO 8601, UTC).")
_to = click.option("--to", "to_us", type=_Time(), help="Only what began before this time.")
_json = click.option("--json", "as_json", is_flag=True, help="Print for machines.")


@click.group()
def audit() -> None:
    """What was recorded, for those who ask: folders that prove themselves, queries, receipts."""


@audit.command()
@click.argument("directory", type=_DIRECTORY)
@click.option("--site", "sites", multiple=True, help="Export this site's logs; may be repeated.")
@click.option("--all", "every", is_flag=True, help="Export the logs of all sites.")
@click.option("--execution", default="", help="Export one execution and all that it rests on.")
@_from
@_to
@state_option
def export(
    directory: Path, sites: tuple[str, ...], every: bool, execution: str, from_us: int | None, to_us: int | None,
    state: Path | None,
) -> None:  # fmt: skip
    """Write a folder that `isochrone audit verify` checks offline.

    \b
    isochrone audit export --all june --from 2026-06-01 --to 2026-07-01
    isochrone audit export --execution konstanz/6f9f0d3e-4f0c-4e5e-9a7e-0c6f6f2f9b1d case-7

    Prints the trust anchor: give it to the auditor apart from the folder.
    """
    if (every, bool(sites), bool(execution)).count(True) != 1:
        raise click.UsageError("name what to export: --site, --all, or --execution")
    import httpx

    from isochrone.serve.audit_export import Asked, Fabric
    from isochrone.serve.audit_export import export as write
    from isochrone.serve.client import client_context

    root = find_state(state)
    status, people = run(_ask_hub(root))
    bases = site_urls(status)
    with httpx.Client(timeout=30.0, verify=client_context(authority_of(root))) as client:
        fabric = Fabric(status, people, bases, client)
        asked = Asked(tuple(sorted(bases)) if every or execution else sites, execution, from_us, to_us)
        anchor = write(fabric, asked, directory)
    click.echo(f"{asked}: written to {directory}\ntrust anchor {anchor}")


async def _ask_hub(state: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from isochrone.serve.hub_client import HubClient

    client = HubClient(state)
    return await client.status(), await client.ask("GET", "/people")


@audit.command()
@click.argument("directory", type=_EXISTING)
@click.option("--anchor", help="The trust anchor, as it was given to you.")
@click.option("--trust", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A trust.json of yours.")
@click.option("--earlier", type=_EXISTING, help="A folder verified before, which the logs must go on from.")
@_json
def verify(directory: Path, anchor: str | None, trust: Path | None, earlier: Path | None, as_json: bool) -> None:
    """Verify an export folder, step by numbered step. Needs nobody and no network.

    \b
    isochrone audit verify june --anchor sha256:6f9f...
    isochrone audit verify june --trust kept/trust.json --earlier may

    Exit status 0 only when every step held.
    """
    if (anchor is None) == (trust is None):
        raise click.UsageError("name the trust anchor that was given to you apart from the folder: --anchor or --trust")
    from isochrone.authority.known_groups import known_groups
    from isochrone.record.audit import verify_export
    from isochrone.record.export import Trust
    from isochrone.serve.audit_folder import FolderOnDisk
    from isochrone.serve.people import registry_from

    wanted = Trust.parse(trust.read_bytes()).anchor if trust else str(anchor)
    found = verify_export(
        FolderOnDisk(directory), wanted, known_groups(),
        lambda fabric, people, digest: registry_from(fabric, people, anchor=digest),
        FolderOnDisk(earlier) if earlier else None,
    )  # fmt: skip
    if as_json:
        steps = [{"number": s.number, "title": s.title, "held": s.held, "detail": s.detail} for s in found.steps]
        echo_json({"held": found.held, "records": dict(found.kinds), "steps": steps})
    else:
        from isochrone.cli.trace import show_steps

        show_steps(found.steps, held=found.held)
    sys.exit(0 if found.held else 1)


@audit.command()
@click.option("--human", help="Whose authority it ran under.")
@click.option("--agent", help="Who asked.")
@click.option("--workload")
@click.option("--contract")
@click.option("--verdict", type=click.Choice(["allow", "deny"]))
@click.option("--kind", help="Kind of record: outcome, refusal, exchange, ...")
@click.option("--executing-site", help="Where it was executed.")
@click.option("--id", help="An execution, grant or act.")
@click.option("--site", "sites", multiple=True, help="Only records of this site; may be repeated.")
@_from
@_to
@click.option("--in", "folder", type=_EXISTING, help="Ask an export folder instead of the sites on this machine.")
@click.option("--parquet", type=_FILE, help="Write a Parquet file for analysts.")
@click.option("--limit", default=200, show_default=True, help="Rows of the table.")
@_json
@state_option
def query(
    sites: tuple[str, ...], from_us: int | None, to_us: int | None, folder: Path | None, parquet: Path | None,
    limit: int, as_json: bool, state: Path | None, **facts: str | None,
) -> None:  # fmt: skip
    """Find records by what they say.

    \b
    isochrone audit query --human human:ada --verdict deny --from 2026-06-01
    isochrone audit query --in june --contract ward-chat --parquet june.parquet

    Answers come from derived indexes, which can be deleted: `isochrone trace` proves what they say.
    """
    where = {name: value for name, value in facts.items() if value is not None}
    rows = (row for row in _rows(folder, state, where, (from_us, to_us)) if not sites or row.site in sites)
    if parquet is not None:
        from isochrone.serve.audit_query import write_parquet

        click.echo(f"{write_parquet(parquet, rows):,} records written to {parquet}")
    elif as_json:
        echo_json([row.to_json() for row in rows])
    else:
        _show_rows(rows, limit)


def _rows(
    folder: Path | None, state: Path | None, where: dict[str, str], times: tuple[int | None, ...]
) -> Iterator[Any]:
    from isochrone.serve.audit_query import rows_of_folder, rows_of_sites

    if folder is not None:
        return rows_of_folder(folder, where, times)
    import json

    root = find_state(state)
    roster = json.loads((root / "hub" / "roster.json").read_bytes())
    here = {path.name: path for path in sorted((root / "sites").iterdir()) if path.name in roster}
    return rows_of_sites(here, {name: entry["vkey"] for name, entry in roster.items()}, where, times)


def _show_rows(rows: Iterator[Any], limit: int) -> None:
    from itertools import islice

    from isochrone.console.tables import show, table

    columns = ("at", "site", "kind", "verdict", "human", "agent", "contract", "executed at", "status", "id or reason")
    lines = []
    for row in islice(rows, limit):
        facts = row.facts
        at = datetime.fromtimestamp(facts.at_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        last = (facts.id if facts.kind != "finding" else facts.reason) or facts.reason
        told = (at, row.site, facts.kind, facts.verdict, facts.human, facts.agent, facts.contract,
                facts.executing_site, facts.status, last)  # fmt: skip
        lines.append(tuple("" if value is None else str(value) for value in told))
    more = sum(1 for _ in rows)
    show(table(f"{len(lines) + more:,} records", columns, lines, numbers=("status",)))
    if more:
        click.echo(f"{more:,} more are not shown: ask more narrowly, or use --limit, --json or --parquet")


@audit.command()
@click.argument("execution", required=False)
@click.option("--save", type=_FILE, help="Keep the receipt in a file.")
@click.option("--cose", type=_FILE, help="Keep the COSE receipt (RFC 9942) in a file of its own.")
@click.option("--from", "saved", type=click.Path(path_type=Path, exists=True), help="Verify a saved receipt, offline.")
@click.option("--trust", type=click.Path(path_type=Path, exists=True), help="The trust.json to verify against.")
@_json
@state_option
def receipt(
    execution: str | None, save: Path | None, cose: Path | None, saved: Path | None, trust: Path | None, as_json: bool,
    state: Path | None,
) -> None:  # fmt: skip
    """Get and verify the receipt of EXECUTION: its record, a C2SP tlog-proof and a COSE receipt of it.

    \b
    isochrone audit receipt konstanz/6f9f0d3e-4f0c-4e5e-9a7e-0c6f6f2f9b1d --save receipt.json --cose receipt.cose
    isochrone audit receipt --from receipt.json --trust trust.json      # needs nobody

    Exit status 0 when both proofs hold.
    """
    import json

    from isochrone.errors import IntegrityError
    from isochrone.serve.receipts import Receipt, fetch_receipt

    if (execution is None) == (saved is None) or (saved is None) != (trust is None):
        raise click.UsageError("name an execution, or a saved receipt with --from and the keys with --trust")
    if saved is not None and trust is not None:
        from isochrone.record.export import Trust

        given = Trust.parse(trust.read_bytes())
        vkeys, found = dict(given.logs), Receipt.from_json(json.loads(saved.read_text()))
    else:
        from isochrone.serve.client import client_context

        root = find_state(state)
        status, _ = run(_ask_hub(root))
        site = str(execution).partition("/")[0]
        if site not in status["sites"]:
            raise click.UsageError(f"{execution} names no site that is up")
        vkeys, tls = status["vkeys"], client_context(authority_of(root))
        found = fetch_receipt(site_urls(status)[site], str(execution), verify=tls)
    if found.site not in vkeys:
        raise IntegrityError(f"the log of {found.site} is not trusted", code="receipt.site")
    record = found.verify(vkeys[found.site])
    if save:
        save.write_text(json.dumps(found.to_json(), indent=1))
    if cose:
        cose.write_bytes(found.cose)
    if as_json:
        echo_json({"held": True, "site": found.site, "record": record})
    else:
        result = record["result"]
        ended = f"{record['kind']}, status {result['status']}, for {record['who']['human']}"
        click.echo(f"{found.site}/{record['id']}: {ended}")
        click.echo("tlog-proof held\nCOSE receipt held")
