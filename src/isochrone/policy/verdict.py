"""A verdict is a value: Allow or Deny, with the reasons for it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Allow", "Deny", "Reason", "Verdict"]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why.

    `code` is stable and for machines: ``permit`` and ``forbid`` name a policy that fired; ``no-permit``, ``error``
    (a policy could not be evaluated) and ``malformed`` (the request is outside the vocabulary) deny.
    """

    code: str
    policy: str = ""
    text: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.code, self.policy, self.text) if part)


@dataclass(frozen=True, slots=True)
class Allow:
    """At least one permit fired, no forbid did, and nothing erred."""

    reasons: tuple[Reason, ...] = ()

    def __bool__(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Deny:
    """Anything else."""

    reasons: tuple[Reason, ...] = ()

    def __bool__(self) -> bool:
        return False


Verdict = Allow | Deny
