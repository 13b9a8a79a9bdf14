"""The export folder: what is in it, and the trust anchor that it is verified against.

trust.json              the keys that all is verified against; its digest is the trust anchor
people.json             the identity registry: its anchor and every signed act
revocations.txt         the revocation feed, a signed entry on each line
manifest.json           which entries of which logs, and which of them are judged
logs/SITE/CLASS/...     per log, as C2SP tlog-tiles: checkpoint, tiles, entry bundles ("main" for the main log)
SHA256SUMS              digests of all other files, for `sha256sum -c`
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from isochrone.errors import IntegrityError
from isochrone.record.shards import SHARDS
from isochrone.tlog.extract import Range

__all__ = [
    "MANIFEST",
    "PEOPLE",
    "REVOCATIONS",
    "SUMS",
    "TRUST",
    "Folder",
    "LogPart",
    "Manifest",
    "Trust",
    "log_folder",
    "parse_sums",
    "sums_of",
]

TRUST, PEOPLE, REVOCATIONS, MANIFEST, SUMS = (
    "trust.json", "people.json", "revocations.txt", "manifest.json", "SHA256SUMS",
)  # fmt: skip
_FORM = ("record.export", "export again, or ask for the folder again")


class Folder(Protocol):
    """Files by their paths below the folder."""

    def read(self, path: str) -> bytes | None: ...
    def paths(self) -> Iterable[str]: ...


def log_folder(site: str, shard: str) -> str:
    """Where a log's files are."""
    return f"logs/{site}/{shard or 'main'}"


@dataclass(frozen=True, slots=True)
class Trust:
    """What cannot be verified, and must be known.

    Attributes:
        people: digest of the registry's anchor: who was enrolled before anybody could sign.
        hub_key: JWK that signs revocations.
        logs: site to the verifier key of its main log.
        witnesses: site to ``quorum`` and ``keys`` (witness to verifier key) of its logs.
    """

    fabric: str
    people: str
    hub_key: Mapping[str, Any]
    logs: Mapping[str, str]
    witnesses: Mapping[str, Mapping[str, Any]]

    def encode(self) -> bytes:
        document = {
            "fabric": self.fabric, "people": self.people, "hub_key": dict(self.hub_key),
            "logs": dict(self.logs), "witnesses": {site: dict(asked) for site, asked in self.witnesses.items()},
        }  # fmt: skip
        return _plain(document)

    @classmethod
    def parse(cls, data: bytes | None) -> Trust:
        """Raises IntegrityError (``record.export``)."""
        with _Form(TRUST):
            document = json.loads(data or b"")
            return cls(*(document[name] for name in ("fabric", "people", "hub_key", "logs", "witnesses")))

    @property
    def anchor(self) -> str:
        """The trust anchor: one line to keep, and to compare."""
        return f"sha256:{sha256(self.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class LogPart:
    """What a folder has of one log: all entries in `ranges`; the executions among those in `judged` are judged, the
    others are there because those rest on them."""

    site: str
    shard: str
    ranges: tuple[Range, ...]
    judged: tuple[Range, ...]

    @property
    def folder(self) -> str:
        return log_folder(self.site, self.shard)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was asked for, and the logs that were taken from."""

    asked: str
    exported_at_s: int
    logs: tuple[LogPart, ...]

    def encode(self) -> bytes:
        logs = [{"site": p.site, "log": p.shard, "ranges": p.ranges, "judged": p.judged} for p in self.logs]
        return _plain({"v": 1, "asked": self.asked, "exported_at_s": self.exported_at_s, "logs": logs})

    @classmethod
    def parse(cls, data: bytes | None) -> Manifest:
        """Raises IntegrityError (``record.export``)."""
        with _Form(MANIFEST):
            document = json.loads(data or b"")
            parts = tuple(
                LogPart(str(each["site"]), str(each["log"]), _ranges(each["ranges"]), _ranges(each["judged"]))
                for each in document["logs"]
            )
            if document["v"] != 1 or any(part.shard not in SHARDS for part in parts):
                raise ValueError("another version")
            return cls(str(document["asked"]), int(document["exported_at_s"]), parts)


def sums_of(files: Mapping[str, bytes]) -> bytes:
    """The file of digests."""
    return "".join(f"{sha256(files[path]).hexdigest()}  {path}\n" for path in sorted(files)).encode()


def parse_sums(data: bytes | None) -> dict[str, str]:
    """Path to digest. Raises IntegrityError (``record.export``)."""
    with _Form(SUMS):
        pairs = [line.split("  ", 1) for line in (data or b"").decode("ascii").splitlines()]
        found = {path: digest for digest, path in pairs}
        if not found or "".join(f"{digest}  {path}\n" for path, digest in sorted(found.items())).encode() != data:
            raise ValueError("not a file of digests")
        return found


def _ranges(value: Any) -> tuple[Range, ...]:
    return tuple((int(start), int(stop)) for start, stop in value)


def _plain(document: Any) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


class _Form:
    """Turns whatever a document of another form raises into one typed error that names the file."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, ValueError | KeyError | TypeError | AttributeError | RecursionError):
            text = f"{self._name} has not its form: {error!r}"[:300]
            raise IntegrityError(text, code=_FORM[0], hint=_FORM[1]) from error
