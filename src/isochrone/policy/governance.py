"""What governs a fabric: its own Cedar files, and the bundles that its workloads bring along, as one policy set.

A bundle speaks for its workload alone: each of its policies gets one more condition, `context.workload` is that one,
and the workload's name before its id. A bundle that does not verify becomes a forbid for its workload, so whatever
decides by policies (placement, exchange, proxy) refuses it in the same way and says why. A site's own policies are
bound to that site likewise, and may only forbid: they can add restrictions and never lift one.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass

from isochrone.errors import PolicyError
from isochrone.model.contract import Contract
from isochrone.model.fabric import Fabric
from isochrone.model.workload import Workload
from isochrone.policy.bundle import Bundle, refusal, verify
from isochrone.policy.policies import PolicySet, PolicyTextError, split
from isochrone.policy.verdict import Deny

__all__ = ["Governance", "govern", "own_policies", "terms_of"]


_ID = re.compile(r'@id\(\s*"([^"\\]*)"\s*\)')


@dataclass(frozen=True, slots=True)
class Governance:
    """All policies of a fabric, and what became of each workload's bundle.

    Attributes:
        bundles: by workload, those that verify; `refused`: those that do not, and why.
    """

    policies: PolicySet
    bundles: Mapping[str, Bundle]
    refused: Mapping[str, Deny]

    @property
    def expires_s(self) -> float:
        """When the first bundle expires, seconds since 1970; infinity without one."""
        return min((float(bundle.expires_s) for bundle in self.bundles.values()), default=float("inf"))


def govern(
    fabric: Fabric, texts: Mapping[str, str], *, now_s: float, revisions: Mapping[str, int] | None = None
) -> Governance:
    """Verify every bundle and put all policies together.

    Args:
        texts: Cedar files and bundles by the name that the document gives them.
        revisions: the highest revision of each workload's bundle seen so far; a lower one is a downgrade.

    Raises:
        PolicyTextError: a Cedar file is wrong, or an id stands twice.
    """
    sources = {name: texts[name] for name in fabric.policies if name in texts}
    bundles: dict[str, Bundle] = {}
    refused: dict[str, Deny] = {}
    for name, workload in fabric.workloads.items():
        if workload.bundle is None:
            continue
        found = _opened(
            fabric, name, workload, texts.get(workload.bundle, ""), int(now_s), (revisions or {}).get(name, 0)
        )
        if isinstance(found, Bundle):
            bundles[name] = found
            sources |= {f"{workload.bundle}/{file}": text for file, text in _carried(found, name).items()}
        else:
            refused[name] = found
            sources[workload.bundle] = _forbidding(name, found)
    return Governance(PolicySet.parse(sources), bundles, refused)


def _opened(fabric: Fabric, name: str, workload: Workload, text: str, now_s: int, revision_min: int) -> Bundle | Deny:
    publisher = fabric.publishers.get(workload.publisher or "")
    keys = {str(workload.publisher): base64.b64decode(publisher.key)} if publisher else {}
    digests = frozenset({workload.model.digest.removeprefix("sha256:")} if workload.model.digest else ())
    found = verify(text.encode(), keys, now_s=now_s, digests=digests, revision_min=revision_min)
    if isinstance(found, Deny):
        return found
    for contract, terms in fabric.contracts.items():
        if terms.workload == name and found.terms and found.terms.get(contract) != terms_of(terms):
            return refusal("bundle-terms", f"the terms of contract {contract} are not those that were signed")
    try:
        PolicySet.parse(_carried(found, name))
    except PolicyTextError as error:
        return refusal("bundle-policies", f"{error}: name the actions place, exchange or execute")
    return found


def terms_of(contract: Contract) -> dict[str, object]:
    """What of a contract a bundle's signature covers: what is promised, not what is expected or paid."""
    return contract.model_dump(mode="json", include={"workload", "in_time", "in_bounds", "on_record"})


def _carried(bundle: Bundle, workload: str) -> dict[str, str]:
    condition = f'context.workload == Workload::"{workload}"'
    return {file: _bound(text, workload, file, condition) for file, text in bundle.policies.items()}


def own_policies(texts: Mapping[str, str], site: str) -> PolicySet:
    """A site's own restrictions, from its Cedar files, bound to that site.

    Raises:
        PolicyTextError: a file is wrong.
        PolicyError: ``policy.own-permit``, a policy permits.
    """
    condition = f'resource == Site::"{site}"'
    own = PolicySet.parse({file: _bound(text, site, file, condition) for file, text in texts.items()})
    for policy in own.policies:
        if policy.effect != "forbid":
            raise PolicyError(
                f"{policy.file}:{policy.line}: a site's own policy may only forbid", code="policy.own-permit",
                hint="what is permitted, the fabric and the bundles say",
            )  # fmt: skip
    return own


def _bound(text: str, owner: str, file: str, condition: str) -> str:
    """Every policy of a Cedar text with its owner's name in its id, and under one more condition."""
    made = []
    for index, (_, policy) in enumerate(split(text)):
        named, count = _ID.subn(rf'@id("{owner}/\1")', policy, count=1)
        if not count:
            named = f'@id("{owner}/{file}:{index}")\n{policy}'
        made.append(f"{named.removesuffix(';')} when {{ {condition} }};")
    return "\n".join(made)


def _forbidding(workload: str, why: Deny) -> str:
    reason = str(why.reasons[0]).replace("\\", " ").replace('"', "'")
    actions = ", ".join(f'Action::"{action}"' for action in ("place", "exchange", "execute"))
    return (
        f'@id("bundle-of-{workload}")\n@reason("{reason}")\n'
        f'forbid (principal, action in [{actions}], resource) when {{ context.workload == Workload::"{workload}" }};'
    )
