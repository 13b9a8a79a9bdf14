"""A test signal for voice activity: speech-like vowels and near-silence, synthesised, the same on every machine.

Formant synthesis after Klatt, "Software for a cascade/parallel formant synthesizer", J. Acoust. Soc. Am. 67 (1980):
a train of glottal pulses whose pitch falls and wavers goes through a cascade of two-pole resonators, one per formant,
that glide from vowel to vowel. It says nothing, and the model hears speech in it: the tests check that it does.
"""

from __future__ import annotations

import math
from array import array

__all__ = ["SAMPLE_RATE_HZ", "silence", "speech"]

SAMPLE_RATE_HZ = 16_000
_PEAK = 16_000  # of 32,767
_SYLLABLE_S = 0.2
# First four formants in Hz of /a i o e u/ (Peterson and Barney 1952, men, rounded), the fourth a usual value.
_VOWELS_HZ = ((730, 1090, 2440, 3400), (270, 2290, 3010, 3500), (570, 840, 2410, 3300), (530, 1840, 2480, 3400),
              (300, 870, 2240, 3300))  # fmt: skip
_BANDWIDTHS_HZ = (80, 90, 120, 150)


def speech(duration_s: float) -> array[int]:
    """Vowels gliding into each other, five syllables a second; INT16, 16 kHz mono, `duration_s` long."""
    count = round(duration_s * SAMPLE_RATE_HZ)
    samples = _cascade(_glottal_pulses(count))
    shaped = [sample * _loudness(i) for i, sample in enumerate(samples)]
    peak = max(map(abs, shaped), default=0.0) or 1.0
    return array("h", (round(sample / peak * _PEAK) for sample in shaped))


def silence(duration_s: float) -> array[int]:
    """Noise of a quiet room at -66 dBFS, from a linear congruential generator; INT16, 16 kHz mono."""
    state, samples = 1, array("h")
    for _ in range(round(duration_s * SAMPLE_RATE_HZ)):
        state = (state * 1_103_515_245 + 12_345) & 0x7FFFFFFF  # ISO C's example generator
        samples.append((state >> 16) % 33 - 16)
    return samples


def _glottal_pulses(count: int) -> list[float]:
    """A Rosenberg-like pulse per period: opens slowly, closes fast, differentiated by the lips."""
    pulses, phase, before = [], 0.0, 0.0
    for i in range(count):
        time_s = i / SAMPLE_RATE_HZ
        pitch_hz = 125 + 20 * math.sin(2 * math.pi * 0.9 * time_s) + 3 * math.sin(2 * math.pi * 5.5 * time_s)
        phase = (phase + pitch_hz / SAMPLE_RATE_HZ) % 1.0
        if phase < 0.4:
            flow = 0.5 * (1 - math.cos(math.pi * phase / 0.4))
        elif phase < 0.56:
            flow = math.cos(math.pi / 2 * (phase - 0.4) / 0.16)
        else:
            flow = 0.0
        pulses.append(flow - before)
        before = flow
    return pulses


def _cascade(samples: list[float]) -> list[float]:
    """The pulses through one resonator per formant: y[n] = A x[n] + B y[n-1] + C y[n-2] (Klatt 1980, equation 1)."""
    period_s = 1 / SAMPLE_RATE_HZ
    for formant, bandwidth_hz in enumerate(_BANDWIDTHS_HZ):
        c = -math.exp(-2 * math.pi * bandwidth_hz * period_s)
        radius = 2 * math.exp(-math.pi * bandwidth_hz * period_s)
        y1 = y2 = 0.0
        filtered = []
        for i, sample in enumerate(samples):
            b = radius * math.cos(2 * math.pi * _formant_hz(formant, i * period_s) * period_s)
            y1, y2 = (1 - b - c) * sample + b * y1 + c * y2, y1
            filtered.append(y1)
        samples = filtered
    return samples


def _formant_hz(formant: int, time_s: float) -> float:
    """Frequency of a formant: held for the first half of a syllable, gliding to the next vowel in the second."""
    syllable, along = divmod(time_s / _SYLLABLE_S, 1.0)
    here, there = (_VOWELS_HZ[(int(syllable) + step) % len(_VOWELS_HZ)][formant] for step in (0, 1))
    return here + (there - here) * max(0.0, 2 * along - 1)


def _loudness(i: int) -> float:
    """Syllables swell and fade, never to silence."""
    return 0.3 + 0.7 * math.sqrt(math.sin(math.pi * (i / SAMPLE_RATE_HZ / _SYLLABLE_S % 1.0)))
