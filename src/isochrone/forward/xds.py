"""The few shapes of Envoy's API (v3) that several files share, as plain dictionaries, and their canonical bytes.

Names of messages and fields are Envoy's own: https://www.envoyproxy.io/docs/envoy/latest/api-v3/api
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Address", "Json", "any_of", "discovery", "header", "path_source", "seconds", "socket", "typed"]

Json = dict[str, Any]

_TYPE = "type.googleapis.com/"


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A literal IP address and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """From ``host:port`` or ``[v6]:port``."""
        host, _, port = text.rpartition(":")
        return cls(host.strip("[]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def any_of(message: str, /, **fields: Any) -> Json:
    """A `google.protobuf.Any` holding `message`, e.g. ``envoy.extensions.filters.http.router.v3.Router``."""
    return {"@type": _TYPE + message, **fields}


def typed(name: str, message: str, /, **fields: Any) -> Json:
    """A named extension: filter, matcher, access logger, transport socket."""
    return {"name": name, "typed_config": any_of(message, **fields)}


def socket(address: Address) -> Json:
    """`config.core.v3.Address` of a TCP socket."""
    return {"socket_address": {"address": address.host, "port_value": address.port}}


def seconds(value: float) -> str:
    """`google.protobuf.Duration` in JSON form."""
    return f"{value:.6f}".rstrip("0").rstrip(".") + "s"


def header(key: str, value: str, action: str = "OVERWRITE_IF_EXISTS_OR_ADD") -> Json:
    """`HeaderValueOption`; the value may hold command operators (`%...%`)."""
    return {"header": {"key": key, "value": value}, "append_action": action}


def path_source(directory: str, file: str) -> Json:
    """A `ConfigSource` that follows one file, reloaded when anything is renamed into its directory."""
    return {
        "path_config_source": {"path": f"{directory}/{file}", "watched_directory": {"path": directory}},
        "resource_api_version": "V3",
    }


def discovery(resources: Iterable[Mapping[str, Any]]) -> bytes:
    """A `DiscoveryResponse` file. `version_info` is the digest of its resources: equal content, equal version."""
    body = json.dumps(list(resources), sort_keys=True, separators=(",", ":"))
    version = hashlib.sha256(body.encode()).hexdigest()[:16]
    return f'{{"resources":{body},"version_info":"{version}"}}\n'.encode()
