"""Three fabrics of real places under published traces, and five days they can have; for `strategies.py` and `sim.py`.

Sites are Azure regions and metro sites (cities where Cloudflare has a point of presence and WonderNetwork a server).
Round trips: published medians between regions, a day of pings between metro sites and from them to servers near the
regions, and the line of the continent (`latency/continents.py`) where neither is known. Arrivals are the Azure and
Mooncake traces, spread over the sites by the population of the cities near them and their local time; speeds are
fitted to measured rows of one model on two GPUs.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from isochrone.latency.continents import PATHS
from isochrone.latency.floor import geodesic_m, rtt_floor_s
from isochrone.latency.geography import great_circle_km
from isochrone.model.site import Position
from isochrone.sim.batching import Batching, fit_batching
from isochrone.sim.trace import day_weight, parse_azure, parse_mooncake, spread
from isochrone.sim.world import Disturbance, Requests, World

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
FABRICS = {
    "europe": (["West Europe", "North Europe", "UK South", "France Central", "Germany West Central", "Sweden Central",
                "Italy North", "Poland Central"], ["Vienna", "Madrid", "Athens", "Zurich"]),
    "us": (["East US", "East US 2", "Central US", "North Central US", "South Central US", "West US", "West US 2",
            "West US 3"], ["Newark", "Miami", "Denver", "Seattle"]),
    "world": (["East US", "West US 2", "Brazil South", "UK South", "West Europe", "UAE North", "Central India",
               "Southeast Asia", "Japan East", "Australia East", "South Africa North"],
              ["Toronto", "Madrid", "Istanbul"]),
}  # fmt: skip
MODEL = {"model_path": "meta-llama/Llama-3.1-70B", "backend": "trtllm", "precision": "fp8", "mode": "agg"}


def positions_and_rtt(regions: list[str], metros: list[str]) -> tuple[list[Position], np.ndarray]:
    """Coordinates and symmetric round trips in seconds, as the module says; never below the floor."""
    places = json.loads((DATA / "azure_rtt/azure_region_coordinates.json").read_text())
    region_at = {v["displayName"]: Position(lat=v["lat"], lon=v["lon"]) for v in places.values()}
    pops = json.loads((DATA / "edge_pops/cloudflare-edge-locations.json").read_text())
    metro_at = {v["city"]: Position(lat=v["latitude"], lon=v["longitude"]) for v in pops.values() if "latitude" in v}
    at = [region_at[name] for name in regions] + [metro_at[name] for name in metros]
    with (DATA / "azure_rtt/azure_region_rtt_ms.csv").open() as file:
        published = {row["Source"]: row for row in csv.DictReader(file)}
    servers, pings = wonder()
    nearest = [_nearest(position, servers) for position in at]
    names = [*regions, *metros]
    rtt = np.zeros((len(at), len(at)))
    for i, a in enumerate(names):
        for j, b in enumerate(names[:i]):
            told = [published.get(x, {}).get(y) for x, y in ((a, b), (b, a))]
            known = [float(value) for value in told if value] or pings.get(frozenset((nearest[i], nearest[j])), [])
            floor = rtt_floor_s(at[i], at[j])
            modelled = min(PATHS[k].access_s + PATHS[k].stretch * floor for k in ("EU", "NA"))
            rtt[i, j] = rtt[j, i] = max(float(np.mean(known)) / 1e3 if known else modelled, floor)
    return at, rtt


def wonder() -> tuple[dict[str, tuple[float, float]], dict[frozenset[str | None], list[float]]]:
    """Servers with their coordinates, and round trips in ms between two of them."""
    with (DATA / "wondernetwork_rtt/servers-2020-07-19.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["latitude"]]
    servers = {row["id"]: (float(row["latitude"]), float(row["longitude"])) for row in rows}
    pings: dict[frozenset[str | None], list[float]] = {}
    with (DATA / "wondernetwork_rtt/pings-2020-07-19-2020-07-20-grouped.csv").open() as file:
        for row in csv.DictReader(file):
            pings.setdefault(frozenset((row["source"], row["destination"])), []).append(float(row["avg"]))
    return servers, pings


def _nearest(at: Position, servers: dict[str, tuple[float, float]]) -> str | None:
    """The server within 100 km, if there is one."""
    lat, lon = np.array(list(servers.values())).T
    km = great_circle_km(np.array(at.lat), np.array(at.lon), lat, lon)
    return list(servers)[int(km.argmin())] if km.min() <= 100 else None


def weights(at: list[Position], hour_utc: float) -> np.ndarray:
    """People whose nearest site it is, times how busy their hour is."""
    with (DATA / "cities/cities15000_min.csv").open() as file:
        cities = sorted(csv.DictReader(file), key=lambda row: -float(row["population"]))[:800]
    found = np.zeros(len(at))
    for city in cities:
        here = Position(lat=float(city["lat"]), lon=float(city["lon"]))
        metres = [geodesic_m(here, there) for there in at]
        if min(metres) < 2.5e6:
            found[int(np.argmin(metres))] += float(city["population"]) * day_weight(hour_utc, here.lon)
    return found


def fitted() -> tuple[Batching, Batching]:
    """A quick and a slow GPU for the same model."""
    with (DATA / "gpu_perf/aiconfigurator_silicon_sample.csv").open() as file:
        rows = list(csv.DictReader(file))
    kinds = (("b200_sxm", "8"), ("h200_sxm", "4"))
    quick, slow = (MODEL | {"system": system, "tp_size": parts} for system, parts in kinds)
    return fit_batching(rows, quick, context=1500, slots=32), fit_batching(rows, slow, context=1500, slots=32)


def build(fabric: str, minutes: float, seed: int, scale: float = 1.0) -> tuple[World, list[Position], Requests]:
    """Four contracts: chat and an assistant (tighter, dearer) on one model, code on another, and a 60 ms audio stream.

    Args:
        scale: how many times the usual load, on as much more capacity.
    """
    rng = np.random.default_rng(seed)
    regions, metros = FABRICS[fabric]
    at, rtt = positions_and_rtt(regions, metros)
    near = weights(at, hour_utc=14.0)
    quick, slow = fitted()
    conv, code = (
        parse_azure((DATA / f"llm_traces/AzureLLMInferenceTrace2023_{name}.csv").read_text())
        for name in ("conv", "code")
    )
    mooncake = parse_mooncake((DATA / "llm_traces/mooncake_conversation_trace.jsonl").read_text())
    parts = []
    for contract, (trace, copies) in enumerate(((conv, 20), (conv, 10), (code, 40), (mooncake, 60))):
        copied, place = spread(trace, near, max(1, round(copies * scale)), rng)
        # Mooncake's times are rounded to 3 s: its requests came within them, not all at once.
        arrived = copied.at_s + (rng.uniform(0, 3, len(copied.at_s)) if trace is mooncake else 0.0)
        keep = arrived < minutes * 60
        prompt, answer = copied.prompt_tokens[keep], copied.answer_tokens[keep]
        if contract == 3:  # the arrivals of Mooncake, with the work of a voice model: 2 ms, log-normal
            first = whole = rng.lognormal(np.log(0.002), 0.5, keep.sum())
        else:
            first, whole = quick.first_s(prompt), quick.whole_s(prompt, answer)
        parts.append((arrived[keep], place[keep], np.full(keep.sum(), contract), first, whole))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    requests = Requests(*(column[order] for column in columns))
    names = tuple(name.lower().replace(" ", "-") for name in (*regions, *metros))
    return world_of(names, len(metros), near, rtt, (quick, slow), requests, minutes * 60, rng), at, requests


def world_of(
    names: tuple[str, ...],
    metros: int,
    near: np.ndarray,
    rtt: np.ndarray,
    speeds: tuple[Batching, Batching],
    requests: Requests,
    length_s: float,
    rng: np.random.Generator,
) -> World:
    """Capacity for 1.5 x the mean demand in all, placed half evenly and half by population, a third of that at metro
    sites; prices from 1 to 3, half as much again at metro sites. Code may not run at a third of the sites."""
    quick, slow = speeds
    count = len(names)
    metro = np.arange(count) >= count - metros
    share = (0.5 / count + 0.5 * near / near.sum()) * np.where(metro, 1 / 3, 1.0)
    speed = np.ones((3, count))
    speed[:2] = np.where(rng.random(count) < 0.4, slow.step_s / quick.step_s, 1.0)
    workload = (0, 0, 1, 2)
    slowdown = np.array([quick.slowdown, quick.slowdown, 0.0]) * (quick.slots - 1)
    of = np.array(workload)[requests.contract]
    work = np.array([requests.whole_s[of == w].sum() for w in range(3)]) * (1 + slowdown) / length_s
    slots = np.ceil(1.5 * work[:, None] * share / share.sum() * speed + 2).astype(int)
    price = rng.uniform(1, 3, count) * np.where(metro, 1.5, 1.0)
    allowed = np.ones((4, count), dtype=bool)
    allowed[2, rng.permutation(count)[: count // 3]] = False
    return World(
        sites=names,
        ingresses=names,
        contracts=("chat", "assistant", "code", "voice"),
        workload=workload,
        rtt_s=rtt,
        allowed=allowed,
        objective_s=np.array([1.0, 0.5, 0.6, 0.060]),
        first_byte=(True, True, True, False),
        penalty=np.array([0.02, 0.06, 0.02, 0.005]),
        slots=slots,
        speed=speed,
        cost=np.array([price * 2e-4, price * 2e-4, price * 2e-7]),
        slowdown=slowdown,
    )


def days(requests: Requests, length_s: float) -> dict[str, tuple[Requests, Disturbance]]:
    """Calm, and four ways it goes wrong in the middle third, at the site with the most demand: three times its demand;
    the site away; four times as slow; and slow while its telemetry stands still and praises it."""
    from_s, to_s = length_s / 3, 2 * length_s / 3
    busiest = int(np.argmax(np.bincount(requests.ingress)))
    inside = (requests.at_s >= from_s) & (requests.at_s < to_s) & (requests.ingress == busiest)
    again = np.concatenate([np.arange(len(requests.at_s)), np.flatnonzero(inside), np.flatnonzero(inside)])
    again = again[np.argsort(requests.at_s[again], kind="stable")]
    columns = ("at_s", "ingress", "contract", "first_s", "whole_s")
    spike = Requests(*(getattr(requests, name)[again] for name in columns))
    return {
        "calm": (requests, Disturbance()),
        "spike": (spike, Disturbance()),
        "site loss": (requests, Disturbance(from_s, to_s, lost=(busiest,))),
        "slow site": (requests, Disturbance(from_s, to_s, slow=(busiest,))),
        "stale": (requests, Disturbance(from_s, to_s, slow=(busiest,), stale=(busiest,))),
    }
