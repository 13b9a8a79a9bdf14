"""Site: a place with compute under one operator, and the hardware it offers."""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from isochrone.model.base import Jurisdiction, Name, NonNegative, Noun

__all__ = ["Hardware", "Position", "Site", "Tier", "Tls", "is_loopback", "server_names"]


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


# A DNS name or an IP address, as a client writes it.
ServerName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9:]([a-z0-9.:-]{0,251}[a-z0-9])?$")]


class Tls(Noun):
    """What clients see of a site's ingress.

    Attributes:
        names: DNS names and IP addresses that clients know it by; the fabric's own authority certifies them.
        certificate_file, key_file: PEM files on the site's machine, shown instead; read again when they change.
        outside: TLS ends before the ingress, which speaks plain HTTP on a network that nobody else is in.
    """

    names: tuple[ServerName, ...] = ()
    certificate_file: str | None = None
    key_file: str | None = None
    outside: bool = False


class Site(Noun):
    """A place with compute under one operator.

    `operator` runs it (the vendor, when left out); `attestations` name what that operator has proven. Both are what
    the fabric's operators enrolled, not what the site says of itself.

    `address` is where clients enter (the ingress listener); `peer_address` is where other sites hand over requests
    (mutual TLS). Both may be left out on one machine: the node then takes free loopback ports and publishes them.
    An `address` that other machines reach needs `tls`: grants are for whoever shows them.
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
    tls: Tls | None = None
    drained: bool = False

    @property
    def ends_tls(self) -> bool:
        """Whether its ingress speaks TLS."""
        return self.tls is not None and not self.tls.outside


def is_loopback(address: str) -> bool:
    """Whether only programs on the same machine reach host:port."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def server_names(site: Site) -> tuple[str, ...]:
    """By what the site's certificate says that clients know it: its stated names, and the address it listens on."""
    if site.tls is None or site.tls.outside:
        return ()
    host = site.address.rpartition(":")[0].strip("[]") if site.address else "127.0.0.1"
    return tuple(dict.fromkeys((*site.tls.names, host)))
