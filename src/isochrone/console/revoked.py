"""Revocations as people read them: the list, the bound, and when one came into force where."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from isochrone.authority.grant import GRANT_LIFE_S
from isochrone.authority.revocation import STREAM_CUT_S, bound_s
from isochrone.console.tables import Cell, Shown, good, table, weak, wrong
from isochrone.model.contract import WhenUnheard
from isochrone.serve.exchange import STALE_AFTER_S

__all__ = ["bound_text", "render"]


def bound_text(contracts: Mapping[str, Mapping[str, Any]]) -> str:
    """The stated bound, by what the fabric's contracts say in `when_unheard`."""
    bound = partial(bound_s, stale_after_s=STALE_AFTER_S, grant_life_s=GRANT_LIFE_S)
    text = f"bound: under {bound(is_connected=True):g} s at connected sites"
    by_choice: dict[WhenUnheard, list[str]] = {}
    for name, terms in sorted(contracts.items()):
        by_choice.setdefault(WhenUnheard(terms.get("when_unheard", "stop")), []).append(name)
    for choice in WhenUnheard if by_choice else ():
        named = by_choice.get(choice, [])
        if named or choice is WhenUnheard.STOP:
            whom = "" if len(by_choice) == 1 else f" for {', '.join(named)}" if named else ""
            longest_s = bound(is_connected=False, when_unheard=choice)
            text += f", {'no bound' if math.isinf(longest_s) else f'{longest_s:g} s'} at a site that is cut off{whom}"
    return text + f"; running streams end within {STREAM_CUT_S:g} s more"


def render(revocations: Sequence[Mapping[str, Any]], sites: Sequence[str]) -> Shown:
    """The newest last."""
    columns = ("#", "when", "what", "by", "why", "holds", "in force")
    return table("Revocations", columns, [_row(each, sites) for each in revocations], numbers=("#",))


def _row(each: Mapping[str, Any], sites: Sequence[str]) -> list[Cell]:
    what = f"{each['kind']} {each['id']}"
    if each["kind"] in ("contract", "workload", "fabric"):
        what = f"{'resume' if each['resumes'] else 'stop'} {what}"
    holds = weak("-") if each["resumes"] else good("yes") if each["holds"] else weak("no longer")
    return [str(each["seq"]), _time(each["at_s"]), what, each["by"], each["reason"], holds, _where(each, sites)]


def _where(each: Mapping[str, Any], sites: Sequence[str]) -> Cell:
    """Since when at each site; a site that has not confirmed it is what matters."""
    since = [f"{site} {_time(at_s, '%H:%M:%S.%f')[:-3]}" for site, at_s in sorted(each["in_force"].items()) if at_s]
    missing = sorted(set(sites) - set(each["in_force"]))
    if missing:
        return wrong(f"not at {', '.join(missing)}" + (f"; {', '.join(since)}" if since else ""))
    return ", ".join(since)


def _time(at_s: float, how: str = "%Y-%m-%d %H:%M:%S") -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime(how)
