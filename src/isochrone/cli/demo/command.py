"""``isochrone demo``: every promise, shown on real models behind real Envoys."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isochrone.cli.common import echo_json

if TYPE_CHECKING:
    from isochrone.cli.demo.scenes import Seen
    from isochrone.cli.demo.stage import Stage

__all__ = ["demo"]

_STAGE = """\
Four sites on this machine, each with its own node, Envoy, log and keys. Distances are emulated: the Envoy that receives
a request from another site waits for the round trip between the two before it goes on:
  {distances}
Everything else is real: mutual TLS, ES256 grants, compiled Cedar, the models (SmolLM2 135M and Silero VAD on the CPU),
the transparency logs. A client's own way to its nearest site is not emulated."""


@click.command()
@click.option("--keep", is_flag=True, help="Leave the fabric running at the end, to play with.")
@click.option(
    "--state", type=click.Path(path_type=Path, file_okay=False), help="Keep the state here. Default: a scratch one."
)
@click.option("--json", "as_json", is_flag=True, help="Print the results for machines.")
def demo(keep: bool, state: Path | None, as_json: bool) -> None:
    """Run a governed fabric on real models and show each promise held.

    \b
    isochrone demo
    isochrone demo --keep          # then: isochrone status --state ...
    isochrone demo --json

    Exit status 0 only when every promise held.
    """
    import uvloop

    from isochrone.serve.process import run_until_signal

    say = _quiet if as_json else click.echo
    directory = state or Path(tempfile.mkdtemp(prefix="isochrone-demo-"))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            seen = runner.run(run_until_signal(_play(directory, keep, say)))
    finally:
        if state is None:
            shutil.rmtree(directory, ignore_errors=True)
    if seen is None:
        sys.exit(130)
    if as_json:
        echo_json([_plain(title, each) for title, each in seen])
    sys.exit(0 if len(seen) == _scene_count() and all(each.held for _, each in seen) else 1)


def _quiet(*_: object) -> None:
    return None


def _scene_count() -> int:
    from isochrone.cli.demo.scenes import SCENES

    return len(SCENES)


def write_fabric(directory: Path) -> Path:
    """Write the packaged fabric and its policies; returns the document's path."""
    source = resources.files("isochrone.cli.demo")
    (directory / "policies").mkdir(parents=True, exist_ok=True)
    for name in ("fabric.yaml", "policies/bounds.cedar"):
        (directory / name).write_text(source.joinpath(name).read_text(encoding="utf-8"), encoding="utf-8")
    return directory / "fabric.yaml"


async def _play(directory: Path, keep: bool, say: Any) -> list[tuple[str, Seen]]:
    from isochrone.serve.up import Embedded

    start_s, path = time.monotonic(), write_fabric(directory / "fabric")
    say(_STAGE.format(distances=_distances(path)) + "\n")
    embedded = Embedded(
        path,
        directory / "state",
        "human:ada",
        "Ada Lovelace",
        lambda line: say(f"  {line}"),
    )

    async def on_ready(status: dict[str, Any], supervisor: Any) -> list[tuple[str, Seen]]:
        from isochrone.cli.demo.stage import Stage

        stage = Stage.of(directory / "state", supervisor, status)
        say(f"  up after {time.monotonic() - start_s:.1f} s; placed: {_placed(status)}\n")
        seen = await _scenes(stage, say)
        say(_table(seen))
        say(f"{time.monotonic() - start_s:.0f} s in all")
        if keep:
            await stage.revive()
            say(f"\nStill running. Try:  isochrone status --state {directory / 'state'}   (Ctrl-C stops it)")
            await asyncio.Event().wait()
        return seen

    result: list[tuple[str, Seen]] = await embedded.run(on_ready)
    return result


def _distances(path: Path) -> str:
    """The emulated round trips, as the fabric document gives them."""
    from isochrone.control.node import emulated_rtt_ms
    from isochrone.model.document import parse_fabric

    fabric = parse_fabric(path.read_text(encoding="utf-8"))
    pairs = [(a, b, ms) for b in fabric.sites for a, ms in emulated_rtt_ms(fabric, b).items() if a < b]
    return ", ".join(f"{a}-{b} {ms:.0f} ms" for a, b, ms in sorted(pairs, key=lambda pair: pair[2]))


def _placed(status: dict[str, Any]) -> str:
    return ", ".join(f"{model} at {site}" for site, row in sorted(status["placements"].items()) for model in row)


async def _scenes(stage: Stage, say: Any) -> list[tuple[str, Seen]]:
    from isochrone.cli.demo.scenes import SCENES, Seen
    from isochrone.errors import IsochroneError

    stage.delegate("human:ada", "agent:line", contracts=["line-audio", "audio-archive"])
    stage.delegate("human:ada", "agent:desk", contracts=["assistant", "reflex-chat"])
    await stage.settle()
    seen = []
    for number, scene in enumerate(SCENES, start=1):
        say(click.style(f"{number}. {scene.title}", bold=True))
        try:
            found = await scene.play(stage)
        except IsochroneError as error:
            found = Seen("the scene plays to its end", f"{type(error).__name__}: {error}", False)
        seen.append((scene.title, found))
        say(f"   promised  {found.promised}")
        say(f"   observed  {found.observed}")
        for note in found.notes:
            say(f"             {note}" if note else "")
        say(f"   {_verdict(found.held)}\n")
    return seen


def _verdict(held: bool) -> str:
    return click.style("held", fg="green") if held else click.style("BROKEN", fg="red", bold=True)


def _table(seen: list[tuple[str, Seen]]) -> str:
    width = max(len(title) for title, _ in seen)
    lines = [
        f"{number}  {title:<{width}}  {_verdict(each.held)}  {each.observed}"
        for number, (title, each) in enumerate(seen, 1)
    ]
    count = sum(each.held for _, each in seen)
    return "\n".join([*lines, "", f"{count} of {len(seen)} promises held"])


def _plain(title: str, seen: Seen) -> dict[str, Any]:
    return {
        "scene": title,
        "promised": seen.promised,
        "observed": seen.observed,
        "held": seen.held,
        "figures": seen.figures,
    }
