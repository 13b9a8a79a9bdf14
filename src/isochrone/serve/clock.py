"""What this machine says of its own clock: the kernel's estimate, which whatever disciplines the clock keeps."""

from __future__ import annotations

import ctypes
import sys
import time
from dataclasses import dataclass
from typing import Any

__all__ = ["Clock", "read_clock"]

_STA_UNSYNC = 0x0040


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock at one moment.

    Attributes:
        utc_us, monotonic_us: both clocks, read together: what lets a time of one be read as one of the other.
        source: ``ntp`` when the kernel is told that the clock is synchronised, ``free`` when it is not, ``unknown``.
        error_us_max: bound on the difference from UTC by the kernel's own account; None when it is not known.
    """

    utc_us: int
    monotonic_us: int
    source: str
    error_us_max: int | None

    def to_json(self) -> dict[str, Any]:
        return {
            "utc_us": self.utc_us,
            "monotonic_us": self.monotonic_us,
            "source": self.source,
            "error_us_max": self.error_us_max,
        }


class _Timex(ctypes.Structure):
    """`struct timex` of Linux (adjtimex(2)); the tail is reserved space."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    ]


def read_clock() -> Clock:
    """Read the clock; on a system without adjtimex, or where it may not be read, source and bound are unknown."""
    utc_us, monotonic_us = int(time.time() * 1e6), int(time.monotonic() * 1e6)
    try:
        state = _Timex()
        if sys.platform != "linux" or ctypes.CDLL(None).adjtimex(ctypes.byref(state)) < 0:
            return Clock(utc_us, monotonic_us, "unknown", None)
    except (OSError, AttributeError):
        return Clock(utc_us, monotonic_us, "unknown", None)
    if state.status & _STA_UNSYNC:
        return Clock(utc_us, monotonic_us, "free", None)
    return Clock(utc_us, monotonic_us, "ntp", int(state.maxerror))
