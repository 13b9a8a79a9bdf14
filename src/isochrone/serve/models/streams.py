"""Which audio streams are open, and the detector that remembers each: bounded in number, forgotten when idle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from isochrone.serve.models.oip import ProtocolError, Sequence

__all__ = ["Detector", "Streams"]


class Detector(Protocol):
    """What a stream needs of the model: the state of one listener, about 2.6 MB."""

    def reset(self) -> None:
        """Forget what was heard."""

    def process_samples(self, samples: list[float]) -> float:
        """Probability of speech in the next samples, each from -1 to 1."""


@dataclass(slots=True)
class _Stream:
    detector: Detector
    used_at_s: float
    busy: bool = False


class Streams:
    """Detectors by stream; a request without a sequence gets a fresh one for itself.

    Args:
        make: makes a detector.
        streams_max: streams open, and requests on their own, at once; a further one is refused, not queued: audio
            cannot wait.
        idle_s_max: seconds after which an unused stream may be forgotten. Checked when a stream is opened, so no timer
            runs, and memory stays bounded by `streams_max` all the same.
    """

    def __init__(self, make: Callable[[], Detector], *, streams_max: int, idle_s_max: float) -> None:
        self._make = make
        self._streams_max = streams_max
        self._idle_s_max = idle_s_max
        self._open: dict[str, _Stream] = {}
        self._alone = 0
        self._spare: list[Detector] = [make()]  # the first request must not wait for the model to load

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def use(self, sequence: Sequence | None, now: float) -> Iterator[Detector]:
        """The detector of a request, for as long as the block lasts.

        Args:
            sequence: the stream, its start and its end; None for a request on its own.
            now: monotonic time, seconds.

        Raises:
            ProtocolError: ``sequence-unknown`` (409: not started, or forgotten since), ``sequence-busy`` (409: another
                request of the stream is being served), ``sequences-full`` (503).
        """
        if sequence is None:
            self._make_room(now)
            detector = self._fresh()
            self._alone += 1
            try:
                yield detector
            finally:
                self._alone -= 1
                self._spare.append(detector)
            return
        stream = self._stream(sequence, now)
        stream.busy, stream.used_at_s = True, now
        try:
            yield stream.detector
        finally:
            stream.busy = False
            if sequence.end:
                self._close(sequence.id)

    def _stream(self, sequence: Sequence, now: float) -> _Stream:
        stream = self._open.get(sequence.id)
        if stream is not None and stream.busy:
            raise ProtocolError(
                f"sequence {sequence.id!r} is still being served: send its requests one after another",
                code="sequence-busy",
                status=409,
            )
        if stream is not None and sequence.start:
            stream.detector.reset()
        elif stream is None and sequence.start:
            self._make_room(now)
            stream = self._open[sequence.id] = _Stream(self._fresh(), now)
        if stream is None:
            raise ProtocolError(
                f"sequence {sequence.id!r} is not open: it was never started, or was idle for {self._idle_s_max:g} s; "
                "send `sequence_start`",
                code="sequence-unknown",
                status=409,
            )
        return stream

    def _make_room(self, now: float) -> None:
        if len(self._open) + self._alone < self._streams_max:
            return
        idle = [k for k, s in self._open.items() if not s.busy and now - s.used_at_s > self._idle_s_max]
        for key in idle:
            self._close(key)
        if not idle:
            raise ProtocolError(
                f"{self._streams_max} streams are open, as many as this server keeps",
                code="sequences-full",
                status=503,
            )

    def _close(self, key: str) -> None:
        self._spare.append(self._open.pop(key).detector)

    def _fresh(self) -> Detector:
        """A detector that remembers nothing: a used one made to forget costs a hundredth of a new one."""
        if not self._spare:
            return self._make()
        detector = self._spare.pop()
        detector.reset()
        return detector
