"""Roll-out of desired state by revision: what each was, which sites have it in force since when, and who refused it.

A site acknowledges a revision by reporting it in force, from the moment that its Envoy confirmed it, and its own log
has the activation. The hub keeps the acknowledgements, and every revision whole, so that any can be applied again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from isochrone.control.report import SiteReport
from isochrone.errors import InputError
from isochrone.serve.files import atomic_write, private_dir

__all__ = ["Rollouts"]

_KEPT_MAX = 100


class Rollouts:
    """The directory ``revisions``: a file for each revision, and one for its acknowledgements."""

    def __init__(self, directory: Path) -> None:
        self._directory = private_dir(directory)
        self._acks: dict[int, dict[str, float]] = {}

    def keep(self, revision: int, fabric: str, policies: Mapping[str, str], at_s: float) -> None:
        """Keep a revision as it was applied; the oldest are forgotten. Keeping one again changes nothing."""
        path = self._path(revision)
        if not path.exists():
            body = {"revision": revision, "applied_s": at_s, "fabric": fabric, "policies": dict(policies)}
            atomic_write(path, json.dumps(body).encode(), 0o600)
        for old in self.numbers()[:-_KEPT_MAX]:
            self._path(old).unlink(missing_ok=True)
            self._path(old, "acks").unlink(missing_ok=True)

    def numbers(self) -> list[int]:
        """Revisions that are kept, oldest first."""
        found = (path.stem for path in self._directory.glob("*.json"))
        return sorted(int(stem) for stem in found if stem.isdigit())

    def kept(self, revision: int) -> dict[str, Any]:
        """`revision`, `applied_s`, `fabric` and `policies`.

        Raises:
            InputError: ``rollout.unknown``: it is not kept, or not any more.
        """
        path = self._path(revision)
        if not path.exists():
            known = ", ".join(map(str, self.numbers())) or "none"
            raise InputError(f"there is no revision {revision}", code="rollout.unknown", hint=f"kept are: {known}")
        held: dict[str, Any] = json.loads(path.read_bytes())
        return held

    def heard(self, report: SiteReport) -> None:
        """Keep a site's acknowledgement of the revision that it has in force."""
        if not report.desired or not report.desired_since_s:
            return
        acks = self.acks(report.desired)
        if report.site not in acks and self._path(report.desired).exists():
            acks[report.site] = report.desired_since_s
            atomic_write(self._path(report.desired, "acks"), json.dumps(acks, sort_keys=True).encode(), 0o600)

    def acks(self, revision: int) -> dict[str, float]:
        """Since when sites have had a revision in force, by their own clocks, seconds since 1970."""
        if revision not in self._acks:
            path = self._path(revision, "acks")
            self._acks[revision] = json.loads(path.read_bytes()) if path.exists() else {}
        return self._acks[revision]

    def status(self, revision: int, sites: Iterable[str], reports: Mapping[str, SiteReport]) -> dict[str, Any]:
        """The roll-out of one revision.

        Returns:
            `in_force` (site to seconds since 1970), `waiting` (sites), `rejected` (site to why), and `complete_s`:
            since when every site has it, None while one has not.
        """
        acks, wanted = self.acks(revision), sorted(sites)
        in_force = {site: acks[site] for site in wanted if site in acks}
        refused = {site: report.rejected for site, report in sorted(reports.items()) if report.rejected}
        rejected = {site: why for site, why in refused.items() if site in wanted and site not in in_force}
        waiting = [site for site in wanted if site not in in_force and site not in rejected]
        complete_s = max(in_force.values(), default=None) if len(in_force) == len(wanted) else None
        shown = {"revision": revision, "in_force": in_force, "waiting": waiting, "rejected": rejected}
        return shown | {"complete_s": complete_s}

    def history(self) -> list[dict[str, Any]]:
        """Every revision kept, oldest first: when it was applied and where it was acknowledged."""
        return [
            {"revision": number, "applied_s": self.kept(number)["applied_s"], "in_force": self.acks(number)}
            for number in self.numbers()
        ]

    def _path(self, revision: int, kind: str = "json") -> Path:
        return self._directory / f"{revision:06d}.{kind}"
