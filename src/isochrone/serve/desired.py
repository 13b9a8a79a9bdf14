"""Desired state as people write it: a fabric document and its Cedar files, and every mistake of all of them at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from isochrone.errors import InputError
from isochrone.model.document import DocumentError, Draft, Finding, draft_fabric
from isochrone.model.fabric import Fabric, Mistake
from isochrone.policy.bounds import check_policies
from isochrone.policy.policies import PolicySet, PolicyTextError

__all__ = ["read_desired", "validate_desired"]


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
    for name, index in draft.policies:
        try:
            policies[name] = _read(path.parent / name)
        except InputError as error:
            mistake = Mistake(("policies", index), str(error), "paths are relative to the document")
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


def validate_desired(text: str, policies: Mapping[str, str], file: str = "fabric.yaml") -> tuple[Fabric, PolicySet]:
    """Fabric and policies, checked by themselves and against each other.

    Raises:
        DocumentError: with every mistake of either.
    """
    draft = draft_fabric(text, file)
    missing = [name for name, _ in draft.policies if name not in policies]
    if missing:
        raise InputError(f"without its policy files: {', '.join(missing)}", code="input.policies")
    fabric, parsed, findings = _judge(draft, policies, complete=True)
    if fabric is None or parsed is None:
        raise DocumentError(findings)
    return fabric, parsed


def _judge(
    draft: Draft, policies: Mapping[str, str], *, complete: bool
) -> tuple[Fabric | None, PolicySet | None, list[Finding]]:
    """The two, None where there are findings. Not `complete`: policies are missing, so ids may be too."""
    findings, parsed = list(draft.findings), None
    try:
        parsed = PolicySet.parse(policies)
    except PolicyTextError as error:
        findings += [Finding(each.file, each.line, 1, "", each.what, each.hint) for each in error.findings]
    if draft.fabric is not None:
        mistakes = check_policies(draft.fabric, parsed or PolicySet(()))
        if not complete or parsed is None:
            # The id may well stand in what could not be read.
            mistakes = [mistake for mistake in mistakes if "policies" not in mistake.path]
        findings += map(draft.place, mistakes)
    return (None, None, findings) if findings else (draft.fabric, parsed, [])
