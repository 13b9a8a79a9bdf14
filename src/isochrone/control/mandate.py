"""Whether desired state rests on an operator's act: judged alike by the hub before, and by every site for itself.

The hub seals what it hands out, and that seal only says who sent it. That a person wants it, the act says: its digests
are those of the documents, its place in the sequence is the last change of all, its signer was an operator, and the
policies in force before allowed the change. Hence the state before travels along; the act before names its digests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from isochrone.authority.acts import Applied, policies_digest, text_digest
from isochrone.authority.identity import Registry
from isochrone.authority.reasons import Reason
from isochrone.errors import InputError, IsochroneError
from isochrone.model.difference import difference
from isochrone.model.document import parse_fabric
from isochrone.model.fabric import Fabric
from isochrone.policy.administer import administer_refusals, touched
from isochrone.policy.policies import PolicySet

__all__ = ["DesiredText", "lock_out", "mandate_faults"]


@dataclass(frozen=True)
class DesiredText:
    """Desired state as people wrote it, with what it replaced.

    Attributes:
        policies: Cedar files and bundles, by the name that the document gives them.
        before: what was in force before; None for the first.
    """

    fabric: str
    policies: Mapping[str, str]
    before: DesiredText | None = field(default=None, repr=False)

    @cached_property
    def noun(self) -> Fabric:
        """The fabric. Raises DocumentError."""
        return parse_fabric(self.fabric, "fabric.yaml")

    @cached_property
    def policy_set(self) -> PolicySet:
        """The fabric's own policies; a bundle has no say in who may administer. Raises PolicyTextError."""
        return PolicySet.parse({name: self.policies[name] for name in self.noun.policies if name in self.policies})

    def is_that_of(self, applied: Applied) -> bool:
        """Whether an act is about exactly these documents."""
        return (applied.fabric, applied.policies) == (text_digest(self.fabric), policies_digest(self.policies))

    def to_json(self) -> dict[str, Any]:
        """As it travels, one state before included."""
        shown: dict[str, Any] = {"fabric": self.fabric, "policies": dict(self.policies)}
        if self.before is not None:
            shown["before"] = {"fabric": self.before.fabric, "policies": dict(self.before.policies)}
        return shown

    @classmethod
    def from_json(cls, value: object) -> DesiredText:
        """Raises InputError when it is malformed."""
        before = value.get("before") if isinstance(value, dict) else None
        match value:
            case {"fabric": str(fabric), "policies": dict(policies)} if all(
                isinstance(text, str) for text in policies.values()
            ):
                return cls(fabric, policies, None if before is None else cls.from_json(before))
        raise InputError("desired state is fabric (text) and policies (file to text)", code="apply.form")


def mandate_faults(registry: Registry, revision: int, desired: DesiredText) -> list[Reason]:
    """Why `desired` is not what an operator, entitled to it, asked for last; empty exactly when it is."""
    if not registry.applied:
        return [Reason("unsigned", "no operator signed any desired state of this fabric")]
    last = registry.applied[-1]
    if last.revision != revision or not desired.is_that_of(last):
        text = f"revision {revision} is not what act {last.seq} of {last.by} applies (revision {last.revision})"
        return [Reason("unsigned", text)]
    before = desired.before
    if len(registry.applied) == 1:
        # Nothing was in force, so no policy was: an operator's signature is all there is to ask for.
        return []
    if before is None or not before.is_that_of(registry.applied[0]):
        return [Reason("before", "the state before it is not the one that the act before it applied")]
    try:
        changes = difference(before.noun, desired.noun, before.policies, desired.policies)
        refusals = administer_refusals(before.policy_set, before.noun, last.by, "apply", touched(changes))
    except IsochroneError as error:
        return [Reason.of(error)]
    return [Reason("policy", text) for text in refusals]


def lock_out(registry: Registry, fabric: Fabric, policies: PolicySet) -> Sequence[str]:
    """Why nobody could change the fabric again under these policies; empty when an operator could."""
    operators = [each.id for each in registry.people.values() if each.is_operator and each.is_active]
    refusals = {each: administer_refusals(policies, fabric, each, "apply") for each in sorted(operators)}
    return [] if not all(refusals.values()) else [text for found in refusals.values() for text in found]
