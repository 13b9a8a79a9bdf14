"""What a scene is and what it gives back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from isochrone.cli.demo.stage import Stage
from isochrone.serve.models.speech import speech

__all__ = ["Scene", "Seen", "microphone"]

CHUNK = 512


@dataclass(frozen=True, slots=True)
class Seen:
    """What a scene saw. `figures` are for machines."""

    promised: str
    observed: str
    held: bool
    figures: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene and its title."""

    title: str
    play: Callable[[Stage], Awaitable[Seen]]


def microphone() -> list[list[int]]:
    """Speech in pieces of 32 ms, as a microphone gives them: 16-bit samples at 16 kHz."""
    samples = speech(2.0).tolist()
    return [samples[at : at + CHUNK] for at in range(0, len(samples) - CHUNK + 1, CHUNK)]
