"""The `isochrone` command. Each command lives in a module of its own and is imported only when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from isochrone import __version__
from isochrone.errors import IsochroneError

__all__ = ["main"]

# Command -> module and one line of help; `--help` reads this table alone.
_COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("isochrone.cli.demo.command", "Run a governed fabric on real models and show each promise held."),
    "init": ("isochrone.cli.check", "Write a fabric.yaml to start from."),
    "check": ("isochrone.cli.check", "Check a fabric document and its policies; show every mistake."),
    "up": ("isochrone.cli.roles", "Run a whole fabric on this machine."),
    "hub": ("isochrone.cli.roles", "Run the hub alone."),
    "node": ("isochrone.cli.roles", "Run one site's node and Envoy alone."),
    "enrol": ("isochrone.cli.enrol", "Let sites into a fabric, or take one out."),
    "join": ("isochrone.cli.enrol", "Make this machine a site's, by a token of `enrol`."),
    "apply": ("isochrone.cli.apply", "Change a running fabric; show the difference first."),
    "rollout": ("isochrone.cli.rollout", "Show where the newest revision is in force, and what the shadow counts."),
    "promote": ("isochrone.cli.rollout", "Put into force what runs in shadow."),
    "rollback": ("isochrone.cli.rollout", "Apply an earlier revision again."),
    "drain": ("isochrone.cli.drain", "Take a site out of service without losing a request."),
    "status": ("isochrone.cli.status", "Show sites, contracts, plans in force and attainment."),
    "identity": ("isochrone.cli.identity", "People and agents: create, invite, enrol, list, show, retire."),
    "delegate": ("isochrone.cli.delegate", "Delegate authority to an agent."),
    "delegations": ("isochrone.cli.delegations", "Show the delegations held here and what they allow."),
    "token": ("isochrone.cli.delegate", "Exchange a delegation for a grant."),
    "approve": ("isochrone.cli.approve", "Approve that a contract may be executed."),
    "approvals": ("isochrone.cli.approve", "List approvals, and take one back."),
    "connect": ("isochrone.cli.connect", "Give programs with a base URL and a static key a way into the fabric."),
    "revoke": ("isochrone.cli.revoke", "Take authority back, everywhere; stop a contract or all of it, and resume."),
    "revocations": ("isochrone.cli.revocations", "List what was taken back: who, why, and in force where since when."),
    "trace": ("isochrone.cli.trace", "Lead from an execution to its human, verified step by step."),
    "fork": ("isochrone.cli.fork", "Verify that a log signed two histories."),
    "audit": ("isochrone.cli.audit", "Export what was recorded, verify it anywhere, query it, keep receipts."),
    "explain": ("isochrone.cli.explain", "Say why a contract is served where it is, and why not elsewhere."),
    "reach": ("isochrone.cli.explain", "Draw the isochrone: what can answer within a time."),
    "policy": ("isochrone.cli.policy", "Check, test, explain, compare and analyse policies."),
    "bundle": ("isochrone.cli.bundle", "Sign policies with a workload, so that they travel with it."),
    "plan": ("isochrone.cli.plan", "Plan capital: what should stand where, and what it is worth."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(_COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except* IsochroneError as group:
            _tell(group)
            sys.exit(1)


def _tell(group: BaseExceptionGroup[IsochroneError]) -> None:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            _tell(error)
            continue
        click.echo(f"error: {error}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="isochrone")
def main() -> None:
    """Run AI inference in time, in bounds and on the record, over sites of many owners.

    \b
    isochrone demo                     see it work
    isochrone init && isochrone up fabric.yaml
    isochrone status --watch
    """
    os.environ.setdefault("PYTHONUNBUFFERED", "1")


if __name__ == "__main__":
    main()
