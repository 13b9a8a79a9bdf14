"""The scenes. Each returns what was promised, what was observed, and whether the promise held; none knows its outcome."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from isochrone.authority.delegation import HOP_TYP, parse_hop
from isochrone.authority.jose import sign_compact
from isochrone.authority.scope import Scope
from isochrone.cli.demo.stage import Answer, Stage, call, percentile, repeat, tally
from isochrone.cli.revoke import revoke_everywhere
from isochrone.cli.trace import gather, verify
from isochrone.errors import AuthorityError, IsochroneError
from isochrone.serve.client import GrantSource
from isochrone.serve.home import SiteHome, log_origin
from isochrone.serve.logstore import FileLogStore
from isochrone.serve.models.speech import speech
from isochrone.tlog.fsck import fsck
from isochrone.tlog.note import Verifier

__all__ = ["SCENES", "Scene", "Seen"]

CHUNK = 512
PACE_S = 0.04  # two microphones, each sending every 40 ms: about twice the demand of the contract
EU = frozenset({"konstanz", "frankfurt"})


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


def _chunks() -> list[list[int]]:
    """Speech in pieces of 32 ms, as a microphone gives them."""
    samples = speech(2.0).tolist()
    return [samples[at : at + CHUNK] for at in range(0, len(samples) - CHUNK + 1, CHUNK)]


async def audio_in_time(stage: Stage) -> Seen:
    """20 ms at the edge, beside the same model in the central region."""
    chunks, near, far = _chunks(), list[Answer](), list[Answer]()
    tokens = [await stage.token("agent:line", name, "konstanz") for name in ("line-audio", "audio-archive")]
    async with httpx.AsyncClient(timeout=10.0) as client:
        for number in range(20):  # connections and model warmed, not counted
            await stage.infer(client, "konstanz", tokens[number % 2], chunks[number])

        async def worker(start: int) -> None:
            for number in range(260):
                due_s = asyncio.get_running_loop().time() + PACE_S
                near.append(await stage.infer(client, "konstanz", tokens[0], chunks[(start + number) % len(chunks)]))
                await asyncio.sleep(max(0.0, due_s - asyncio.get_running_loop().time()))

        await repeat(2, worker)
        for number in range(30):
            far.append(await stage.infer(client, "konstanz", tokens[1], chunks[number % len(chunks)]))
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
        f"{answers[-1].status} after {taken_ms:.1f} ms: {refusal.get('nearest_site')} is nearest and needs {needed:.0f} ms, "
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


async def overstep_denied(stage: Stage) -> Seen:
    """Human to agent to sub-agent; the sub-agent tries three ways to do more than it may."""
    planner = stage.delegate("human:ada", "agent:planner", depth=1, contracts=["line-audio", "assistant"])
    stage.delegate("agent:planner", "agent:helper", contracts=["line-audio"], jurisdictions=["EU"])
    ring, reasons = stage.ring, []
    await stage.token("agent:helper", "line-audio", "konstanz")  # what it may do, it can
    try:
        stage.delegate("agent:helper", "agent:friend", contracts=["assistant"])
    except AuthorityError as error:
        reasons.append(f"delegating on: {error}")
    try:
        await stage.token("agent:helper", "assistant", "konstanz")
    except AuthorityError as error:
        reasons.append(f"another contract: {error}")
    # A hop it forges itself: well signed by the key it holds, and wider than its parent.
    helper, friend = ring.get("agent:helper"), ring.create("agent:friend", "friend")
    parent, now = parse_hop(helper.chain[-1]), int(time.time())
    claims = {
        "iss": helper.key.public.thumbprint, "sub": parent.human, "aud": parent.fabric, "act": {"sub": friend.id},
        "cnf": {"jwk": friend.key.public.jwk}, "authorization_details": [Scope(contracts=frozenset({"assistant"})).details],
        "jti": "forged", "iat": now, "nbf": now, "exp": now + 600, "del_depth": 2, "del_max_depth": 2, "par_hash": parent.id,
    }  # fmt: skip
    forged = sign_compact(claims, helper.key, typ=HOP_TYP)
    try:
        source = GrantSource([stage.bases["konstanz"]], [*planner, helper.chain[-1], forged], friend.key, "assistant")
        await asyncio.to_thread(source.token)
    except AuthorityError as error:
        reasons.append(f"a forged hop: {error}")
    observed = f"{len(reasons)} of 3 attempts denied, each with its reason"
    return Seen(
        "a sub-agent can never do more than its human allowed",
        observed,
        len(reasons) == 3,
        {"denied": len(reasons)},
        tuple(reasons),
    )


async def traced(stage: Stage) -> Seen:
    """One execution led back to its human; then one byte of a log is flipped."""
    chunks = _chunks()
    token = await stage.token("agent:helper", "line-audio", "konstanz")
    async with httpx.AsyncClient(timeout=10.0) as client:
        answer = await stage.infer(client, "konstanz", token, chunks[20])
    document = await gather(stage.state, answer.execution)
    verified = verify(document, answer.execution)
    broken = await asyncio.to_thread(_flip_one_byte, stage, answer.site)
    held_steps = sum(step.held for step in verified.steps)
    human = verified.chain.human_name if verified.chain else "nobody"
    observed = f"{held_steps} of {len(verified.steps)} steps held, leading to {human}; one flipped byte: {broken}"
    notes = tuple(f"{step.number}. {step.title}: {'held' if step.held else 'BROKEN'}" for step in verified.steps)
    held = verified.held and human == "Ada Lovelace" and broken.startswith("detected")
    return Seen(
        "every execution leads to a human, and nobody can alter that", observed, held, {"steps": held_steps}, notes
    )


def _flip_one_byte(stage: Stage, site: str) -> str:
    """Copy a site's log, check the copy, flip one byte in a tile of it, and check again."""
    home = SiteHome(stage.state / "sites" / site)
    fabric = home.document()["fabric"]
    verifier, origin = Verifier.from_vkey(home.log_signer(fabric, site).vkey), log_origin(fabric, site)
    with tempfile.TemporaryDirectory(prefix="isochrone-") as scratch:
        copy = Path(scratch) / "log"
        for attempt in range(20):  # the log is being written: take a copy at rest
            shutil.copytree(home.root / "log", copy, dirs_exist_ok=True)
            findings = _errors(copy, verifier, origin)
            if not findings:
                break
            shutil.rmtree(copy)
            time.sleep(0.1 * (attempt + 1))
        if findings:
            return f"the untouched copy was not clean: {findings[0]}"
        tile = next(
            path for path in sorted((copy / "public" / "tile").rglob("*")) if path.is_file() and "entries" in path.parts
        )
        data = bytearray(tile.read_bytes())
        data[len(data) // 2] ^= 1
        tile.chmod(0o600)
        tile.write_bytes(data)
        findings = _errors(copy, verifier, origin)
        return f"detected ({findings[0]})" if findings else "NOT detected"


def _errors(copy: Path, verifier: Verifier, origin: str) -> list[str]:
    try:
        found = fsck(FileLogStore(copy, writable=False), verifier, origin)
    except IsochroneError as error:
        return [error.code]
    return [finding.code for finding in found if finding.severity == "error"]


async def revoked(stage: Stage) -> Seen:
    """The human takes it back; every site is asked without pause until it refuses."""
    stage.delegate("human:ada", "agent:short", contracts=["line-audio"])
    tokens = {site: await stage.token("agent:short", "line-audio", site) for site in stage.bases}
    chunk, before, after = _chunks()[0], dict[str, int](), dict[str, float]()
    moment: list[float] = []
    async with httpx.AsyncClient(timeout=10.0) as client:

        async def watch(site: str) -> None:
            deadline_s = time.monotonic() + 10.0
            while time.monotonic() < deadline_s:
                answer = await stage.infer(client, site, tokens[site], chunk)
                if answer.status == 403:
                    after[site] = time.monotonic() - (moment[0] if moment else float("inf"))
                    return
                before[site] = before.get(site, 0) + 1
                await asyncio.sleep(0.005)

        watchers = [asyncio.create_task(watch(site)) for site in stage.bases]
        await asyncio.sleep(0.5)
        moment.append(time.monotonic())
        await revoke_everywhere(stage.state, "delegation", "agent:short", "human:ada", "the job is done")
        await asyncio.gather(*watchers)
    shown = ", ".join(f"{site} {seconds * 1e3:.0f} ms" for site, seconds in sorted(after.items()))
    held = set(after) == set(stage.bases) == set(before) and 0 < max(after.values()) <= 1.0
    figures = {"first_403_ms": {site: seconds * 1e3 for site, seconds in after.items()}}
    return Seen("a revocation is in force at every connected site within 1 s", f"first refusal: {shown}", held, figures)


async def site_killed(stage: Stage) -> Seen:
    """The edge is killed under load. Some clients enter there and move on; others enter at a site that hands over to it."""
    chunks, log, stop = _chunks(), list[tuple[str, float, Answer]](), asyncio.Event()
    entries = {"at the edge": ("konstanz", "frankfurt"), "at a neighbour": ("zurich", "zurich")}
    tokens = {site: await stage.token("agent:line", "line-audio", site) for site in ("konstanz", "zurich", "frankfurt")}
    async with httpx.AsyncClient(timeout=2.0) as client:

        async def load(label: str) -> None:
            number, (site, other) = 0, entries[label]
            while not stop.is_set():
                answer = await stage.infer(client, site, tokens[site], chunks[number % len(chunks)])
                log.append((label, time.monotonic(), answer))
                site = other if answer.status == 0 else site
                number += 1
                await asyncio.sleep(0.01)

        loads = [asyncio.create_task(load(label)) for label in entries for _ in range(2)]
        await asyncio.sleep(1.5)
        killed_s = time.monotonic()
        await stage.kill("konstanz")
        await asyncio.sleep(4.0)
        stop.set()
        await asyncio.gather(*loads)
    parts, figures, recovered = [], dict[str, Any](), True
    for label in entries:
        after = [(at, answer) for name, at, answer in log if name == label and at >= killed_s]
        lost = sum(answer.status != 200 for _, answer in after)
        good = [at - killed_s for at, answer in after if answer.status == 200]
        bad = [at - killed_s for at, answer in after if answer.status != 200]
        back_s = min((at for at in good if not bad or at > max(bad)), default=float("inf"))
        recovered = recovered and back_s <= 2.0
        parts.append(f"entering {label}: {lost} of {len(after)} lost, well again after {back_s * 1e3:.0f} ms")
        figures[label] = {"lost": lost, "after_kill": len(after), "recovery_ms": back_s * 1e3}
    outside = [answer for _, _, answer in log if answer.status == 200 and answer.site not in EU]
    figures["out_of_bounds"] = len(outside)
    observed = f"{'; '.join(parts)}; out of bounds: {len(outside)}"
    return Seen(
        "a site may die: work goes on in time, and never out of bounds", observed, recovered and not outside, figures
    )


async def bounds_hold(stage: Stage) -> Seen:
    """An EU-only contract beside a nearer site outside the EU; then every EU site is dead."""
    chunks, answers = _chunks(), list[Answer]()
    token = await stage.token("agent:line", "line-audio", "zurich")
    async with httpx.AsyncClient(timeout=5.0) as client:
        for number in range(50):
            answers.append(await stage.infer(client, "zurich", token, chunks[number % len(chunks)]))
        for site in sorted(EU & {name.removeprefix("node-") for name in stage.supervisor.children}):
            await stage.kill(site)
        await asyncio.sleep(0.3)
        token = await stage.token("agent:line", "line-audio", "zurich")
        refused = [await stage.infer(client, "zurich", token, chunks[number % len(chunks)]) for number in range(50)]
        await asyncio.sleep(4.0)  # the plan has noticed by now
        refused += [await stage.infer(client, "zurich", token, chunks[number % len(chunks)]) for number in range(50)]
    ran = [answer for answer in [*answers, *refused] if answer.status == 200 and answer.site not in EU]
    after = [answer for answer in refused if answer.status == 200]
    reason = refused[-1].body.get("detail", "")
    observed = (
        f"entering at zurich (CH): {tally(answers)}; with every EU site killed: {len(refused) - len(after)} of {len(refused)} "
        f"refused, {len(ran)} spilled"
    )
    held = sum(a.status == 200 for a in answers) == 50 and not ran and not after and all(a.status for a in refused)
    figures = {"before": len(answers), "refused": len(refused) - len(after), "out_of_bounds": len(ran)}
    return Seen("EU-only work never touches the nearer site outside the EU", observed, held, figures, (reason,))


SCENES = (
    Scene("In time: 20 ms audio at the edge", audio_in_time),
    Scene("Any OpenAI client", chat_by_openai),
    Scene("Physics says no", physics_refuses),
    Scene("A sub-agent oversteps", overstep_denied),
    Scene("On the record", traced),
    Scene("The human revokes", revoked),
    Scene("The edge site is killed under load", site_killed),
    Scene("In bounds, whatever happens", bounds_hold),
)
