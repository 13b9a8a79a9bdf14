"""`isochrone plan`: what should stand where, what it is worth, what is stranded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isochrone.cli.capital_answers import STUDIES, answers_of, progress_line, studies_of, study_names
from isochrone.cli.capital_import import import_data
from isochrone.cli.siting import siting
from isochrone.errors import InputError

if TYPE_CHECKING:
    from isochrone.plan.capital.engine import Progress
    from isochrone.plan.capital.inputs import Place
    from isochrone.plan.capital.tables import Answer

__all__ = ["plan"]


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
@click.option(
    "--place",
    "chosen",
    multiple=True,
    help="A place to state guarantees for; may be repeated. The eight with most people unless given.",
)
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
    isochrone plan run plan.yaml --studies none --place Rome --place Paris
    isochrone plan run plan.yaml --studies none --json - | jq .prices.sentence
    """
    from isochrone.plan.capital.engine import Progress
    from isochrone.plan.capital.model import Options
    from isochrone.plan.capital.plan import plan_capital
    from isochrone.serve import capital_io

    names = study_names(options["studies"])
    data = capital_io.read_input(options["document"])
    chosen = tuple(_place(data.places, name) for name in options["chosen"])

    def show(now: Progress) -> None:
        click.echo(progress_line(now, data.currency), err=True)

    limits = {"gap_rel_max": options["gap"], "time_limit_s": options["time_limit"], "threads": options["threads"]}
    click.echo(f"solving {len(data.places)} places, {len(data.sites)} sites, {len(data.classes)} classes", err=True)
    answer = plan_capital(data, Options(integer=not options["relax"]), progress=show, **limits)
    show(Progress(answer.objective, answer.bound, answer.gap, answer.solution.seconds))
    limits["gap_rel_max"] = max(options["gap"], options["study_gap"])
    answers = answers_of(answer, chosen) + studies_of(answer, names, limits)
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


plan.add_command(siting)
plan.add_command(import_data)
