"""What differs between two fabrics, key by key, for people to read before they agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isochrone.model.fabric import Fabric

__all__ = ["Change", "difference"]

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Change:
    """One key that was added, removed or changed; values in their JSON form, None where there is none."""

    path: str
    before: Any
    after: Any
    kind: str

    def __str__(self) -> str:
        if self.kind == "changed":
            return f"~ {self.path}: {self.before!r} -> {self.after!r}"
        return f"+ {self.path}: {self.after!r}" if self.kind == "added" else f"- {self.path}: {self.before!r}"


def difference(
    before: Fabric | None,
    after: Fabric,
    texts_before: Mapping[str, str] | None = None,
    texts_after: Mapping[str, str] | None = None,
) -> list[Change]:
    """Changes from one fabric (None: nothing) to another, in the order of their paths.

    Args:
        texts_before, texts_after: policy files by name; a file that differs is one change.
    """
    old: dict[str, Any] = {} if before is None else before.model_dump(mode="json", exclude_none=True)
    found: list[Change] = []
    _compare((), old, after.model_dump(mode="json", exclude_none=True), found)
    _compare(("policy files",), dict(texts_before or {}), dict(texts_after or {}), found)
    return found


def _compare(path: tuple[str, ...], before: Any, after: Any, found: list[Change]) -> None:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            _compare((*path, key), before.get(key, _ABSENT), after.get(key, _ABSENT), found)
    elif before is _ABSENT:
        found.append(Change(".".join(path), None, after, "added"))
    elif after is _ABSENT:
        found.append(Change(".".join(path), before, None, "removed"))
    elif before != after:
        found.append(Change(".".join(path), before, after, "changed"))
