"""Verdicts as the planner takes them: policy decides elsewhere and hands over Allow or Deny with its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from isochrone.latency.portable import Portable

__all__ = ["UNDECIDED", "Bounds", "Verdict"]


@dataclass(frozen=True, slots=True)
class Verdict(Portable):
    """Whether a contract may run at a site.

    Attributes:
        reasons: ids of the policies or bounds that decided it.
    """

    allowed: bool
    reasons: tuple[str, ...] = ()


# (contract, site) to verdict.
Bounds: TypeAlias = Mapping[tuple[str, str], Verdict]

# What holds for a pair nobody decided: fail closed.
UNDECIDED = Verdict(allowed=False, reasons=("no verdict was given",))
