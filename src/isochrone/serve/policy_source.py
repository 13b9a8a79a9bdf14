"""Policies, and the world they speak of, as files or a running fabric give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from isochrone.errors import InputError
from isochrone.policy.bounds import world_of
from isochrone.policy.policies import PolicySet
from isochrone.policy.suite import world_from
from isochrone.policy.vocabulary import World
from isochrone.serve.desired import desired_in_force, read_desired, validate_desired

__all__ = ["Governed", "governed_by_hub", "read_document", "read_governed", "read_policies", "read_world"]

_WORLD_FILE = "world.yaml"


@dataclass(frozen=True, slots=True)
class Governed:
    """Policies and the sites, contracts and workloads that they govern."""

    policies: PolicySet
    world: World


def read_governed(source: Path, world: Path | None = None) -> Governed:
    """From a fabric document (which names its policies), or from Cedar: one file, or all of a directory.

    Args:
        world: fabric or world document that Cedar files are judged in; without it, the ``world.yaml`` beside them.

    Raises:
        InputError: a file cannot be read, or nothing says what the world is.
        DocumentError: the fabric document or its policies are wrong.
        PolicyTextError: the Cedar files are wrong.
    """
    if source.suffix in (".yaml", ".yml"):
        fabric, policies = validate_desired(*read_desired(source), file=source.name)
        return Governed(policies, read_world(world) if world else world_of(fabric))
    policies = PolicySet.parse(read_policies(source))
    beside = (source if source.is_dir() else source.parent) / _WORLD_FILE
    if world is None and not beside.exists():
        raise InputError(
            f"nothing says which sites and contracts {source} is about",
            code="policy.world",
            hint=f"name a fabric document with --world, or write {beside}",
        )
    return Governed(policies, read_world(world or beside))


def governed_by_hub(known: Mapping[str, Any]) -> Governed:
    """What is in force, as a hub tells it (`Hub.known`)."""
    fabric, governance = desired_in_force(known["fabric"], known["policies"])
    return Governed(governance.policies, world_of(fabric))


def read_policies(source: Path) -> dict[str, str]:
    """Cedar text by file name: one file, or every ``*.cedar`` of a directory.

    Raises:
        InputError: there is none, or one cannot be read.
    """
    files = sorted(source.glob("*.cedar")) if source.is_dir() else [source]
    if not files:
        raise InputError(f"no *.cedar file is in {source}", code="input.file", hint="name a file or another directory")
    return {file.name: _read(file) for file in files}


def read_world(path: Path) -> World:
    """The world of a fabric document or of a world document (see `policy.suite`)."""
    document = read_document(path)
    if "name" in document:
        return world_of(validate_desired(*read_desired(path), file=path.name)[0])
    return world_from(document)


def read_document(path: Path) -> dict[str, Any]:
    """A YAML mapping.

    Raises:
        InputError: it is not readable, not YAML or not a mapping.
    """
    try:
        document = yaml.safe_load(_read(path))
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {error}", code="input.yaml") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is no mapping", code="input.yaml", hint="see `isochrone policy test --help`")
    return document


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot read {path}: {reason}", code="input.file", hint="check the path") from error
