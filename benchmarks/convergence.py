"""How long until a change is in force at all of 8 sites, and how many requests it costs.

    python -m benchmarks.convergence [--rps 20]

Eight sites on this machine, with emulated distances, under open-loop load from one ingress. For each change: seconds
from the change to the hub's having observed it, from there to the new plan in force at every live site (confirmed by
each site's Envoy), and the requests that no model server answered meanwhile. The limit to hold is 2 s from observed to
in force. Failover from site to site does not wait for the plan: the requests lost say what it does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.live_fabric import PATH, Answers, Live, StandIn, arrivals, open_loop, running, until, with_load

from isochrone.serve.bus import Bus
from isochrone.serve.home import SiteHome, bus_name
from isochrone.serve.mailbox import SITES as SITES_BUCKET

SITES = {
    "konstanz": (47.66, 9.18), "zurich": (47.37, 8.54), "munich": (48.14, 11.58), "stuttgart": (48.78, 9.18),
    "frankfurt": (50.11, 8.68), "milan": (45.46, 9.19), "vienna": (48.21, 16.37), "prague": (50.08, 14.44),
}  # fmt: skip
INGRESS = "konstanz"
LIMIT_S = 2.0


def document(models: dict[str, StandIn], rtt_ms: dict[str, float]) -> str:
    sites = {
        name: {
            "tier": "metro", "at": {"lat": at[0], "lon": at[1]}, "jurisdiction": "DE", "vendor": name,
            # The ingress is the cheapest, and each further site dearer: a change anywhere changes the plan.
            "hardware": {"cpu": {"units": 4, "price_per_unit_hour": 0.1 * (1 + n)}},
        }
        for n, (name, at) in enumerate(SITES.items())
    }  # fmt: skip
    at = {name: f"127.0.0.1:{model.port}" for name, model in models.items()}
    service = {"cpu": {"duration": {"p50_ms": 20, "p99_ms": 60}, "concurrency": 32, "rps_max": 60}}
    contract = {
        "workload": "chat", "in_time": {"quantile": 0.95, "objective_ms": 400}, "demand_rps": {INGRESS: 20},
        "penalty_per_1k": 50,
    }  # fmt: skip
    return json.dumps(
        {
            "name": "eight",
            "sites": sites,
            "workloads": {
                "chat": {
                    "protocol": "openai", "model": {"name": "bench"}, "service": service,
                    "runtime": {"kind": "external", "at": at},
                }
            },
            "contracts": {"helpdesk": contract},
            "policies": ["all.cedar"],
            "emulate": {"stretch": 2.0, "rtt_ms": rtt_ms},
        }
    )  # fmt: skip


class Bench:
    """Changes, and how long each took to be in force."""

    def __init__(self, live: Live, answers: Answers) -> None:
        self.live, self.answers, self.start_s = live, answers, time.monotonic()
        self.worst_s = 0.0

    def measure(self, name: str, change: Callable[[], object], observed: Callable[[], bool], without: str = "") -> None:
        """Print one row; `without` is a site that is not waited for."""
        before = int(self.live.status()["plan"])
        begin_s = time.monotonic()
        change()
        until(observed, f"{name}: observed")
        seen_s = time.monotonic()
        until(lambda: self.live.status()["plan"] > before, f"{name}: a new plan")
        revision, others = int(self.live.status()["plan"]), [site for site in self.live.sites if site != without]
        until(lambda: self.live.in_force(revision, others), f"{name}: in force")
        end_s = time.monotonic()
        time.sleep(2.0)
        lost = [row for row in self.answers.between(begin_s - self.start_s, end_s + 1 - self.start_s) if row[2] != 200]
        sent = len(self.answers.between(begin_s - self.start_s, end_s + 1 - self.start_s))
        self.worst_s = max(self.worst_s, end_s - seen_s)
        times = f"{seen_s - begin_s:9.2f} {end_s - seen_s:9.2f} {end_s - begin_s:9.2f}"
        print(f"{name:34s} {times} {len(lost):6d} of {sent}", flush=True)


def script(live: Live, bench: Bench, models: dict[str, StandIn]) -> None:
    print(f"{'change':34s} {'observed':>9s} {'in force':>9s} {'together':>9s} {'lost':>6s}")
    drained = lambda: "zurich" in live.status()["drained"]  # noqa: E731
    bench.measure("site drained by an operator", lambda: live.begin("drain", "zurich"), drained)
    bench.measure("and taken back", lambda: live.begin("drain", "zurich", "--undo"), lambda: not drained())

    far = {f"{INGRESS}/zurich": 300.0}
    (live.directory / "far.yaml").write_text(document(models, far))
    slow = lambda: _rtt(live, INGRESS, "zurich") > 0.25  # noqa: E731
    bench.measure("round trip 3 ms to 300 ms", lambda: live.cli("apply", "far.yaml", "--yes"), slow)

    models[INGRESS].slow = 30.0
    served = lambda: live.ask("GET", "/known")["service"]["calibrated"][INGRESS]["chat"]["slowdown"] > 5  # noqa: E731
    bench.measure("the cheapest site 30 times as slow", lambda: None, served)
    models[INGRESS].slow = 1.0

    gone = lambda: "munich" not in live.status()["up"]  # noqa: E731
    bench.measure("site killed (node and Envoy)", lambda: live.kill_site("munich"), gone, "munich")
    back = lambda: "munich" in live.status()["up"]  # noqa: E731
    bench.measure("and back", lambda: None, back)

    flood = lambda: asyncio.run(_flood(live, "prague"))  # noqa: E731
    print(f"{flood():,} reports in 5 s on the bus from one site; then:")
    bench.measure("site drained after the flood", lambda: live.begin("drain", "zurich"), drained)

    begin_s, restarts = time.monotonic() - bench.start_s, 3
    for _ in range(restarts):
        live.child("hub").kill()
        until(lambda: live.status()["plan"], "the hub is back")
        time.sleep(3.0)
    rows = bench.answers.between(begin_s, time.monotonic() - bench.start_s - 1)
    print(
        f"hub killed {restarts} times, every few seconds: {sum(r[2] != 200 for r in rows)} of {len(rows)} requests lost"
    )
    print(f"slowest from observed to in force: {bench.worst_s:.2f} s; the limit is {LIMIT_S:g} s")


def _rtt(live: Live, ingress: str, site: str) -> float:
    from isochrone.latency.sketch import Sketch

    return Sketch.from_json(live.status()["sites"][ingress]["rtt"][site]).quantile(0.9) or 0.0


async def _flood(live: Live, site: str, seconds: float = 5.0) -> int:
    """Reports of one site, by its own certificate, as fast as the bus takes them."""
    home = SiteHome(live.state / "sites" / site)
    url = str(home.document()["bus"])
    async with Bus(url, name=bus_name(site), tls=home.tls) as bus:
        await bus.wait_connected(10.0)
        entry = await bus.get(SITES_BUCKET, site)
        assert entry is not None
        assert entry.value is not None
        report = json.loads(entry.value)
        end_s, count = time.monotonic() + seconds, 0
        while time.monotonic() < end_s:
            count += 1
            await bus.put(SITES_BUCKET, site, json.dumps(report | {"at_s": report["at_s"] + count * 1e-3}).encode())
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rps", type=float, default=20.0)
    args = parser.parse_args()
    models = {site: StandIn(site, 0.02) for site in SITES}
    with tempfile.TemporaryDirectory(prefix="iso-") as folder:
        with running(Path(folder), document(models, {}), list(SITES)) as live:
            source = live.source(INGRESS, "helpdesk")
            answers = Answers()
            bench = Bench(live, answers)
            load = open_loop(
                arrivals(args.rps, 3600.0, 1), live.base(INGRESS) + PATH,
                lambda: {"authorization": f"Bearer {source.token()}"}, answers,
            )  # fmt: skip
            asyncio.run(with_load(load, lambda: script(live, bench, models), whole=False))
            lost = [row for row in answers.rows if row[2] != 200]
            print(f"{len(answers.rows):,} requests in all, {len(lost)} lost or refused: {_kinds(lost)}")


def _kinds(rows: list[tuple[float, float, int, str]]) -> dict[int, int]:
    return {status: sum(row[2] == status for row in rows) for status in sorted({row[2] for row in rows})}


if __name__ == "__main__":
    main()
