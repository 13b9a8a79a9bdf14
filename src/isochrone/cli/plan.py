"""`isochrone plan`: what should stand where, what it is worth, what is stranded."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isochrone.errors import InputError

if TYPE_CHECKING:
    from isochrone.plan.capital.engine import Progress
    from isochrone.plan.capital.inputs import Place
    from isochrone.plan.capital.plan import CapitalPlan
    from isochrone.plan.capital.tables import Answer

__all__ = ["plan"]

STUDIES = ("frontier", "alternatives", "compare", "sensitivity", "regret")


class _DefaultRun(click.Group):
    """`isochrone plan FILE` means `isochrone plan run FILE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_DefaultRun, name="plan")
def plan() -> None:
    """Plan capital: what to build where, prices of latency-qualified capacity, stranded assets.

    `isochrone plan INPUT` is `isochrone plan run INPUT`. Docs: docs/howto/plan-capital.md.

    \b
    isochrone plan examples/capital/plan.yaml --report report.html
    isochrone plan explain examples/capital/plan.yaml --place Rome
    isochrone plan siting p1 p2 --optima os
    """


_gap = click.option("--gap", type=click.FloatRange(0, 1), default=0.005, show_default=True,
                    help="Accept a plan proven within this share of the best.")  # fmt: skip
_time_limit = click.option("--time-limit", type=click.FloatRange(0, min_open=True), default=300.0, show_default=True,
                           help="Seconds per solve.")  # fmt: skip


@plan.command()
@click.argument("document", type=click.Path(path_type=Path), metavar="INPUT")
@click.option("--report", type=click.Path(path_type=Path), help="Write a self-contained HTML page here.")
@click.option(
    "--json",
    "as_json",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Write every answer as JSON ('-' for stdout).",
)
@click.option("--tables", type=click.Path(path_type=Path), help="Write one table per answer into this folder.")
@click.option("--format", "kind", type=click.Choice(["csv", "parquet"]), default="csv", show_default=True)
@click.option("--studies", default="all", show_default=True, help=f"all, none, or a list of: {', '.join(STUDIES)}.")
@_gap
@click.option("--study-gap", type=click.FloatRange(0, 1), default=0.02, show_default=True,
              help="The same for each solve of a study, unless --gap is wider.")  # fmt: skip
@_time_limit
@click.option("--relax", is_flag=True, help="Let openings be fractional (faster; fixed charges are then understated).")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of the solver.")
def run(**options: Any) -> None:
    """Solve INPUT and show where, prices, stranded capital, procurement, and central against aligned.

    \b
    isochrone plan run plan.yaml --report report.html --tables out --format parquet
    isochrone plan run plan.yaml --studies compare,sensitivity --gap 0.02
    isochrone plan run plan.yaml --studies none --json - | jq .prices.sentence
    """
    from isochrone.plan.capital.engine import Progress
    from isochrone.plan.capital.model import Options
    from isochrone.plan.capital.plan import plan_capital
    from isochrone.serve import capital_io

    names = _study_names(options["studies"])
    data = capital_io.read_input(options["document"])

    def show(now: Progress) -> None:
        click.echo(progress_line(now, data.currency), err=True)

    limits = {"gap_rel_max": options["gap"], "time_limit_s": options["time_limit"], "threads": options["threads"]}
    click.echo(f"solving {len(data.places)} places, {len(data.sites)} sites, {len(data.classes)} classes", err=True)
    answer = plan_capital(data, Options(integer=not options["relax"]), progress=show, **limits)
    show(Progress(answer.objective, answer.bound, answer.gap, answer.solution.seconds))
    limits["gap_rel_max"] = max(options["gap"], options["study_gap"])
    answers = _answers(answer) + _studies(answer, names, limits, relax=options["relax"])
    if options["tables"]:
        capital_io.write_tables(answers, options["tables"], options["kind"])
    if options["report"]:
        from isochrone.console.capital_report import render_report

        capital_io.write_text(options["report"], render_report(answer, answers))
        click.echo(f"wrote {options['report']}", err=True)
    if options["as_json"]:
        _json(options["as_json"], answers)
    if str(options["as_json"]) != "-":
        for a in answers:
            click.echo(f"\n{a.title}\n  {a.sentence}")


def _answers(answer: CapitalPlan) -> list[Answer]:
    """Every answer that needs no further solve; an unproven plan has no prices."""
    from isochrone.plan.capital import price_answers, procurement, stranded, where

    found = [
        where.where_answer(answer),
        where.attainment_answer(answer),
        where.cost_answer(answer),
        where.on_premises_answer(answer),
    ]
    if answer.prices is None:
        click.echo("the time limit ended the proof: this plan has a gap and no prices", err=True)
        return found
    largest = sorted(range(len(answer.data.places)), key=lambda p: -answer.data.places[p].population_n)[:8]
    found += [
        price_answers.prices_answer(answer),
        price_answers.premium_answer(answer),
        procurement.procurement_answer(answer, tuple(largest)),
    ]
    if answer.data.assets:
        found += [stranded.stranded_answer(answer), stranded.schedule_answer(answer)]
    return found


def progress_line(now: Progress, currency: str) -> str:
    """Where the solver stands, in one line."""
    from isochrone.plan.capital.tables import amount

    if not math.isfinite(now.value):
        return f"  no plan yet  bound {amount(now.bound, currency)}  {now.seconds:.0f} s"
    return (
        f"  best {amount(now.value, currency)}  bound {amount(now.bound, currency)}  "
        f"gap {100 * now.gap:.2f} %  {now.seconds:.0f} s"
    )


def _study_names(wanted: str) -> tuple[str, ...]:
    """Which studies are asked; checked before anything is solved."""
    names = STUDIES if wanted == "all" else () if wanted == "none" else tuple(wanted.split(","))
    unknown = [n for n in names if n not in STUDIES]
    if unknown:
        raise InputError(
            f"unknown study {', '.join(unknown)}", code="plan.study", hint=f"choose from {', '.join(STUDIES)}"
        )
    return names


def _studies(answer: CapitalPlan, names: tuple[str, ...], limits: dict[str, Any], *, relax: bool) -> list[Answer]:
    from dataclasses import replace

    from isochrone.plan.capital import studies
    from isochrone.plan.capital.plan import plan_capital

    data, found = answer.data, []

    latest = {len(data.sites): answer}

    def whole(changed: Any, options: Any) -> CapitalPlan:
        """Try first what was best for the same candidate sites."""
        like = latest.get(len(changed.sites))
        solved = plan_capital(changed, replace(options, integer=not relax), like=like, **limits)
        click.echo(f"  {len(changed.sites)} sites: gap {100 * solved.gap:.2f} %", err=True)
        latest.setdefault(len(changed.sites), solved)
        return solved

    has_central, has_deadline = any(s.central for s in data.sites), any(c.objective_s for c in data.classes)
    possible = {
        "frontier": has_deadline,
        "alternatives": True,
        "compare": has_central,
        "sensitivity": has_central and has_deadline,
        "regret": len(data.scenarios) > 1,
    }
    for name in names:
        if not possible[name]:
            continue
        click.echo(f"study: {name}", err=True)
        if name == "frontier":
            found.append(studies.frontier_answer(data))
        elif name == "alternatives":
            found.append(studies.alternatives_answer(data))
        elif name == "compare":
            found.append(studies.compare_answer(data, whole, answer))
        elif name == "sensitivity":
            found.append(studies.sensitivity_answer(data, whole))
        else:
            found.append(studies.regret_answer(data))
    return found


def _json(target: Path, answers: list[Answer]) -> None:
    from isochrone.serve import capital_io

    value = capital_io.answers_as_json(answers)
    if str(target) == "-":
        click.echo(json.dumps(value, indent=1, allow_nan=False))
    else:
        capital_io.write_json(target, value)


@plan.command()
@click.argument("document", type=click.Path(path_type=Path), metavar="INPUT")
@click.option("--place", required=True, help="A place of the document.")
@click.option("--sites", "sites_n", type=click.IntRange(1), default=6, show_default=True,
              help="How many sites to show, nearest first.")  # fmt: skip
@click.option("--year", type=int, help="A year of the document; the first one unless given.")
@click.option("--json", "as_json", is_flag=True, help="Print for machines.")
@_gap
@_time_limit
def explain(
    document: Path, place: str, sites_n: int, year: int | None, gap: float, time_limit: float, as_json: bool
) -> None:
    """Say for one place who serves each class, at what price, and why every near site is or is not used.

    \b
    isochrone plan explain plan.yaml --place Rome
    isochrone plan explain plan.yaml --place Rome --year 2028 --json | jq '.classes[0].sites'
    """
    from dataclasses import asdict

    from isochrone.plan.capital.explain import explain_place, told
    from isochrone.plan.capital.plan import plan_capital
    from isochrone.serve import capital_io

    data = capital_io.read_input(document)
    at, when = _place(data.places, place), _year(data.horizon.years, year)
    answer = plan_capital(data, gap_rel_max=gap, time_limit_s=time_limit)
    stories = explain_place(answer, at, sites_n, when)
    if as_json:
        value = {"place": place, "year": data.horizon.years[when], "currency": data.currency, "unit": data.unit}
        click.echo(json.dumps(value | {"classes": [asdict(s) for s in stories]}, indent=1, allow_nan=False))
        return
    for line in told(answer, at, stories, when):
        click.echo(line)


def _place(places: tuple[Place, ...], wanted: str) -> int:
    names = [p.name for p in places]
    if wanted in names:
        return names.index(wanted)
    close = [n for n in names if wanted.lower() in n.lower()][:5] or names[:5]
    word = "did you mean" if wanted.lower() in close[0].lower() else "the document has, for example,"
    raise InputError(f"there is no place {wanted!r}", code="plan.place", hint=f"{word} {', '.join(close)}")


def _year(years: tuple[int, ...], wanted: int | None) -> int:
    if wanted is None:
        return 0
    if wanted not in years:
        raise InputError(f"{wanted} is no year of the document", code="plan.year",
                         hint=f"it has {', '.join(map(str, years))}")  # fmt: skip
    return years.index(wanted)


@plan.command()
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


@plan.command(name="import")
@click.option("--cities", required=True, type=click.Path(path_type=Path), help="GeoNames-style CSV.")
@click.option(
    "--regions", required=True, type=click.Path(path_type=Path), help="Folder of PROVIDER_regions.json files."
)
@click.option("--pops", required=True, type=click.Path(path_type=Path), help="Points of presence JSON.")
@click.option("--prices", required=True, type=click.Path(path_type=Path), help="Hourly power prices CSV (.gz allowed).")
@click.option("--accelerators", required=True, type=click.Path(path_type=Path), help="Measured throughput CSV.")
@click.option("--access", required=True, type=click.Path(path_type=Path), help="CDF of access latency CSV.")
@click.option("--continents", default="EU", show_default=True, help="Any of AF,AS,EU,NA,OC,SA.")
@click.option(
    "--places", type=click.IntRange(1), default=150, show_default=True, help="How many of the largest cities."
)
@click.option("--metros", type=click.IntRange(0), default=40, show_default=True, help="Candidate sites near people.")
@click.option(
    "--years", default="2026,2027,2028", show_default=True, help="Years to plan, the first with demand as is."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for plan.yaml and its tables.")
def import_data(**options: Any) -> None:
    """Build a document from public data files you have; print how well the latency model fits.

    \b
    isochrone plan import --cities cities15000.csv --regions cloud_regions/ --pops edge-locations.json \\
        --prices hourly.csv.gz --accelerators measured.csv --access access_cdf.csv \\
        --continents EU --places 80 --metros 30 --out europe
    isochrone plan europe/plan.yaml --report europe.html --gap 0.02
    """
    from isochrone.serve.capital_dataset import Files, Size, build_dataset

    paths = ("cities", "regions", "pops", "prices", "accelerators", "access")
    size = Size(
        tuple(options["continents"].split(",")),
        options["places"],
        options["metros"],
        years=_years(options["years"]),
    )
    fits = build_dataset(Files(*(options[p] for p in paths)), size, options["out"])
    click.echo(
        "continent  access ms  ms/1000 km  worst miss: fitted, held-out (points of share)  |  measured/modelled "
        "within 20, 50, 100 ms"
    )
    for f in fits:
        shares = "  ".join(
            f"{100 * f.probes_at[t][0]:.0f}/{100 * f.probes_at[t][1]:.0f} %" for t in (20.0, 50.0, 100.0)
        )
        click.echo(
            f"{f.continent:9} {f.access_ms:10.1f} {f.ms_per_1000_km:11.1f} {100 * f.miss_fitted:20.1f} "
            f"{100 * f.miss_held_out:9.1f}"
            f"{'':21}{shares}"
        )
    click.echo(f"wrote {options['out'] / 'plan.yaml'}")


def _years(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(p.strip().isdigit() for p in parts):
        raise InputError(f"{text!r} is no list of years", code="plan.years", hint="write it as 2026,2027,2028")
    return tuple(int(p) for p in parts)
