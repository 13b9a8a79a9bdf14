"""What a fabric costs that nobody asks: CPU time by process, over a minute at rest.

    python -m benchmarks.at_rest [FABRIC] [--settle-s 45] [--measure-s 60]

The named limit is one core. CPU time counts also where the processes have to wait for it, so it says the same on a busy
machine, but for what caches lost.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path
from typing import Any

import click
import psutil

from isochrone.serve.process import Supervisor
from isochrone.serve.up import Embedded

_DEMO = Path(__file__).parent.parent / "src/isochrone/cli/demo/fabric.yaml"
_NAME = re.compile(r"main (hub) |(node) --home \S*/(\S+)|(nats-server)|--service-node (\S+)|(models\.\w+)")


def _cpu_s() -> dict[tuple[int, str], float]:
    """CPU seconds so far of every process below this one, by id and name."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            match = _NAME.search(" ".join(process.cmdline()))
            times = process.cpu_times()
        except psutil.Error:
            continue
        name = " ".join(filter(None, match.groups())) if match else "other"
        found[process.pid, f"envoy {name}" if match and match.group(5) else name] = times.user + times.system
    return found


async def _measure(fabric: Path, settle_s: float, measure_s: float) -> None:
    async def at_rest(status: dict[str, Any], supervisor: Supervisor) -> None:
        await asyncio.sleep(settle_s)
        before = _cpu_s()
        await asyncio.sleep(measure_s)
        after = _cpu_s()
        spent = {key: (after[key] - before[key]) / measure_s for key in after.keys() & before.keys()}
        for (_, name), share in sorted(spent.items(), key=lambda each: -each[1]):
            click.echo(f"{name:24} {60 * share:6.2f} CPU s a minute   {100 * share:5.2f} % of a core")
        click.echo(f"{'all':24} {60 * sum(spent.values()):6.2f} CPU s a minute   {100 * sum(spent.values()):5.2f} %")

    with tempfile.TemporaryDirectory() as state:
        await Embedded(fabric, Path(state)).run(at_rest)


@click.command()
@click.argument("fabric", type=click.Path(path_type=Path, exists=True), default=_DEMO)
@click.option("--settle-s", default=45.0, help="Plans follow measurements for a while after a start.")
@click.option("--measure-s", default=60.0)
def main(fabric: Path, settle_s: float, measure_s: float) -> None:
    asyncio.run(_measure(fabric, settle_s, measure_s))


if __name__ == "__main__":
    main()
