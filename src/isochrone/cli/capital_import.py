"""`isochrone plan import`: a document from public data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from isochrone.errors import InputError

__all__ = ["import_data"]


@click.command(name="import")
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
