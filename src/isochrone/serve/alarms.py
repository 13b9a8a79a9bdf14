"""What a person should look at: each thing once, with the time it was first seen, the newest last."""

from __future__ import annotations

import logging
import time

__all__ = ["Alarms"]

_logger = logging.getLogger(__name__)
_KEPT_MAX = 20


class Alarms:
    """The last alarms of one part; every one goes to its log, too."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._kept: dict[str, str] = {}

    def add(self, text: str) -> None:
        _logger.warning("%s: %s", self._who, text)
        if text not in self._kept:
            self._kept[text] = f"{time.strftime('%H:%M:%S', time.gmtime())}Z {text}"
            for oldest in list(self._kept)[:-_KEPT_MAX]:
                del self._kept[oldest]

    def last(self, count: int) -> tuple[str, ...]:
        return tuple(self._kept.values())[-count:]
