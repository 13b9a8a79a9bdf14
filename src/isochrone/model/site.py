"""Site: a place with compute under one operator, and the hardware it offers."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from isochrone.model.base import Jurisdiction, Name, NonNegative, Noun

__all__ = ["Hardware", "Position", "Site", "Tier"]


class Tier(StrEnum):
    """How close to demand a site stands, closest first."""

    DEVICE = "device"
    EDGE = "edge"
    METRO = "metro"
    REGION = "region"


class Position(Noun):
    """WGS 84 coordinates in degrees."""

    lat: Annotated[float, Field(ge=-90, le=90)]
    lon: Annotated[float, Field(ge=-180, le=180)]


class Hardware(Noun):
    """Units of one hardware class at one site.

    Attributes:
        units: how many units of this class the fabric may use (cores, slices or devices, as the class defines).
        price_per_unit_hour: what one unit costs while used, in the fabric's currency.
    """

    units: Annotated[int, Field(ge=0, le=1_000_000)]
    price_per_unit_hour: NonNegative = 0.0


# host:port with a literal IP address or a DNS name.
Address = Annotated[str, StringConstraints(pattern=r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$")]


class Site(Noun):
    """A place with compute under one operator.

    `operator` runs it (the vendor, when left out); `attestations` name what that operator has proven. Both are what
    the fabric's operators enrolled, not what the site says of itself.

    `address` is where clients enter (the ingress listener); `peer_address` is where other sites hand over requests
    (mutual TLS). Both may be left out on one machine: the node then takes free loopback ports and publishes them.
    """

    tier: Tier
    at: Position
    jurisdiction: Jurisdiction
    vendor: Name
    operator: Name | None = None
    attestations: tuple[Name, ...] = ()
    hardware: dict[Name, Hardware] = Field(min_length=1)
    address: Address | None = None
    peer_address: Address | None = None
    drained: bool = False
