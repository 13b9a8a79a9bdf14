"""Bundles in an OCI image layout, the folder form that registries and their tools exchange.

One artifact manifest per tag (OCI image-spec 1.1, "Guidelines for Artifact Usage"): an empty configuration and one
layer, the DSSE envelope. Everything is named by its SHA-256, and `pull` checks every digest and size on the way.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from isochrone.errors import InputError, IntegrityError
from isochrone.serve.files import atomic_write

__all__ = ["pull", "push"]

ARTIFACT_TYPE = "application/vnd.isochrone.policy-bundle.v1"
ENVELOPE_TYPE = "application/vnd.dsse.envelope.v1+json"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_REF = "org.opencontainers.image.ref.name"
_TITLE = "org.opencontainers.image.title"


def push(layout: Path, tag: str, envelope: bytes, title: str) -> str:
    """Add an envelope under a tag, which then names it alone; returns the manifest's digest.

    Raises:
        InputError: the folder holds something else.
        StorageError: it cannot be written.
    """
    new: dict[str, Any] = {"schemaVersion": 2, "mediaType": _INDEX_TYPE}
    index = _index(layout) if (layout / "index.json").exists() else new
    layer = _put(layout, envelope, ENVELOPE_TYPE) | {"annotations": {_TITLE: title}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST_TYPE,
        "artifactType": ARTIFACT_TYPE,
        "config": _put(layout, b"{}", _EMPTY_TYPE),
        "layers": [layer],
    }
    entry = _put(layout, _json(manifest), _MANIFEST_TYPE) | {"artifactType": ARTIFACT_TYPE, "annotations": {_REF: tag}}
    others = [each for each in index.get("manifests", []) if each.get("annotations", {}).get(_REF) != tag]
    atomic_write(layout / "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
    atomic_write(layout / "index.json", _json(index | {"manifests": [*others, entry]}))
    return str(entry["digest"])


def pull(layout: Path, tag: str) -> bytes:
    """The envelope of a tag.

    Raises:
        InputError: no such layout, tag or artifact.
        IntegrityError: ``oci.digest``, a file is not what its name says.
    """
    entries = {each.get("annotations", {}).get(_REF): each for each in _index(layout).get("manifests", [])}
    if tag not in entries:
        known = ", ".join(sorted(filter(None, entries))) or "none"
        raise InputError(f"{layout} has no tag {tag}", code="oci.tag", hint=f"tags: {known}")
    try:
        manifest = json.loads(_get(layout, entries[tag]))
        (layer,) = manifest["layers"]
        kinds = (manifest.get("artifactType"), layer.get("mediaType"))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{tag} in {layout} is no bundle: {error}", code="oci.form") from error
    if kinds != (ARTIFACT_TYPE, ENVELOPE_TYPE):
        raise InputError(f"{tag} in {layout} is {kinds[0]}, no bundle", code="oci.form")
    return _get(layout, layer)


def _index(layout: Path) -> dict[str, Any]:
    try:
        index = json.loads((layout / "index.json").read_bytes())
        if json.loads((layout / "oci-layout").read_bytes())["imageLayoutVersion"] != "1.0.0":
            raise ValueError("another version of the layout")
        if not isinstance(index, dict):
            raise ValueError("the index is no object")
        return index
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{layout} is no OCI image layout: {error}", code="oci.layout") from error


def _put(layout: Path, data: bytes, media_type: str) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    path = layout / "blobs" / "sha256" / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _get(layout: Path, descriptor: dict[str, Any]) -> bytes:
    algorithm, _, digest = str(descriptor.get("digest")).partition(":")
    if algorithm != "sha256" or len(digest) != 64 or not digest.isalnum():
        raise IntegrityError(f"{descriptor.get('digest')!r} is no SHA-256 digest", code="oci.digest")
    try:
        data = (layout / "blobs" / "sha256" / digest).read_bytes()
    except OSError as error:
        raise IntegrityError(f"{layout} lacks the blob {digest}", code="oci.digest") from error
    if hashlib.sha256(data).hexdigest() != digest or len(data) != descriptor.get("size"):
        raise IntegrityError(f"the blob {digest} in {layout} is not what its name says", code="oci.digest")
    return data


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
