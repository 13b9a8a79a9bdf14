"""How fast the simulator is: requests of trace per second of CPU on one core, for each strategy, control included.

    python benchmarks/sim.py [--fabric europe] [--minutes 1] [--scale 10]

The load is `--scale` times that of `strategies.py`, on as much more capacity: 5,000 requests/s come in at 10. Ours runs
the hub's control loop of every simulated second, whose cost hardly grows with the load; the share of the run that it
took stands beside it.
"""

from __future__ import annotations

import argparse
import sys
import time

from strategies import run, strategies
from worlds import DATA, FABRICS, build, days

from isochrone.sim.strategies import Strategy, View


class Watched:
    """How long a strategy's ticks took."""

    def __init__(self, strategy: Strategy) -> None:
        self.seconds, self._tick = 0.0, strategy.tick
        strategy.tick = self.tick  # type: ignore[method-assign]

    def tick(self, view: View) -> None:
        start = time.process_time()
        self._tick(view)
        self.seconds += time.process_time() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fabric", choices=list(FABRICS), default="europe")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--scale", type=float, default=10.0)
    args = parser.parse_args()
    if not DATA.is_dir():
        print("the measured data are not here: nothing to simulate", file=sys.stderr)
        return 1
    world, at, requests = build(args.fabric, args.minutes, seed=1, scale=args.scale)
    arrivals, disturbance = days(requests, args.minutes * 60)["calm"]
    count = len(arrivals.at_s)
    print(f"{args.fabric}, calm: {count:,} requests in {args.minutes:g} minutes at {len(world.sites)} sites")
    for strategy in strategies(world, at, requests):
        watched = Watched(strategy)
        start = time.process_time()
        run(world, arrivals, strategy, 1, disturbance)
        seconds = time.process_time() - start
        print(f"  {strategy.name:22s} {count / seconds:10,.0f} requests/s, {watched.seconds / seconds:5.1%} in control",
              flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
