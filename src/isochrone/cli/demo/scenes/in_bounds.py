"""In bounds, and in time again, whatever dies."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx

from isochrone.cli.demo.scenes.seen import Seen, microphone
from isochrone.cli.demo.stage import Answer, Stage, tally

__all__ = ["bounds_hold", "site_killed"]

EU = frozenset({"konstanz", "frankfurt"})


async def site_killed(stage: Stage) -> Seen:
    """The edge is killed under load. Some clients enter there and move on; others enter where work is handed to it."""
    chunks, log, stop = microphone(), list[tuple[str, float, Answer]](), asyncio.Event()
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
    said = next((a.body.get("detail", "") for _, at, a in reversed(log) if at >= killed_s and a.status >= 400), "")
    figures["out_of_bounds"] = len(outside)
    observed = f"{'; '.join(parts)}; out of bounds: {len(outside)}"
    return Seen(
        "a site may die: work goes on in time, and never out of bounds", observed, recovered and not outside, figures,
        (said,) if said else (),
    )  # fmt: skip


async def bounds_hold(stage: Stage) -> Seen:
    """An EU-only contract beside a nearer site outside the EU; then every EU site is dead."""
    chunks, answers = microphone(), list[Answer]()
    await stage.revive()
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
        f"entering at zurich (CH): {tally(answers)}; with every EU site killed: "
        f"{len(refused) - len(after)} of {len(refused)} "
        f"refused, {len(ran)} spilled"
    )
    # What comes too late on a slow machine is refused, and that breaks no bound.
    held = not ran and not after and all(a.status for a in [*answers, *refused])
    figures = {"before": len(answers), "refused": len(refused) - len(after), "out_of_bounds": len(ran)}
    return Seen("EU-only work never touches the nearer site outside the EU", observed, held, figures, (reason,))
