"""Executions that were handed over leave a record at both ends; whose other end must have one is said here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["other_end"]


def other_end(record: Mapping[str, Any]) -> str | None:
    """The other site that must have a record of the same id, or None.

    At the ingress: the site whose answer was passed on (a connection that failed proves nothing about the other end).
    At the executing site: the ingress that its certificate named, whatever the answer was.
    """
    if record["kind"] not in ("outcome", "refusal") or not record["id"]:
        return None
    via, here = record["via"], record["where"]["site"]
    if record["role"] == "peer":
        _, found, name = str(via["peer"] or "").rpartition("/site/")
        return name if found and name else None
    executing = via["executing_site"]
    return executing if executing not in (None, here) and record["result"]["detail"] == "via_upstream" else None
