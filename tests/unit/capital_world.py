"""A small invented world for tests of the capital planner: one region far away, metros near, three classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from isochrone.plan.capital.inputs import Asset, CapitalInput, Hardware, Horizon, Place, Site, WorkClass

HARDWARE = (
    Hardware("big", 40e3, 5, 1.3, ((0.010, 300.0), (0.020, 800.0), (0.050, 2000.0)), 2000.0, 0.3, 3000.0, 3.0),
    Hardware("small", 5e3, 5, 0.15, ((0.020, 60.0), (0.050, 200.0)), 300.0, 0.3, 500.0, 0.9),
)
CLASSES = (WorkClass("act", 0.030, 5e-6), WorkClass("talk", 0.100, 5e-6), WorkClass("batch", None, 2e-6))


def world(
    *, places: int = 6, sites: int = 3, years: int = 2, hours: int = 2, seed: int = 0, stretch: float = 2e-5
) -> CapitalInput:
    """Places and sites on a plane; site 0 is the central region where all assets stand."""
    r = np.random.default_rng(seed)
    people = r.uniform(1e5, 5e6, places)
    spots, homes = r.uniform(0, 900, (sites, 2)), r.uniform(0, 900, (places, 2))
    where = tuple(
        Place(f"p{i}", float(i), float(i), float(n), jurisdiction="EU" if i % 2 else "CH") for i, n in enumerate(people)
    )
    stand = tuple(
        Site(f"s{i}", "region" if i == 0 else "metro", float(i), 10.0 + i, "EU" if i % 2 else "CH",
             energy_price_per_kwh=tuple(float(v) for v in r.uniform(-0.02, 0.2, hours)), fixed_cost_per_year=2e5,
             power_kw_max=float("inf") if i == 0 else 400.0, egress_per_gb=0.02, reserve_units=2.0, central=i == 0)
        for i in range(sites)
    )  # fmt: skip
    demand = np.zeros((places, 3, years, hours))
    for k, use in enumerate((5e-4, 2e-3, 2e-3)):
        shape = (1 + 0.5 * np.sin(1 + np.arange(hours)))[None, :] * (1.3 ** np.arange(years))[:, None]
        demand[:, k] = people[:, None, None] * use * shape
    distance = np.linalg.norm(homes[:, None] - spots[None], axis=2)
    assets = (Asset("old big", "s0", "big", 30, 2, 40e3, 5), Asset("old small", "s0", "small", 50, 1, 5e3, 5))
    horizon = Horizon(tuple(range(2026, 2026 + years)), tuple(24 / hours * h for h in range(hours)), 0.08)
    classes = (replace(CLASSES[0], gb_per_unit=1e-8), *CLASSES[1:])
    return CapitalInput(
        "USD", "token", horizon, where, stand, HARDWARE, classes, assets, demand, 0.002 + distance * stretch
    )
