"""What the hub decides, as digests: code that only became faster prints the same lines.

    python benchmarks/decisions.py [--minutes 0.5] [--seed 1]

Each of `worlds.py`'s fabrics on each of its days: SHA-256 over every report, every plan the hub held, with all its
texts, its alarms, and the outcome. To compare two versions, run this file with each one's `src` as PYTHONPATH.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys

import numpy as np
from worlds import DATA, FABRICS, build, days

from isochrone.control.hub import Event, Reported
from isochrone.model.site import Position
from isochrone.sim.controlled import HubStrategy
from isochrone.sim.world import Requests, World, simulate


class Written(HubStrategy):
    """Ours, with a digest of all that the hub hears and decides."""

    def __init__(self, world: World, positions: list[Position], sample: Requests) -> None:
        self.digest = hashlib.sha256()
        super().__init__(world, positions, sample)

    def _step(self, event: Event) -> None:
        held = self.hub.plan
        super()._step(event)
        if isinstance(event, Reported) and event.report:
            self.write(event.report.to_json())
        if self.hub.plan is not None and self.hub.plan is not held:
            self.write(self.hub.plan.to_json())

    def write(self, document: object) -> None:
        self.digest.update(json.dumps(document, sort_keys=False).encode())


def digest(fabric: str, day: str, minutes: float, seed: int) -> str:
    """One cell: its digest and, to see that something happened, what came out."""
    world, at, requests = build(fabric, minutes, seed)
    arrivals, disturbance = days(requests, minutes * 60)[day]
    strategy = Written(world, at, requests)
    outcome = simulate(world, arrivals, strategy, np.random.default_rng(seed), tick_s=0.5, disturbance=disturbance)
    strategy.write([strategy.alarms, outcome.to_json()])
    return f"{strategy.digest.hexdigest()}  error {outcome.execution_error:7.3%}, {strategy.plans} plans told"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if not DATA.is_dir():
        print("the measured data are not here: nothing to simulate", file=sys.stderr)
        return 1
    for fabric in FABRICS:
        for day in ("calm", "spike", "site loss", "slow site", "stale"):
            print(f"{fabric + ', ' + day:18s} {digest(fabric, day, args.minutes, args.seed)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
