"""Where work may run, whatever the time: a class's own terms, and what policies deny it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from isochrone.model.bounds import outside

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from isochrone.plan.capital.inputs import CapitalInput, Hardware, Site, WorkClass

__all__ = ["SAME", "allowed", "barred", "home_matters", "why_none"]

SAME = "same"
_REASONS_SHOWN = 3


def barred(data: CapitalInput, work_class: WorkClass, home: str, site: Site, hardware: Hardware) -> list[str]:
    """Why work of this class that arises in jurisdiction `home` may not run on this hardware there; empty if it may."""
    terms = work_class.in_bounds
    own = tuple(home if area == SAME else area for area in terms.jurisdictions)
    denied = data.denied.get((work_class.name, home, site.name, hardware.name))
    found = outside(replace(terms, jurisdictions=own), site.name, jurisdiction=site.jurisdiction, vendor=site.vendor,
                    hardware=(hardware.name,))  # fmt: skip
    return found + ([denied] if denied else [])


def allowed(data: CapitalInput, work_class: WorkClass, home: str) -> NDArray[np.bool_]:
    """What is in bounds for work of this class that arises in this jurisdiction; shape (sites, hardware)."""
    if not work_class.in_bounds.bind and not data.denied:
        return np.ones((len(data.sites), len(data.hardware)), dtype=bool)
    return np.array([[not barred(data, work_class, home, s, h) for h in data.hardware] for s in data.sites])


def home_matters(data: CapitalInput, work_class: WorkClass) -> bool:
    """Whether the bounds depend on where the work arises."""
    return SAME in work_class.in_bounds.jurisdictions or any(name == work_class.name for name, *_ in data.denied)


def why_none(data: CapitalInput, work_class: WorkClass, home: str) -> str:
    """What keeps every site out of bounds, the commonest reasons first."""
    reasons = Counter(
        reason
        for site in data.sites
        for reason in dict.fromkeys(r for h in data.hardware for r in barred(data, work_class, home, site, h))
    )
    told = [f"{reason} ({n} site{'' if n == 1 else 's'})" for reason, n in reasons.most_common(_REASONS_SHOWN)]
    return "no candidate site is in bounds: " + "; ".join(told)
