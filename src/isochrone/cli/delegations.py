"""``isochrone delegations``: what agents on this machine hold, from whom, and what it allows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from isochrone.cli.common import echo_json, find_state, run, state_option
from isochrone.errors import AuthorityError, InputError

if TYPE_CHECKING:
    from isochrone.authority.delegation import Delegation
    from isochrone.serve.keyring import Holder

__all__ = ["delegations"]


@click.group(invoke_without_command=True)
@state_option
@click.pass_context
def delegations(context: click.Context, state: Path | None) -> None:
    """Delegations of agents whose keys are on this machine: list, show as a tree, explain.

    \b
    isochrone delegations
    isochrone delegations list
    isochrone delegations show agent:caller
    isochrone delegations explain agent:caller --contract assistant

    Without a command, as `show`.
    """
    if context.invoked_subcommand is None:
        context.invoke(show, agents=(), state=state)


@delegations.command("list")
@click.option("--json", "as_json", is_flag=True)
@state_option
def list_(as_json: bool, state: Path | None) -> None:
    """One line for each: who holds it, for whom, how deep, until when."""
    rows = [_row(holder) for holder in _held(find_state(state))]
    if as_json:
        echo_json(rows)
        return
    for row in rows:
        left = "expired" if row["expires_s"] <= time.time() else f"{(row['expires_s'] - time.time()) / 60:.0f} min left"
        click.echo(f"{row['agent']:<24} for {row['human']}, depth {row['depth']}, {left}  {row['chain'][:12]}")
    _say_if_none(rows)


@delegations.command()
@click.argument("agents", nargs=-1)
@state_option
def show(agents: tuple[str, ...], state: Path | None) -> None:
    """The tree of delegations: each hop once, with what it says differently from the one above."""
    from isochrone.authority.explain import explain_tree

    held = [holder for holder in _held(find_state(state)) if not agents or holder.id in agents]
    for agent in set(agents) - {holder.id for holder in held}:
        raise InputError(
            f"nobody delegated to {agent} yet", code="delegations.nothing", hint="isochrone delegations list"
        )
    if held:
        click.echo(explain_tree([_hops(holder) for holder in held]))
    _say_if_none(held)


@delegations.command()
@click.argument("agent")
@click.option("--contract", "contracts", multiple=True, help="Only these. Default: every contract of the fabric.")
@click.option("--json", "as_json", is_flag=True)
@state_option
def explain(agent: str, contracts: tuple[str, ...], as_json: bool, state: Path | None) -> None:
    """Say what AGENT's delegation allows now: under which contract, at which sites, and why not at the others."""
    directory = find_state(state)
    found = run(_explained(directory, agent, contracts))
    if as_json:
        echo_json(found)
        return
    for contract, sites in found.items():
        allowed = [site for site, reasons in sites.items() if not reasons]
        click.echo(f"{contract}: {', '.join(allowed) or 'nowhere'}")
        for site, reasons in sites.items():
            for reason in reasons:
                click.echo(f"    not at {site}: {reason}")


async def _explained(state: Path, agent: str, contracts: tuple[str, ...]) -> dict[str, dict[str, list[str]]]:
    """Contract to site to the reasons against; none where it is allowed."""
    from isochrone.authority.chain import verify_chain
    from isochrone.authority.delegation import ChainRejected
    from isochrone.authority.known_groups import known_groups
    from isochrone.cli.signing import ActDesk
    from isochrone.policy.bounds import bounds_of
    from isochrone.serve.desired import desired_in_force
    from isochrone.serve.keyring import Keyring

    desk, holder, groups = ActDesk(state), Keyring(state).get(agent), known_groups()
    if not holder.chain:
        raise InputError(
            f"nobody delegated to {agent} yet", code="delegations.nothing", hint=f"isochrone delegate {agent}"
        )
    chain = verify_chain(holder.chain, await desk.registry(), groups, now_s=time.time())
    if isinstance(chain, ChainRejected):
        raise AuthorityError("; ".join(map(str, chain.reasons)), code="delegations.void", hint="delegate anew")
    known = await desk.client.ask("GET", "/known")
    fabric, governance = desired_in_force(known["fabric"], known["policies"])
    unknown = sorted(set(contracts) - fabric.contracts.keys())
    if unknown:
        hint = f"contracts: {', '.join(sorted(fabric.contracts))}"
        raise InputError(f"there is no contract {', '.join(unknown)}", code="delegations.contract", hint=hint)
    bounds = bounds_of(fabric, governance.policies)
    return {
        contract: {
            site: [*bounds[contract, site].reasons, *_outside(chain, fabric, contract, site, groups)]
            for site in fabric.sites
        }
        for contract in contracts or fabric.contracts
    }


def _outside(chain: Any, fabric: Any, contract: str, site: str, groups: Any) -> list[str]:
    """Why the chain does not allow the contract at a site, on any hardware there that it could run on."""
    from isochrone.authority.scope import Execution

    terms, noun = fabric.contracts[contract], fabric.sites[site]
    reasons: list[str] = []
    for hardware in noun.hardware:
        if hardware in fabric.workloads[terms.workload].service:
            asked = Execution(
                terms.workload, contract, site, noun.jurisdiction, noun.vendor, hardware,
                terms.in_bounds.data_class, time.time(),
            )  # fmt: skip
            reasons += [str(reason) for reason in chain.refusals(asked, groups)]
    return list(dict.fromkeys(reasons))


def _held(state: Path) -> list[Holder]:
    from isochrone.serve.keyring import Keyring

    return [holder for holder in Keyring(state).all() if holder.chain]


def _hops(holder: Holder) -> tuple[Delegation, ...]:
    from isochrone.authority.delegation import parse_hop

    return tuple(map(parse_hop, holder.chain))


def _row(holder: Holder) -> dict[str, Any]:
    hops = _hops(holder)
    return {
        "agent": holder.id,
        "human": hops[0].human,
        "depth": hops[-1].depth,
        "expires_s": min(hop.exp_s for hop in hops),
        "chain": hops[-1].id,
    }


def _say_if_none(held: list[Any]) -> None:
    if not held:
        click.echo("no delegations are held here; make one with `isochrone delegate`")
