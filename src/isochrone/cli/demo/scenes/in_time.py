"""In time: the edge, any client, and physics."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx

from isochrone.cli.demo.scenes.seen import Seen, microphone
from isochrone.cli.demo.stage import Answer, Device, Stage, call, percentile, tally

__all__ = ["audio_in_time", "chat_by_openai", "physics_refuses"]

# A fabric that has just started is busy with itself, and knows its models by declaration only: four seconds of the
# same traffic come first, and are not counted.
WARM_N = 100
PACE_S = 0.04  # two microphones, each sending every 40 ms: about twice the demand of the contract


async def audio_in_time(stage: Stage) -> Seen:
    """20 ms at the edge, beside the same model in the central region."""
    chunks = microphone()
    tokens = [await stage.token("agent:line", name, "konstanz") for name in ("line-audio", "audio-archive")]

    def listen(token: str, number: int, first: int) -> list[Answer]:
        device = Device(stage.bases["konstanz"], token)
        heard = []
        for n in range(first + number):
            heard.append(device.infer(chunks[n % len(chunks)]))
            time.sleep(max(0.0, PACE_S - heard[-1].taken_s))
        return heard[first:]

    heard = await asyncio.gather(*(asyncio.to_thread(listen, tokens[0], 260, WARM_N) for _ in range(2)))
    near = [answer for each in heard for answer in each]
    far = await asyncio.to_thread(listen, tokens[1], 30, 5)
    times = [answer.taken_s * 1e3 for answer in near if answer.status == 200]
    there = [answer.taken_s * 1e3 for answer in far if answer.status == 200]
    p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
    spoke = sum(answer.body["outputs"][0]["data"][0] > 0.5 for answer in near if answer.status == 200)
    observed = (
        f"{len(times)} of {len(near)} answered ({tally(near)}): p50 {p50:.1f} ms, p99 {p99:.1f} ms; "
        f"the central region: p50 {percentile(there, 0.5):.0f} ms"
    )
    figures = {"n": len(near), "p50_ms": p50, "p99_ms": p99, "region_p50_ms": percentile(there, 0.5)}
    held = len(times) == len(near) >= 500 and p99 <= 20.0 and bool(there)
    return Seen(
        "voice activity answered within 20 ms at p99", observed, held, figures, (f"speech heard in {spoke} chunks",)
    )


async def chat_by_openai(stage: Stage) -> Seen:
    """The unmodified OpenAI client, by base URL and key."""
    token = await stage.token("agent:desk", "assistant", "konstanz")

    def talk() -> tuple[str, str, float, int]:
        from openai import OpenAI

        client = OpenAI(base_url=f"{stage.bases['konstanz']}/v1", api_key=token, max_retries=0)
        messages: Any = [{"role": "user", "content": "In one sentence: what is an isochrone?"}]
        start_s = time.perf_counter()
        raw = client.chat.completions.with_raw_response.create(
            model="smollm2-135m-instruct", messages=messages, max_tokens=40, stream=True
        )
        first_s, pieces = 0.0, []
        for event in raw.parse():
            if event.choices and event.choices[0].delta.content:
                first_s = first_s or time.perf_counter() - start_s
                pieces.append(event.choices[0].delta.content)
        return raw.headers.get("x-isochrone-execution", ""), "".join(pieces), first_s, len(pieces)

    execution, text, first_s, tokens = await asyncio.to_thread(talk)
    site = execution.partition("/")[0]
    observed = f"ran at {site}, first token after {first_s * 1e3:.0f} ms, {tokens} tokens"
    held = bool(site) and tokens > 3 and 0 < first_s <= 1.0
    figures = {"site": site, "first_token_ms": first_s * 1e3, "tokens": tokens, "execution": execution}
    return Seen(
        "a chat streams to an unmodified client, first byte within 1,000 ms",
        observed,
        held,
        figures,
        (f"“{text.strip()}”",),
    )


async def physics_refuses(stage: Stage) -> Seen:
    """A promise nobody can keep is refused at once, and the refusal says why."""
    token = await stage.token("agent:desk", "reflex-chat", "konstanz")
    body = {"messages": [{"role": "user", "content": "Quick!"}], "max_tokens": 4}
    async with httpx.AsyncClient(timeout=10.0) as client:
        url = f"{stage.bases['konstanz']}/v1/chat/completions"
        answers = [await call(client, url, token, body) for _ in range(5)]
    refusal, taken_ms = answers[-1].body, percentile([a.taken_s * 1e3 for a in answers], 0.5)
    needed, floor = refusal.get("needed_ms") or 0.0, refusal.get("floor_ms")
    observed = (
        f"{answers[-1].status} after {taken_ms:.1f} ms: {refusal.get('nearest_site')} is nearest "
        f"and needs {needed:.0f} ms, "
        f"of which physics takes {floor or 0:.2f} ms"
    )
    held = (
        all(a.status == 422 for a in answers) and needed > 5 and bool(refusal.get("nearest_site")) and floor is not None
    )
    figures = {"status": answers[-1].status, "taken_ms": taken_ms, "needed_ms": needed, "floor_ms": floor}
    return Seen(
        "what cannot be in time is refused at once, with the reason",
        observed,
        held,
        figures,
        (refusal.get("detail", ""),),
    )
