"""A policy changed under load: seconds until it is in force at each site, and what decided each request meanwhile.

A whole fabric on this machine (`isochrone up`: bus, hub, a node and an Envoy per site), one client per site that calls
it, and one `isochrone apply` in the middle. Each answer is then judged by the record of the site that gave it: by the
old revision (200), by the new one (403), or by neither. Times are from the hub taking the signed change.
Run: python benchmarks/policy_change.py [sites] [seconds]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.fabric import POLICY, ModelServer, RunningFabric
from support.policy_change import change_under_load

SITE = (
    "  {name}: {{tier: edge, at: {{lat: {lat}, lon: 9.0}}, jurisdiction: DE, vendor: v, "
    "hardware: {{cpu: {{units: 4}}}}}}"
)
FABRIC = """
name: pair
sites:
{sites}
workloads:
  echo:
    protocol: http
    model: {{name: echo}}
    runtime: {{kind: external, at: {{{at}}}}}
    service: {{cpu: {{duration: {{p50_ms: 1, p99_ms: 4}}, concurrency: 8, rps_max: 500}}}}
contracts:
  anywhere:
    workload: echo
    in_time: {{quantile: 0.9, objective_ms: 500}}
    demand_rps: {{{demand}}}
policies: [bounds.cedar]
"""


def fabric_of(count: int, directory: Path) -> RunningFabric:
    """That many sites, a degree of latitude apart."""
    models = {f"site-{n}": ModelServer(f"site-{n}") for n in range(count)}
    made = RunningFabric(directory, models)
    made.path.write_text(
        FABRIC.format(
            sites="\n".join(SITE.format(name=name, lat=47 + n) for n, name in enumerate(models)),
            at=", ".join(f'{name}: "127.0.0.1:{model.port}"' for name, model in models.items()),
            demand=", ".join(f"{name}: 20" for name in models),
        )
    )
    (directory / "bounds.cedar").write_text(POLICY)
    return made


def main(count: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="iso-") as folder:
        fabric = fabric_of(count, Path(folder))
        try:
            fabric.up()
            change = change_under_load(fabric, seconds / 2, seconds / 2)
        finally:
            fabric.close()
    times_s = sorted(change.in_force_s.values())
    print(f"{count} sites, {seconds:g} s of load, one client per site")
    print(
        f"in force after: first {times_s[0]:.2f} s, median {statistics.median(times_s):.2f} s, last {times_s[-1]:.2f} s"
    )
    old, new, neither = (change.decided[each] for each in ("old", "new", "neither"))
    print(f"requests decided by the old revision {old:,}, by the new {new:,}, by neither {neither}")
    print(f"requests without an answer: {change.lost}")
    if neither or not new:
        raise SystemExit("a request was decided by neither revision, or none by the new one")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8, float(sys.argv[2]) if len(sys.argv) > 2 else 20.0)
