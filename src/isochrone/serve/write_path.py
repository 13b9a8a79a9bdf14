"""The write path from a journal line to a cosigned checkpoint, step by step: where a fault can strike.

Each step is reported by its name to the `Disk` before it is taken. Tests and `benchmarks/fault_matrix` put a disk in
place that kills the process, or fails, at a given one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from isochrone.serve import logstore

__all__ = ["POINTS"]

_STEPS: Final = {
    "journal.read": "lines are in the journal",
    "batch.encode": "lines are read",
    "log.append": "records are made, or another log has its part",
    "index.write": "this log has its part",
    "batch.done": "all logs and the index have theirs",
    "log.publish": "what was promised is not in a checkpoint yet",
    "cosigned.write": "witnesses have cosigned",
    "journal.rename": "the journal is to be rotated",
    "journal.sync-directory": "its file is renamed",
    "journal.delete": "a sequenced segment is to go",
}

POINTS: Final[Mapping[str, str]] = _STEPS | dict.fromkeys(logstore.FAULT_POINTS, "within one file's replacement")
"""Every step by name, and what has happened when it is reached."""
