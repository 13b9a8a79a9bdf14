"""Feeds `control.lateness` with this ingress's executions and has its verdicts brought into force, hub or no hub."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from isochrone.control.lateness import (
    Eased,
    Event,
    Executed,
    Execution,
    Followed,
    Lateness,
    Left,
    Passed,
    planned_here,
    step,
)
from isochrone.model.contract import InTime, Metric
from isochrone.record.canonical import Record
from isochrone.serve.learned import Learned
from isochrone.serve.live import Running

__all__ = ["LatenessWatch", "refused_by", "was_late"]

_EVERY_S = 0.25
_KNOWN_MAX = 10_000
_REFUSED = (429, 503)
_logger = logging.getLogger(__name__)


class LatenessWatch:
    """One ingress's. An execution that is late counts once: as soon as it is seen to run on past its objective, or at
    its end.

    Args:
        site_at: names the site that answers at an address.
        alarm: told of each site that is left.
    """

    def __init__(self, learned: Learned, site_at: Callable[[str], str | None], alarm: Callable[[str], None]) -> None:
        self._learned, self._site_at, self._alarm = learned, site_at, alarm
        self._state = Lateness()
        self._planned_of: tuple[object, ...] = ()
        self._known_late: dict[str, None] = {}

    async def run(self) -> None:
        """Follow plans, and let time pass, for ever."""
        while True:
            state = self._learned.state
            if (made_of := (state.plan, state.fabric, state.bounds)) != self._planned_of:
                self._planned_of = made_of
                self._step(planned_here(state))
            self._step(Passed())
            await asyncio.sleep(_EVERY_S)

    def ended(self, records: Iterable[Record]) -> None:
        """Executions that entered here and are over."""
        found = []
        for record in records:
            if record["kind"] != "outcome" or record["role"] != "ingress":
                continue
            contract, site = str(record["what"]["contract"]), str(record["via"]["executing_site"])
            began_s, terms = record["start_us"] / 1e6, self._terms(contract)
            found += [Execution(contract, full, began_s, refused=True) for full in refused_by(record)]
            if record["id"] in self._known_late:
                del self._known_late[record["id"]]
                continue
            late = was_late(terms, record["result"]) if terms else None
            if late is not None:
                found.append(Execution(contract, site, began_s, late))
        if found:
            self._step(Executed(tuple(found)))

    async def running(self, requests: Iterable[Running]) -> None:
        """Requests that run now. One that was sent on again is judged at its end, which says who answered it."""
        found = []
        for each in requests:
            contract, site = str(each.claims.get("ctr", "")), self._site_at(each.model[1])
            terms = self._terms(contract)
            if each.role != "ingress" or each.attempts != 1 or site is None or terms is None:
                continue
            answered = each.answering and terms.metric is Metric.FIRST_BYTE
            if answered or each.id in self._known_late or (each.now_s - each.start_s) * 1e3 <= terms.objective_ms:
                continue
            self._known_late[each.id] = None
            found.append(Execution(contract, site, each.start_s, late=True))
        while len(self._known_late) > _KNOWN_MAX:
            del self._known_late[next(iter(self._known_late))]
        if found:
            self._step(Executed(tuple(found)))

    def _terms(self, contract: str) -> InTime | None:
        fabric = self._learned.state.fabric
        noun = fabric.contracts.get(contract) if fabric else None
        return noun.in_time if noun else None

    def _step(self, event: Event) -> None:
        self._state, effects = step(self._state, event, time.time())
        if not effects:
            return
        self._learned.change(doubted=self._state.doubted)
        for effect in effects:
            match effect:
                case Left(contract, site, hold_s):
                    self._alarm(f"{site} is late for {contract}: the plan's other sites take over, for {hold_s:g} s")
                case Eased(contract, site, part):
                    _logger.info("%s gets %g of its share of %s", site, part, contract)
                case Followed(contract, site, crowded):
                    why = "others are late or full, too" if crowded else "by a plan that knows"
                    _logger.info("%s gets what the plan gives it of %s again: %s", site, contract, why)


def refused_by(record: Record) -> list[str]:
    """The sites that executed nothing of a request, being full or gone: it was sent on, or refused in the end."""
    attempted: list[str] = record["via"]["attempted"]
    return attempted if record["result"]["status"] in _REFUSED else attempted[:-1]


def was_late(terms: InTime, result: Mapping[str, Any]) -> bool | None:
    """Whether the site that was asked last took longer than the objective; None where nothing can be told: it refused,
    or the request was broken off in time."""
    first = terms.metric is Metric.FIRST_BYTE
    took_us = result["upstream_first_byte_us" if first else "upstream_us"]
    if took_us is None and result["attempts"] == 1:
        took_us = result["duration_us"]
    if not isinstance(took_us, int | float):
        return None
    if took_us / 1e3 > terms.objective_ms:
        return True
    return False if 200 <= result["status"] < 400 else None
