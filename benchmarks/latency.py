"""The latency model where nothing is measured, fitted per continent, and its error on servers it never saw.

    python benchmarks/latency.py

Round trips are a day of pings between the servers of WonderNetwork; pairs that beat light are left out. By continent:
a line by quantile regression over its pairs (`latency/geography.py`), and its errors on pairs with a server held out of
nine folds. Then pairs between two continents, which no line was fitted to, by the quicker and by the slower line of
their two ends as `latency/continents.py` ships them; and 2.1 x the floor for comparison.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from isochrone.latency.continents import PATHS, continent_of
from isochrone.latency.geography import FLOOR_S_PER_KM, fit_by_folds, great_circle_km, physically_possible

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def load() -> tuple[np.ndarray, ...]:
    """Numbers of both servers of each pair (the slower direction left out), km, seconds, continent of each server."""
    with (DATA / "cities/cities15000_min.csv").open() as file:
        cities = [(float(row["lat"]), float(row["lon"]), row["country"]) for row in csv.DictReader(file)]
    lat, lon = np.array([row[0] for row in cities]), np.array([row[1] for row in cities])
    with (DATA / "wondernetwork_rtt/servers-2020-07-19.csv").open() as file:
        servers = [row for row in csv.DictReader(file) if row["latitude"]]
    number = {row["id"]: n for n, row in enumerate(servers)}
    at = np.array([[float(row["latitude"]), float(row["longitude"])] for row in servers])
    nearest = [int(great_circle_km(np.array(a), np.array(o), lat, lon).argmin()) for a, o in at.tolist()]
    continents = np.array([continent_of(cities[n][2]) or "" for n in nearest])
    pairs: dict[tuple[int, int], float] = {}
    with (DATA / "wondernetwork_rtt/pings-2020-07-19-2020-07-20-grouped.csv").open() as file:
        for row in csv.DictReader(file):
            if row["source"] in number and row["destination"] in number and row["source"] != row["destination"]:
                a, b = sorted((number[row["source"]], number[row["destination"]]))
                pairs[a, b] = min(pairs.get((a, b), np.inf), float(row["avg"]) / 1e3)
    first, second = np.array(list(pairs)).T
    km = great_circle_km(at[first, 0], at[first, 1], at[second, 0], at[second, 1])
    seconds = np.array(list(pairs.values()))
    good = physically_possible(km, seconds) & (km > 0)
    return first[good], second[good], km[good], seconds[good], continents


def main() -> int:
    if not DATA.is_dir():
        print("the measured data are not here: nothing to fit", file=sys.stderr)
        return 1
    a, b, km, seconds, continents = load()
    print(f"{'':14s} {'pairs':>6s} {'access':>9s} {'stretch':>7s}   errors on pairs with a held-out server:"
          f"\n{'':41s} {'p50 ms':>8s} {'p90 ms':>8s} {'p68':>7s}   shipped")  # fmt: skip
    for continent in sorted(set(continents) - {""}):
        mine = (continents[a] == continent) & (continents[b] == continent)
        fit = fit_by_folds(continent, a[mine], b[mine], km[mine], seconds[mine])
        print(f"{continent:14s} {fit.pairs_n:6,d} {fit.access_s * 1e3:6.2f} ms {fit.s_per_km / FLOOR_S_PER_KM:7.2f}   "
              f"{fit.error_s_p50 * 1e3:8.1f} {fit.error_s_p90 * 1e3:8.1f} {fit.error_share_p68:7.1%}   "
              f"{PATHS.get(continent)}")  # fmt: skip
    floor = FLOOR_S_PER_KM * km
    between = (continents[a] != continents[b]) & (continents[a] != "") & (continents[b] != "")
    ends = [[PATHS[name] for name in continents[side[between]]] for side in (a, b)]
    lines = [
        np.array([path.access_s for path in end]) + floor[between] * [path.stretch for path in end] for end in ends
    ]
    report("between, quicker", np.minimum(*lines), seconds[between])
    report("between, slower", np.maximum(*lines), seconds[between])
    within = (continents[a] == continents[b]) & (continents[a] != "")
    report("2.1 x floor, within", 2.1 * floor[within], seconds[within])
    report("2.1 x floor, between", 2.1 * floor[between], seconds[between])
    return 0


def report(name: str, predicted: np.ndarray, measured: np.ndarray) -> None:
    """One line of errors."""
    off = np.abs(predicted - measured)
    p50, p90 = np.quantile(off, (0.5, 0.9)) * 1e3
    print(f"{name:20s} {len(measured):7,d} pairs {p50:14.1f} {p90:8.1f} {np.quantile(off / measured, 0.68):7.1%}")


if __name__ == "__main__":
    sys.exit(main())
