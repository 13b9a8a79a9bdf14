"""What a contract's own terms say of a site: one predicate, for routing and for capital alike."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from isochrone.model.jurisdictions import within

__all__ = ["Terms", "outside"]


class Terms(Protocol):
    """The lists of `in_bounds`; an empty one bounds nothing."""

    @property
    def jurisdictions(self) -> Collection[str]: ...
    @property
    def vendors(self) -> Collection[str]: ...
    @property
    def hardware(self) -> Collection[str]: ...
    @property
    def sites(self) -> Collection[str]: ...


def outside(terms: Terms, site: str, *, jurisdiction: str, vendor: str, hardware: Collection[str]) -> list[str]:
    """Why the terms exclude a site of this jurisdiction, vendor and hardware; empty when they do not."""
    reasons = []
    if terms.jurisdictions and not any(within(jurisdiction, area) for area in terms.jurisdictions):
        reasons.append(f"jurisdiction {jurisdiction or 'unknown'} is not in {', '.join(terms.jurisdictions)}")
    if terms.vendors and vendor not in terms.vendors:
        reasons.append(f"vendor {vendor or 'unknown'} is not among {', '.join(terms.vendors)}")
    if terms.sites and site not in terms.sites:
        reasons.append(f"the site is not among {', '.join(terms.sites)}")
    if terms.hardware and not set(terms.hardware) & set(hardware):
        reasons.append(f"no hardware of {', '.join(terms.hardware)}")
    return reasons
