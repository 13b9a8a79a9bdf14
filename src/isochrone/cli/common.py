"""What commands share: where the state is, how to run the loop, how to print."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from isochrone.errors import InputError

__all__ = ["TAKES_DIGESTS", "authority_of", "echo_json", "find_state", "run", "site_urls", "state_option"]

TAKES_DIGESTS = {"ignore_unknown_options": True}
"""Context settings of commands that take a digest: one in base64url may begin with a hyphen, and is no option."""

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def state_option(function: F) -> F:
    """``--state DIR``, for commands that talk to a fabric on this machine."""
    option = click.option(
        "--state", type=click.Path(path_type=Path, file_okay=False), envvar="ISOCHRONE_STATE",
        help="State directory of the fabric. Default: the only one below ./.isochrone (or $ISOCHRONE_STATE).",
    )  # fmt: skip
    return option(function)


def find_state(state: Path | None) -> Path:
    """The state directory that is meant.

    Raises:
        InputError: none was named and there is not exactly one.
    """
    if state is not None:
        return state
    root = Path(os.environ.get("ISOCHRONE_HOME", ".isochrone"))
    found = sorted(path.parent.parent for path in root.glob("*/hub/fabric"))
    if len(found) == 1:
        return found[0]
    what = "no fabric's state" if not found else "more than one fabric's state"
    names = ", ".join(str(path) for path in found)
    raise InputError(
        f"{what} is below {root}{': ' + names if names else ''}", code="state.unclear", hint="name it with --state"
    )


def site_urls(status: dict[str, Any]) -> dict[str, str]:
    """Base URL of every site that reports, from the hub's status."""
    nouns = status["nouns"].get("sites", {})
    ends_tls = {name for name, noun in nouns.items() if noun.get("tls") and not noun["tls"].get("outside")}
    scheme = {name: "https" if name in ends_tls else "http" for name in status["sites"]}
    return {name: f"{scheme[name]}://{report['ingress']}" for name, report in status["sites"].items()}


def authority_of(state: Path) -> Path | bool:
    """Whom to believe to be a site, `verify` of `GrantSource`: the fabric's authority, where the hub's state is."""
    path = state / "hub" / "authority.pem"
    return path if path.exists() else True


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end."""
    return asyncio.run(main)


def echo_json(value: object) -> None:
    """Print for machines."""
    click.echo(json.dumps(value, indent=2, sort_keys=True))
