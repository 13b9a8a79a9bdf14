"""Desired state as people write it: a fabric document, Cedar files and bundles, and every mistake of all of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from isochrone.errors import InputError
from isochrone.model.document import DocumentError, Draft, Finding, draft_fabric, parse_fabric
from isochrone.model.fabric import Fabric, Mistake
from isochrone.policy.bounds import check_policies
from isochrone.policy.governance import Governance, govern
from isochrone.policy.policies import PolicySet, PolicyTextError

__all__ = ["desired_in_force", "read_desired", "validate_desired"]


def read_desired(path: Path) -> tuple[str, dict[str, str]]:
    """A fabric document and its policy files as they stand on disk, not yet validated.

    Raises:
        InputError: the document cannot be read.
        DocumentError: a policy file that it names cannot be read; with every other mistake as well.
    """
    text = _read(path)
    draft = draft_fabric(text, path.name)
    policies: dict[str, str] = {}
    unreadable = []
    for name, keys in draft.files:
        try:
            policies[name] = _read(path.parent / name)
        except InputError as error:
            mistake = Mistake(keys, str(error), "paths are relative to the document")
            unreadable.append(draft.place(mistake))
    if unreadable:
        _, _, findings = _judge(draft, policies, complete=False)
        raise DocumentError([*unreadable, *findings])
    return text, policies


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot read {path}: {reason}", code="input.file", hint="check the path") from error


def validate_desired(text: str, files: Mapping[str, str], file: str = "fabric.yaml") -> tuple[Fabric, PolicySet]:
    """Fabric and policies, checked by themselves and against each other; for what somebody wants to bring into force.

    Args:
        files: Cedar files and bundles by the name that the document gives them.

    Raises:
        DocumentError: with every mistake of any of them.
    """
    draft = draft_fabric(text, file)
    missing = [name for name, _ in draft.files if name not in files]
    if missing:
        raise InputError(f"without its files: {', '.join(missing)}", code="input.policies")
    fabric, parsed, findings = _judge(draft, files, complete=True)
    if fabric is None or parsed is None:
        raise DocumentError(findings)
    return fabric, parsed


def desired_in_force(
    text: str, files: Mapping[str, str], revisions: Mapping[str, int] | None = None
) -> tuple[Fabric, Governance]:
    """The same for what is in force already: a bundle that has expired since is a reason to refuse, not a mistake.

    Args:
        revisions: the highest revision of each workload's bundle seen so far.

    Raises:
        DocumentError, PolicyTextError: it never was valid.
    """
    fabric = parse_fabric(text)
    return fabric, govern(fabric, files, now_s=time.time(), revisions=revisions)


def _judge(
    draft: Draft, files: Mapping[str, str], *, complete: bool
) -> tuple[Fabric | None, PolicySet | None, list[Finding]]:
    """The two, None where there are findings. Not `complete`: files are missing, so ids may be too."""
    findings, parsed = list(draft.findings), None
    mistakes: list[Mistake] = []
    try:
        if draft.fabric is None or not complete:
            cedar = [name for name, keys in draft.files if keys[0] == "policies" and name in files]
            parsed = PolicySet.parse({name: files[name] for name in cedar})
        else:
            governance = govern(draft.fabric, files, now_s=time.time())
            parsed = governance.policies
            mistakes += (
                Mistake(("workloads", name, "bundle"), str(why.reasons[0]), "see `isochrone bundle --help`")
                for name, why in governance.refused.items()
            )
    except PolicyTextError as error:
        findings += [Finding(each.file, each.line, 1, "", each.what, each.hint) for each in error.findings]
    if draft.fabric is not None:
        found = check_policies(draft.fabric, parsed or PolicySet(()))
        if not complete or parsed is None:
            # The id may well stand in what could not be read.
            found = [mistake for mistake in found if "policies" not in mistake.path]
        findings += map(draft.place, [*mistakes, *found])
    return (None, None, findings) if findings else (draft.fabric, parsed, [])
