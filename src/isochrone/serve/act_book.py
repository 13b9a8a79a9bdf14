"""The hub's book of human acts: the registry, every act since its anchor, and the desired state they led to.

The hub can lose this or hold it back; it cannot add to it. Every site verifies the acts again, from the anchor that it
was enrolled with, and takes no desired state that the last of them does not name (`control.mandate`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isochrone.authority.identity import ACT_BYTES_MAX, ACT_TYP, OPEN_ACTS, ActRejected, Registry
from isochrone.authority.proof import parse_signed
from isochrone.authority.sites import SITE_ACTS, SiteStanding
from isochrone.control.mandate import DesiredText, lock_out, mandate_faults
from isochrone.errors import AuthorityError
from isochrone.policy.administer import administer_refusals
from isochrone.serve.files import atomic_write
from isochrone.serve.home import HubHome

__all__ = ["ActBook"]


class ActBook:
    """Acts as the hub keeps them. Every change is on disk before it is told to anybody."""

    def __init__(self, home: HubHome) -> None:
        self._home = home
        self._registry: Registry | None = None

    @property
    def registry(self) -> Registry:
        """Everyone, and what they did.

        Raises:
            InputError: nobody is enrolled yet.
        """
        if self._registry is None or self._registry.seq != len(self.document["acts"]):
            # A command may have entered acts while no hub ran, or none answered.
            self._registry = self._home.people()
        return self._registry

    @property
    def sites(self) -> Mapping[str, SiteStanding]:
        """Those that acts admitted, by name; none while nobody is enrolled."""
        return self.registry.sites if self.document["anchor"] else {}

    @property
    def in_force(self) -> DesiredText | None:
        """Documents in force by the acts; None before the first."""
        held = self.desired()
        return held[1] if held else None

    @property
    def document(self) -> dict[str, Any]:
        """Anchor and acts, as they travel."""
        return self._home.people_document()

    @property
    def revision(self) -> int:
        """Of the desired state applied last; 0 before the first."""
        return self.registry.applied[-1].revision if self.registry.applied else 0

    def enter(self, act: str, in_force: DesiredText | None) -> Registry:
        """Take an act that concerns people, approvals or sites.

        Args:
            in_force: desired state now, whose policies may forbid operators some of it.

        Raises:
            AuthorityError: ``act.refused``; nothing changes.
        """
        following, kind = self._following(act)
        if kind == "apply":
            raise AuthorityError("desired state is changed with its documents", code="act.refused")
        if in_force is not None and kind not in OPEN_ACTS:
            fabric, policies = in_force.noun, in_force.policy_set
            touched = [("Site", str(_claims(act)["subject"]["site"]))] if kind in SITE_ACTS else []
            refusals = administer_refusals(policies, fabric, self._signer_of(act), kind, touched)
            if refusals := refusals or list(lock_out(following, fabric, policies)):
                raise AuthorityError("; ".join(refusals), code="act.refused")
        self._keep(following, act)
        return following

    def enter_desired(self, act: str, desired: DesiredText) -> int:
        """Take an act that changes desired state, with its documents; returns the revision.

        Raises:
            AuthorityError: ``act.refused``; nothing changes.
        """
        following, kind = self._following(act)
        if kind != "apply":
            raise AuthorityError(f"an act of the kind {kind!r} changes no desired state", code="act.refused")
        revision = following.applied[-1].revision
        faults: list[object] = [*mandate_faults(following, revision, desired)]
        faults += lock_out(following, desired.noun, desired.policy_set)
        if faults:
            raise AuthorityError("; ".join(map(str, faults)), code="act.refused")
        # First the documents, then the act that makes them count: a crash between leaves the old state in force.
        atomic_write(self._path(revision), json.dumps(desired.to_json()).encode(), 0o600)
        self._keep(following, act)
        self._path(revision - 1).unlink(missing_ok=True)
        return revision

    def desired(self) -> tuple[int, DesiredText] | None:
        """Revision and documents in force by the acts; None before the first."""
        if not self.document["anchor"] or not self.registry.applied:
            return None
        revision = self.registry.applied[-1].revision
        path = self._path(revision)
        return (revision, DesiredText.from_json(json.loads(path.read_bytes()))) if path.exists() else None

    def _path(self, revision: int) -> Path:
        return self._home.root / f"desired-{revision}.json"

    def _following(self, act: str) -> tuple[Registry, str]:
        following = self.registry.apply(act)
        if isinstance(following, ActRejected):
            raise AuthorityError(
                "; ".join(map(str, following.reasons)), code="act.refused",
                hint="an act names the one before it: if another came between, look again and sign again",
            )  # fmt: skip
        return following, str(_claims(act).get("act"))

    def _signer_of(self, act: str) -> str:
        owner = self.registry.owner(str(_claims(act).get("iss")))
        assert owner is not None
        return owner.id

    def _keep(self, registry: Registry, act: str) -> None:
        if registry is self._registry:
            return  # the last act, once more
        document = self.document
        self._home.save_people({**document, "acts": [*document["acts"], act]})
        self._registry = registry


def _claims(act: str) -> Mapping[str, Any]:
    return parse_signed(act, typ=ACT_TYP, bytes_max=ACT_BYTES_MAX).claims
