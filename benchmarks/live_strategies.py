"""The demo's four sites, live: ours beside LiteLLM's latency-based routing, on the same arrivals and model servers.

    python -m benchmarks.live_strategies [--rps 12] [--seconds 60]

Requests enter at Konstanz. Both sides send to the same four stand-in model servers, with the round trips of the demo's
distances (twice the physics floor): ours has them added by each site's Envoy, LiteLLM, which knows no sites, by the
model server itself. LiteLLM is one proxy at Konstanz with one deployment a site and `latency-based-routing`, at its
defaults; it has no notion of bounds, so the contract bounds nothing here. Halfway, the site that
serves most becomes ten times as slow.

What each does for a request: ours verifies a grant, evaluates policy and revocations at both ends, journals both and
seals them in a log; LiteLLM checks one static key and translates. Execution error is the share that was late, refused,
failed or lost. Cost counts each site's hardware per execution, as the fabric document prices it. A side has left the
slow site with the first of ten requests in a row that it sent elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.hop import peers
from benchmarks.hop.processes import end, spawn, wait_listening
from benchmarks.live_fabric import (
    PATH,
    Answers,
    StandIn,
    arrivals,
    free_port,
    open_loop,
    running,
    until,
    warm,
    with_load,
)

from isochrone.latency.floor import rtt_floor_s
from isochrone.model.site import Position

INGRESS, OBJECTIVE_S, STRETCH = "konstanz", 0.4, 2.0
# Position, median service time in seconds, requests at once, price per unit and hour.
SITES = {
    "konstanz": ((47.66, 9.18), 0.12, 4, 0.09),
    "zurich": ((47.37, 8.54), 0.10, 8, 0.05),
    "frankfurt": ((50.11, 8.68), 0.10, 8, 0.05),
    "ashburn": ((39.04, -77.49), 0.10, 32, 0.02),
}
Slowed = tuple[str, float]  # the site that became slow, and when: seconds since the load began
_ELSEWHERE = 10
ENVS = Path(".isochrone/bench-envs").absolute()


def rtt_s(site: str) -> float:
    """The round trip from the ingress that both sides are given."""
    (a, b), (c, d) = SITES[INGRESS][0], SITES[site][0]
    return 0.0 if site == INGRESS else STRETCH * rtt_floor_s(Position(lat=a, lon=b), Position(lat=c, lon=d))


def rate_rps(site: str) -> float:
    _, median_s, servers, _ = SITES[site]
    return 0.9 * servers / (median_s * 1.046)  # the mean of a log-normal of sigma 0.3 is 1.046 times its median


def document(models: dict[str, StandIn], rps: float) -> str:
    sites = {
        name: {
            "tier": "metro", "at": {"lat": at[0], "lon": at[1]}, "jurisdiction": "DE", "vendor": name,
            "hardware": {name: {"units": 1, "price_per_unit_hour": price}},
        }
        for name, (at, _, _, price) in SITES.items()
    }  # fmt: skip
    service = {
        name: {
            "duration": {"p50_ms": median_s * 1e3, "p99_ms": median_s * 2e3}, "concurrency": servers,
            "rps_max": rate_rps(name),
        }
        for name, (_, median_s, servers, _) in SITES.items()
    }  # fmt: skip
    at = {name: f"127.0.0.1:{model.port}" for name, model in models.items()}
    workload = {
        "protocol": "openai", "model": {"name": "bench"}, "service": service, "runtime": {"kind": "external", "at": at},
    }  # fmt: skip
    contract = {
        "workload": "chat", "in_time": {"quantile": 0.95, "objective_ms": OBJECTIVE_S * 1e3},
        "demand_rps": {INGRESS: rps}, "penalty_per_1k": 10,
    }  # fmt: skip
    return json.dumps(
        {
            "name": "four", "sites": sites, "workloads": {"chat": workload}, "contracts": {"assistant": contract},
            "policies": ["all.cedar"], "emulate": {"stretch": STRETCH},
        }
    )  # fmt: skip


def stand_ins(*, far: bool) -> dict[str, StandIn]:
    """The model servers; `far` ones add the round trip from the ingress themselves."""
    return {
        site: StandIn(site, median_s, servers, rtt_s(site) if far else 0.0)
        for site, (_, median_s, servers, _) in SITES.items()
    }


async def ours(times: list[float], halfway_s: float) -> tuple[Answers, Slowed]:
    models, answers = stand_ins(far=False), Answers()
    with tempfile.TemporaryDirectory(prefix="iso-") as folder:
        rps = len(times) / times[-1]
        with running(Path(folder), document(models, rps), list(SITES)) as live:
            source = live.source(INGRESS, "assistant")
            url = live.base(INGRESS) + PATH
            await asyncio.to_thread(warm, url, {"authorization": f"Bearer {source.token()}"})
            load = open_loop(times, url, lambda: {"authorization": f"Bearer {source.token()}"}, answers)
            slowed = await with_load(load, lambda: _slow_down(models, answers, halfway_s))
    return answers, slowed


async def litellm(times: list[float], halfway_s: float) -> tuple[Answers, Slowed]:
    models, answers = stand_ins(far=True), Answers()
    home = peers.install("litellm", ENVS)
    key, port = f"sk-{secrets.token_hex(24)}", free_port()
    deployments = [
        {
            "model_name": "bench",
            "litellm_params": {
                "model": "openai/bench",
                "api_base": f"http://127.0.0.1:{model.port}/v1",
                "api_key": "none",
            },
        }
        for model in models.values()
    ]
    config = {
        "model_list": deployments,
        "router_settings": {"routing_strategy": "latency-based-routing"},
        "general_settings": {"master_key": key},
    }
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "litellm.json").write_text(json.dumps(config))
        command: list[str | Path] = [home / "bin" / "litellm", "--config", Path(folder) / "litellm.json"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1", "--telemetry", "False"]
        quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_DOCS": "True"}
        process = spawn(command, log=Path(folder) / "out.log", environment=quiet)
        try:
            wait_listening(process, port, Path(folder) / "out.log")
            url, headers = f"http://127.0.0.1:{port}{PATH}", {"authorization": f"Bearer {key}"}
            await asyncio.to_thread(warm, url, headers)
            load = open_loop(times, url, lambda: headers, answers)
            slowed = await with_load(load, lambda: _slow_down(models, answers, halfway_s))
        finally:
            end([process])
    return answers, slowed


def _slow_down(models: dict[str, StandIn], answers: Answers, at_s: float) -> Slowed:
    until(lambda: any(row[0] >= at_s for row in answers.rows), "the load is halfway", timeout_s=600.0)
    used = Counter(row[3] for row in answers.between(0.0, at_s) if row[3])
    site = used.most_common(1)[0][0]
    models[site].slow = 10.0
    return site, answers.elapsed_s


def left_after_s(answers: Answers, slowed: Slowed) -> float | None:
    """Seconds from the slowdown until the first of `_ELSEWHERE` requests in a row went elsewhere; None for never."""
    site, at_s = slowed
    sent = [(row[0], row[3] == site) for row in sorted(answers.rows) if row[0] >= at_s]
    runs = (sent[n : n + _ELSEWHERE] for n in range(len(sent) - _ELSEWHERE + 1))
    return next((run[0][0] - at_s for run in runs if not any(there for _, there in run)), None)


def show(name: str, phase: str, rows: list[tuple[float, float, int, str]]) -> None:
    answered = sorted(row[1] for row in rows if row[2] == 200)
    good = sum(row[2] == 200 and row[1] <= OBJECTIVE_S for row in rows)
    late, failed = len(answered) - good, len(rows) - len(answered)
    cost = sum(SITES[row[3]][3] / 3600 / rate_rps(row[3]) for row in rows if row[3]) / max(1, len(answered)) * 1e6
    p50, p99 = (answered[int(q * (len(answered) - 1))] * 1e3 for q in (0.5, 0.99)) if answered else (0.0, 0.0)
    went = ", ".join(f"{site} {sum(row[3] == site for row in rows) / max(1, len(rows)):.0%}" for site in SITES)
    error = 1 - good / max(1, len(rows))
    counts = f"{len(rows):5d} {error:7.2%} {late:5d} {failed:5d}"
    print(f"{name:9s} {phase:6s} {counts} {p50:7.0f} {p99:7.0f} {cost:8.2f}  {went}", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rps", type=float, default=12.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", choices=("isochrone", "litellm"))
    args = parser.parse_args()
    times, halfway_s = arrivals(args.rps, args.seconds, seed=7), args.seconds / 2
    print(
        f"objective {OBJECTIVE_S * 1e3:g} ms; round trips from {INGRESS}:",
        {s: f"{rtt_s(s) * 1e3:.1f} ms" for s in SITES},
    )
    print("side      phase   sent   error  late  lost  p50 ms  p99 ms  cost/1M  where")
    sides = (("isochrone", ours), ("litellm", litellm))
    for name, side in sides if args.only is None else [each for each in sides if each[0] == args.only]:
        answers, slowed = await side(times, halfway_s)
        show(name, "calm", answers.between(0.0, halfway_s))
        show(name, "slow", answers.between(halfway_s, args.seconds))
        after_s = left_after_s(answers, slowed)
        print(f"{'':9s} {slowed[0]} left {'never' if after_s is None else f'{after_s:.2f} s'} after it became slow")


if __name__ == "__main__":
    asyncio.run(main())
