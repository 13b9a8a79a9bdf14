"""On the record: authority that narrows, is proven, and is taken back."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from pathlib import Path

import httpx

from isochrone.authority.delegation import HOP_TYP, parse_hop
from isochrone.authority.jose import sign_compact
from isochrone.authority.scope import Scope
from isochrone.cli.demo.scenes.seen import Seen, microphone
from isochrone.cli.demo.stage import Stage
from isochrone.cli.revoke import revoke_everywhere
from isochrone.cli.trace import gather, verify
from isochrone.errors import AuthorityError, IsochroneError
from isochrone.serve.client import GrantSource
from isochrone.serve.enrolment import log_origin
from isochrone.serve.home import SiteHome
from isochrone.serve.logstore import FileLogStore
from isochrone.tlog.fsck import fsck
from isochrone.tlog.note import Verifier

__all__ = ["overstep_denied", "revoked", "traced"]


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
    wider = Scope(contracts=frozenset({"assistant"}))
    claims = {
        "iss": helper.key.public.thumbprint, "sub": parent.human, "aud": parent.fabric, "act": {"sub": friend.id},
        "cnf": {"jwk": friend.key.public.jwk}, "authorization_details": [wider.details],
        "jti": "forged", "iat": now, "nbf": now, "exp": now + 600, "del_depth": 2, "del_max_depth": 2,
        "par_hash": parent.id,
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
    chunks = microphone()
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
    chunk, before, after = microphone()[0], dict[str, int](), dict[str, float]()
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
