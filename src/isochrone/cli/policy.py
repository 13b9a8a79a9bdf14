"""``isochrone policy``: look at policies before they ship."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isochrone.cli.common import echo_json, find_state, run, state_option
from isochrone.errors import InputError

if TYPE_CHECKING:
    from isochrone.serve.policy_source import Governed

__all__ = ["policy"]

_PATH = click.Path(path_type=Path)
_SOURCE = click.argument("source", type=_PATH, required=False)
_WORLD = click.option(
    "--world", type=_PATH, help="Fabric or world document to judge Cedar files in. Default: world.yaml beside them."
)
_ACTION = click.option(
    "--action", type=click.Choice(["execute", "exchange", "place"]), default="execute", show_default=True
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print for machines.")


@click.group()
def policy() -> None:
    """Check, test, explain, compare and analyse policies before they ship.

    \b
    isochrone policy check policies/
    isochrone policy test examples/policies/*.test.yaml
    isochrone policy explain fabric.yaml --site zurich
    isochrone policy diff new/fabric.yaml            # against what is in force
    isochrone policy analyse fabric.yaml --never US:health

    SOURCE is a fabric document, one Cedar file, or a directory of them; without it, the running fabric.
    """


@policy.command()
@_SOURCE
@_JSON
@state_option
def check(source: Path | None, as_json: bool, state: Path | None) -> None:
    """Parse and validate policies against the vocabulary; show every mistake.

    \b
    isochrone policy check policies/eu-only.cedar
    isochrone policy check policies/ --json | jq .findings
    """
    from isochrone.policy.policies import PolicySet, PolicyTextError
    from isochrone.serve.policy_source import read_policies

    try:
        if source is None or source.suffix in (".yaml", ".yml"):
            policies = _governed(source, None, state).policies
        else:
            policies = PolicySet.parse(read_policies(source))
    except PolicyTextError as error:
        found = [{"file": f.file, "line": f.line, "problem": f.what, "hint": f.hint} for f in error.findings]
        if as_json:
            echo_json({"ok": False, "findings": found})
        else:
            click.echo("\n".join(str(finding) for finding in error.findings))
        sys.exit(1)
    if as_json:
        echo_json(
            {"ok": True, "findings": [], "digest": policies.digest, "policies": [p.id for p in policies.policies]}
        )
    else:
        click.echo(f"{len(policies)} policies, no mistake, {policies.digest}")


@policy.command()
@click.argument("suites", type=_PATH, nargs=-1, required=True)
@click.option("--policies", type=_PATH, help="Policies under test. Default: NAME.cedar for NAME.test.yaml.")
@_WORLD
@_JSON
def test(suites: tuple[Path, ...], policies: Path | None, world: Path | None, as_json: bool) -> None:
    """Run suites of requests, each with the verdict and reason it must get.

    \b
    isochrone policy test examples/policies/*.test.yaml
    isochrone policy test health.test.yaml --policies policies/ --world fabric.yaml

    \b
    A suite:
      defaults: {action: execute, principal: {agent: bot, human: ada}, workload: chat, hour_utc: 12, weekday: 3}
      cases:
        - {name: health data stays, site: virginia, contract: clinic, data_class: health, expect: deny, reason: eu-only}
    """
    from isochrone.console.policy_answers import render_suites, suite_answer
    from isochrone.console.tables import show
    from isochrone.policy.suite import run_suite
    from isochrone.serve.policy_source import read_document, read_policies, read_world

    answers = []
    for suite in suites:
        texts = read_policies(policies or suite.with_name(suite.name.removesuffix(".test.yaml") + ".cedar"))
        where = read_world(world or suite.with_name("world.yaml"))
        answers.append(suite_answer(suite.name, run_suite(texts, read_document(suite), where)))
    if as_json:
        echo_json(answers)
    else:
        show(render_suites(answers))
    sys.exit(any(answer["passed"] < len(answer["cases"]) for answer in answers))


@policy.command()
@_SOURCE
@click.option("--site", "sites", multiple=True, help="A site to explain for; may be given again. Default: all.")
@_ACTION
@_WORLD
@_JSON
@state_option
def explain(
    source: Path | None, sites: tuple[str, ...], action: str, world: Path | None, as_json: bool, state: Path | None
) -> None:
    """Say which way each policy goes at a site: decided beforehand, by the proxy, or by the node; and why.

    \b
    isochrone policy explain --site zurich
    isochrone policy explain policies/ --world fabric.yaml --json
    """
    from isochrone.console.policy_answers import explained, render_explained

    governed = _governed(source, world, state)
    _show(explained(governed, sites or [s.id for s in governed.world.sites], action), render_explained, as_json)


@policy.command()
@click.argument("sources", type=_PATH, nargs=-1, required=True)
@click.option("--stricter", is_flag=True, help="Exit with 1 unless the new revision allows nothing more.")
@_WORLD
@_JSON
@state_option
def diff(sources: tuple[Path, ...], stricter: bool, world: Path | None, as_json: bool, state: Path | None) -> None:
    """Say what a new revision allows or denies that the old one did not, each with an example.

    \b
    isochrone policy diff NEW               # against what is in force
    isochrone policy diff OLD NEW
    isochrone policy diff OLD NEW --stricter && echo safe to ship

    The answer is exact over the sites, contracts and workloads of NEW, and any agent, person, data class and hour.
    """
    from isochrone.console.policy_answers import compared, render_compared

    if len(sources) > 2:
        raise click.UsageError("name one source, or two: OLD NEW")
    old = _governed(sources[0] if len(sources) == 2 else None, world, state)
    found = compared(old, _governed(sources[-1], world, state), ("exchange", "execute", "place"))
    _show(found, render_compared, as_json)
    sys.exit(stricter and not found["stricter"])


@policy.command()
@_SOURCE
@click.option(
    "--never", "never", multiple=True, metavar="JURISDICTION:DATA_CLASS",
    help="Prove that no request can combine the two; exit with 1 and a counter-example if one can. May be repeated.",
)  # fmt: skip
@_ACTION
@_WORLD
@_JSON
@state_option
def analyse(
    source: Path | None, never: tuple[str, ...], action: str, world: Path | None, as_json: bool, state: Path | None
) -> None:
    """Answer exactly: which policies are dead or can err, which sites each contract has left, what can never happen.

    \b
    isochrone policy analyse fabric.yaml
    isochrone policy analyse --never US:health --never RU:personal
    """
    from isochrone.console.policy_answers import analysed, render_analysed

    pairs = [_pair(text) for text in never]
    found = analysed(_governed(source, world, state), action, pairs)
    _show(found, render_analysed, as_json)
    sys.exit(bool(found["errs"]) or any(answer["example"] for answer in found["never"]))


def _governed(source: Path | None, world: Path | None, state: Path | None) -> Governed:
    from isochrone.serve.policy_source import governed_by_hub, read_governed

    if source is not None:
        return read_governed(source, world)
    from isochrone.serve.hub_client import HubClient

    known = run(HubClient(find_state(state)).ask("GET", "/known"))
    if known["status_code"] != 200:
        raise InputError(f"the hub cannot say: {known.get('title')}", code="hub.empty", hint="name a SOURCE")
    return governed_by_hub(known)


def _pair(text: str) -> tuple[str, str]:
    area, colon, data_class = text.partition(":")
    if not (area and colon and data_class):
        raise InputError(f"{text!r} is not JURISDICTION:DATA_CLASS", code="policy.never", hint="such as US:health")
    return area, data_class


def _show(found: dict[str, Any], render: Any, as_json: bool) -> None:
    if as_json:
        echo_json(found)
        return
    from isochrone.console.tables import show

    show(render(found))
