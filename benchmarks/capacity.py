"""Benchmarks of the capital planner: siting proofs, sizes, restarts, and how well the latency line fits.

    python -m benchmarks.capacity [siting|lp|mip|spopt|access ...] [--data FOLDER]

`siting`: every OR-Library and Holmberg instance found, in each kind, against published optima where the data hold them.
`lp`: 5,000 places x 200 sites x 3 classes, then the same after a change of demand; memory. `mip`: 60 sites to 0.1 %.
`spopt`: p-median on the same instances. Peer: spopt with PuLP and its CBC, in an environment of its own that this
script makes; both sides are given the cost matrix, both prove optimality; only building and solving are timed.
`access`: per continent, the share of probes within a round trip as published and as the fitted line gives it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isochrone.errors import PlanError
from isochrone.plan.capital.arcs import build_arcs
from isochrone.plan.capital.engine import Engine
from isochrone.plan.capital.inputs import CapitalInput, Hardware, Horizon, Place, Site, WorkClass
from isochrone.plan.capital.model import Options, build
from isochrone.plan.siting import SitingProblem, check, parse_orlib, parse_pmedian, solve
from isochrone.serve import capital_import as source

PEER = """
import json, sys, time
import numpy as np, pulp
from spopt.locate import PMedian
for path, p in json.loads(sys.argv[1]):
    cost = np.load(path)
    start = time.perf_counter()
    model = PMedian.from_cost_matrix(cost, np.ones(cost.shape[0]), p_facilities=p)
    model = model.solve(pulp.PULP_CBC_CMD(msg=False, threads=1))
    print(json.dumps([time.perf_counter() - start, pulp.value(model.problem.objective)]), flush=True)
"""


def geographic(places: int, sites: int, fixed: float = 0.0) -> CapitalInput:
    """Cities of Zipf-like size on a rectangle of 30 x 80 degrees; three classes of 30, 50 and 100 ms."""
    r = np.random.default_rng(0)
    people = 1e5 * (1 / r.random(places)) ** 0.7
    here = np.c_[r.uniform(30, 60, places), r.uniform(-20, 60, places)]
    there = np.c_[r.uniform(30, 60, sites), r.uniform(-20, 60, sites)]
    energy, power = r.uniform(0.04, 0.2, sites), r.uniform(200, 5000, sites)
    hardware = Hardware("h", 40e3, 5, 1.3, ((0.010, 300.0), (0.020, 800.0), (0.050, 2000.0)), 2000.0)
    distance = np.hypot(here[:, None, 0] - there[None, :, 0], (here[:, None, 1] - there[None, :, 1]) * 0.7) * 111
    demand = (people[:, None] * np.array([5e-4, 1e-3, 2e-3]))[:, :, None, None]
    return CapitalInput(
        "USD",
        "token",
        Horizon((2026,), (12.0,), 0.08),
        tuple(Place(f"p{i}", *map(float, at), float(n)) for i, (at, n) in enumerate(zip(here, people, strict=True))),
        tuple(
            Site(
                f"s{i}",
                "metro",
                *map(float, at),
                energy_price_per_kwh=(float(energy[i]),),
                power_kw_max=float(power[i]),
                egress_per_gb=0.02,
                fixed_cost_per_year=fixed,
                reserve_units=1.0 if fixed else 0.0,
            )
            for i, at in enumerate(there)
        ),
        (hardware,),
        tuple(WorkClass(f"c{ms}", ms / 1e3, 2e-5) for ms in (30, 50, 100)),
        (),
        demand,
        0.002 + distance * 2e-5,
    )


def _spent() -> tuple[float, float]:
    """(seconds by the clock, seconds of processor) so far: the second is the one to compare on a shared machine."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), used.ru_utime + used.ru_stime


def _since(start: tuple[float, float]) -> str:
    clock, processor = (now - then for now, then in zip(_spent(), start, strict=True))
    return f"{clock:.1f} s ({processor:.1f} s of processor)"


def lp() -> None:
    start = _spent()
    data = geographic(5000, 200)
    program = build(data, Options(integer=False), build_arcs(data))
    engine = Engine(program)
    building, cold = _since(start), _spent()
    engine.solve()
    solving, everything, cold_s = _since(cold), _since(start), _spent()[1] - cold[1]
    change = np.random.default_rng(1).uniform(0.95, 1.05, program.arcs.demand_per_s.shape)
    warm = _spent()
    engine.change_demand((program.arcs.demand_per_s * change)[None])
    engine.solve()
    again, warm_s = _since(warm), _spent()[1] - warm[1]
    rows, columns, entries = engine.size()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"lp: 5,000 x 200 x 3: {rows:,} rows, {columns:,} columns, {entries:,} entries; building {building}, "
        f"cold {solving}, all {everything}; after a 5 % change of demand {again} = {cold_s / warm_s:.0f} x faster "
        f"than solving cold; peak memory {memory:.1f} GB"
    )


def mip() -> None:
    data = geographic(300, 60, fixed=1000.0)
    start = _spent()
    engine = Engine(build(data, Options()))
    found = engine.solve(gap_rel_max=1e-3, time_limit_s=300)
    opened = int(found.values["open"].sum())
    print(
        f"mip: 300 places x 60 sites x 3 classes: proven to {100 * found.gap:.3f} % in {_since(start)}, "
        f"{opened} sites open"
    )


@dataclass(frozen=True)
class Instance:
    """A siting problem and its published optimum, where there is one."""

    problem: SitingProblem
    published: float | None

    @property
    def name(self) -> str:
        return f"{self.problem.name} {self.problem.kind}"


def instances(data: Path) -> Iterator[Instance]:
    for folder in ("orlib_ss", "holmberg"):
        here = data / "facility_location" / folder
        optima = [float(v) for v in (here / "os").read_text().split()]
        for path in sorted(here.glob("p*"), key=lambda p: int(p.name[1:])):
            for kind in ("uncapacitated", "capacitated", "single-source"):
                problem = parse_orlib(path.read_text(errors="replace"), f"{folder}/{path.name}", kind=kind)
                yield Instance(problem, optima[int(path.name[1:]) - 1] if kind == "single-source" else None)
    lines = (data / "pmedian" / "pmedopt.txt").read_text().splitlines()[1:]
    known = dict(line.split() for line in lines if line.strip())
    for path in sorted((data / "pmedian").glob("pmed[0-9]*.txt")):
        yield Instance(parse_pmedian(path.read_text(), path.stem), float(known[path.stem]))


def siting(data: Path, limit_s: float) -> None:
    total, slow, worst, failed = 0, [], 0.0, []
    print(f"siting: {'instance':32} {'size':>10} {'value':>16} {'published':>16} {'open':>5} {'seconds':>8}")
    for one in instances(data):
        total += 1
        start = time.perf_counter()
        try:
            answer = solve(one.problem, time_limit_s=limit_s)
        except PlanError as exc:
            failed.append(f"{one.name}: {exc}")
            continue
        took = time.perf_counter() - start
        assert check(one.problem, answer) == []
        published = "" if one.published is None else f"{one.published:,.2f}"
        size = " x ".join(str(n) for n in one.problem.serve_cost.shape)
        print(f"  {one.name:38} {size:>10} {answer.value:16,.2f} {published:>16} {len(answer.open):5} {took:8.2f}")
        worst = max(worst, 0.0 if one.published is None else abs(answer.value - one.published))
        slow += [(took, one.name)] if took >= 2 else []
    print(f"siting: {total} problems, {total - len(failed)} proven, largest difference from a published optimum "
          f"{worst:.4f}")  # fmt: skip
    print("  not proven: " + ("; ".join(failed) or "none"))
    print("  2 s or more: " + (", ".join(f"{n} {t:.1f} s" for t, n in sorted(slow)) or "none"))


def access(data: Path) -> None:
    people = source.cities(data / "cities" / "cities15000_min.csv")
    regions = [r for p in sorted((data / "cloud_regions").glob("*_regions.json"))
               for r in source.regions(p, p.name.split("_")[0])]  # fmt: skip
    cdf = data / "cloud_access_cdf" / "corneo2021_fig3_fig4_cdf.csv"
    fits = source.fit_access(cdf, "all-pings-closest-dc", people, regions)
    print("access: measured / fitted share of probes within a round trip, % (every other threshold was fitted)")
    print("  continent  " + " ".join(f"{t:>7g} ms" for t in fits[0].probes_at) + "   worst miss, points")
    for fit in fits:
        cells = " ".join(f"{100 * m:4.0f}/{100 * p:4.0f} " for m, p in fit.probes_at.values())
        print(f"  {fit.continent:10} {cells}   {100 * max(fit.miss_fitted, fit.miss_held_out):.1f}")


def spopt(data: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        venv.create(home / "env", with_pip=True)
        python = str(home / "env" / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "-q", "spopt"], check=True, stderr=subprocess.DEVNULL)
        problems = [parse_pmedian(p.read_text(), p.stem) for p in sorted((data / "pmedian").glob("pmed[0-9]*.txt"))]
        work = []
        for problem in problems:
            np.save(home / f"{problem.name}.npy", problem.serve_cost)
            work.append((str(home / f"{problem.name}.npy"), problem.sites_open_n))
        (home / "peer.py").write_text(PEER)
        print("spopt: instance   spopt s   ours s   times faster   values")
        for problem, one in zip(problems, work, strict=True):
            start = time.perf_counter()
            ours = solve(problem)
            mine = time.perf_counter() - start
            done = subprocess.run(
                [python, str(home / "peer.py"), json.dumps([one])], capture_output=True, text=True, timeout=600
            )
            if done.returncode:
                print(f"  {problem.name}: the peer failed: {done.stderr.strip().splitlines()[-1]}")
                continue
            peer, value = json.loads(done.stdout.splitlines()[-1])
            print(f"  {problem.name:14} {peer:9.2f} {mine:8.2f} {peer / mine:14.1f}   {value:g} / {ours.value:g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["siting", "lp", "mip", "spopt", "access"])
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds per siting problem")
    chosen = parser.parse_args()
    for part in chosen.parts:
        if part in ("siting", "spopt", "access") and not chosen.data.exists():
            print(f"{part}: skipped, no {chosen.data}", file=sys.stderr)
            continue
        {
            "lp": lp,
            "mip": mip,
            "siting": lambda: siting(chosen.data, chosen.limit),
            "spopt": lambda: spopt(chosen.data),
            "access": lambda: access(chosen.data),
        }[part]()


if __name__ == "__main__":
    main()
