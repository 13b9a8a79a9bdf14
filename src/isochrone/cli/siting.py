"""`isochrone plan siting`: siting problems with published optima."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from isochrone.errors import InputError

__all__ = ["siting"]


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--kind",
    type=click.Choice(["uncapacitated", "capacitated", "single-source", "p-median"]),
    default="single-source",
    show_default=True,
)
@click.option(
    "--optima",
    type=click.Path(path_type=Path),
    help="File of published optima: 'name value' lines, or values in order p1, p2, ...",
)
@click.option("--time-limit", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True,
              help="Seconds per instance.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
def siting(files: tuple[Path, ...], kind: str, optima: Path | None, time_limit: float, as_json: bool) -> None:
    """Solve OR-Library siting problems to proven optimality and compare with published optima.

    The exit status is 1 if an answer breaks a constraint or differs from the published optimum.

    \b
    isochrone plan siting p1 p2 p3 --kind single-source --optima os
    isochrone plan siting cap41.txt --kind capacitated --optima uncapopt.txt
    isochrone plan siting pmed1.txt --kind p-median --optima pmedopt.txt --json
    """
    known, found = _optima(optima) if optima else {}, []
    if not as_json:
        click.echo(_SITING_HEAD)
    for path in files:
        found.append(_sited(path, kind, known.get(path.stem), time_limit))
        if not as_json:
            click.echo(_sited_line(found[-1]))
    if as_json:
        click.echo(json.dumps(found, indent=1, allow_nan=False))
    sys.exit(0 if all(row["verdict"] in ("proven", "equal") for row in found) else 1)


_SITING_HEAD = (
    f"{'instance':12} {'sites':>6} {'customers':>9} {'open':>5} {'value':>18} {'published':>18} {'seconds':>8}  verdict"
)


def _sited(path: Path, kind: str, published: float | None, time_limit: float) -> dict[str, Any]:
    """One instance solved, checked by arithmetic and compared."""
    import time

    from isochrone.plan.siting import check, parse_orlib, parse_pmedian, solve

    text = _text(path)
    problem = parse_pmedian(text, path.stem) if kind == "p-median" else parse_orlib(text, path.stem, kind=kind)
    start = time.perf_counter()
    answer = solve(problem, time_limit_s=time_limit)
    took = time.perf_counter() - start
    same = published is None or abs(answer.value - published) <= 0.01
    verdict = "; ".join(check(problem, answer)) or ("proven" if published is None else "equal" if same else "DIFFERS")
    sites, customers = problem.serve_cost.shape
    return {"instance": path.stem, "sites": sites, "customers": customers, "open": len(answer.open),
            "value": float(answer.value), "published": published, "seconds": took, "verdict": verdict}  # fmt: skip


def _sited_line(row: dict[str, Any]) -> str:
    published = "" if row["published"] is None else f"{row['published']:,.3f}"
    return (
        f"{row['instance']:12} {row['sites']:6} {row['customers']:9} {row['open']:5} {row['value']:18,.3f} "
        f"{published:>18} {row['seconds']:8.2f}  {row['verdict']}"
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror}", code="siting.file") from exc


def _optima(path: Path) -> dict[str, float]:
    """``name value`` lines (other lines are skipped), or a bare list of values for p1, p2, ..."""
    lines = [line.split() for line in _text(path).splitlines() if line.strip()]
    if all(len(parts) == 1 for parts in lines):
        return {f"p{i}": float(parts[0]) for i, parts in enumerate(lines, 1)}
    return {parts[0]: float(parts[1]) for parts in lines if len(parts) == 2 and parts[1].replace(".", "", 1).isdigit()}
