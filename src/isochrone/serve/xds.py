"""Envoy's filesystem xDS: what a file configures, in which order files are written, which statistics show it in force.

A file is a JSON `DiscoveryResponse` with a `version_info`. Measured on Envoy 1.40, and assumed here: a cluster, route
or extension subscription accepts a file with exactly one resource (its own); a rename in a watched directory makes
Envoy read again every file watched through that directory; each subscription takes one inotify instance (Linux allows
a user 128 by default; an Envoy that gets none aborts); ``version_text`` is set when an update was accepted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from isochrone.errors import InputError
from isochrone.serve.files import fsync_dir, storage_errors, write_if_changed

__all__ = ["Target", "backends_of", "keep_removed_clusters", "rejections_of", "target_of", "versions_of", "write_files"]

_KINDS = {
    "envoy.extensions.transport_sockets.tls.v3.Secret": "sds",
    "envoy.config.cluster.v3.Cluster": "cds",
    "envoy.config.endpoint.v3.ClusterLoadAssignment": "eds",
    "envoy.config.core.v3.TypedExtensionConfig": "ecds",
    "envoy.config.listener.v3.Listener": "lds",
    "envoy.config.route.v3.RouteConfiguration": "rds",
}
# Make before break: whatever is referred to stands before what refers to it. Envoy rejects a cluster or listener that
# names a file which does not exist yet, so endpoints come before clusters, and routes and extensions before listeners.
_ORDER = ("sds", "eds", "cds", "ecds", "rds", "lds")
_BACKENDS = frozenset({"sds", "eds", "cds"})
_SCOPES = (
    ("cds", re.compile(r"^cluster_manager\.()cds$")),
    ("lds", re.compile(r"^listener_manager\.()lds$")),
    ("sds", re.compile(r"^sds\.(.+)$")),
    ("rds", re.compile(r"^http\..+?\.rds\.(.+)$")),
    ("ecds", re.compile(r"^extension_config_discovery\.[a-z_]+\.(.+)$")),
    ("eds", re.compile(r"^cluster\.(.+)$")),
)
_REJECTIONS = ("update_rejected", "update_failure", "config_fail")


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """What one file configures: `kind` (cds, eds, ...) and, for the kinds with one resource a file, its name."""

    kind: str
    name: str


@lru_cache(maxsize=64)
def target_of(file: str, data: bytes) -> tuple[Target, str]:
    """The target and the `version_info` of a file.

    Raises:
        InputError: ``envoy.file``: not a JSON DiscoveryResponse of one kind, or more resources than its kind allows.
    """
    try:
        document = json.loads(data)
        version, resources = str(document["version_info"]), list(document["resources"])
        types = {str(r["@type"]).rpartition("/")[2] for r in resources}
    except (ValueError, KeyError, TypeError) as e:
        raise _bad(file, f"not a JSON DiscoveryResponse with version_info and typed resources ({e!r})") from e
    kinds = {_KINDS.get(t, t) for t in types} or {re.split(r"[^a-z]", Path(file).parts[0])[0]}
    kind = kinds.pop()
    if kinds or kind not in _ORDER:
        raise _bad(file, f"resources must be of one known kind, not {sorted(kinds | {kind})}")
    if kind in ("cds", "lds"):
        return Target(kind, ""), version
    if len(resources) != 1:
        raise _bad(file, f"Envoy accepts exactly one {kind} resource a file, here are {len(resources)}")
    name = str(resources[0].get("cluster_name" if kind == "eds" else "name", ""))
    return Target(kind, name.replace(":", "_")), version


def _bad(file: str, what: str) -> InputError:
    return InputError(
        f"{file}: {what}", code="envoy.file", hint="the compiler of Envoy's files wrote this: mend it there"
    )


def write_files(directory: Path, files: Mapping[str, bytes], remove: Collection[str] = ()) -> list[str]:
    """Put files into place, each atomically and only if changed; endpoints and clusters before what routes to them.

    Args:
        directory: root of the watched directories.
        files: relative path to content; sub-directories are made. The same input writes in the same order.
        remove: relative paths deleted at the end; missing ones are ignored.

    Returns:
        The paths that were written, in the order written.

    Raises:
        InputError: a file is not valid (nothing is written then).
        StorageError: the disk refused; files later in the order keep their last good content.
    """
    targets = {file: target_of(file, data)[0] for file, data in files.items()}
    written = []
    for file in sorted(files, key=lambda f: (_ORDER.index(targets[f].kind), f)):
        path = directory / file
        with storage_errors("creating directory", path.parent):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if write_if_changed(path, files[file], 0o600):
            written.append(file)
    for file in sorted(remove):
        path = directory / file
        with storage_errors("removing", path):
            path.unlink(missing_ok=True)
        if path.parent.is_dir():
            fsync_dir(path.parent)
    return written


def keep_removed_clusters(old: bytes, new: bytes) -> bytes | None:
    """`new` CDS file plus the clusters only `old` has; None when it has no such clusters.

    The in-between file of a removal: routes must stop using a cluster before the cluster goes.
    """
    before, after = json.loads(old), json.loads(new)
    names = {c["name"] for c in after["resources"]}
    kept = [c for c in before["resources"] if c["name"] not in names]
    if not kept:
        return None
    union = {**after, "version_info": f"{after['version_info']}+kept", "resources": after["resources"] + kept}
    return json.dumps(union, separators=(",", ":")).encode()


def backends_of(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Those of `files` that routes and listeners refer to: secrets, endpoints, clusters."""
    return {file: data for file, data in files.items() if target_of(file, data)[0].kind in _BACKENDS}


def versions_of(stats: Mapping[str, Any]) -> dict[Target, set[str]]:
    """Accepted versions by target, from ``version_text`` statistics; several subscriptions may share a file."""
    found: dict[Target, set[str]] = {}
    for stat, value in stats.items():
        scope, _, leaf = stat.rpartition(".")
        target = _target_of_scope(scope)
        if leaf == "version_text" and target is not None:
            found.setdefault(target, set()).add(str(value))
    return found


def rejections_of(stats: Mapping[str, Any]) -> dict[Target, int]:
    """How often updates of each target were rejected or could not be read, since Envoy started."""
    found: dict[Target, int] = {}
    for stat, value in stats.items():
        scope, _, leaf = stat.rpartition(".")
        target = _target_of_scope(scope)
        if leaf in _REJECTIONS and target is not None:
            found[target] = found.get(target, 0) + int(value)
    return found


def _target_of_scope(scope: str) -> Target | None:
    for kind, pattern in _SCOPES:
        match = pattern.match(scope)
        if match:
            return Target(kind, match.group(1))
    return None
