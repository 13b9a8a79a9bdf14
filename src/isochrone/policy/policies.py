"""Parse Cedar files against the vocabulary, reporting every mistake at once with its file and line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from isochrone.errors import PolicyError
from isochrone.policy import engine
from isochrone.policy.engine import pst

__all__ = ["Finding", "Policy", "PolicySet", "PolicyTextError", "schema_digest", "split"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake: where, what is wrong, what to do."""

    file: str
    line: int
    what: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}" + (f" ({self.hint})" if self.hint else "")


class PolicyTextError(PolicyError):
    """Policy text that cannot be used; `findings` has every mistake, in order."""

    code = "policy.text"

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        first, more = findings[0], len(findings) - 1
        super().__init__(f"{first}" + (f" and {more} more" if more else ""), hint=first.hint)
        self.findings = findings


@dataclass(frozen=True, slots=True)
class Policy:
    """One permit or forbid: its id (from `@id`, else ``file:index``), place, text and syntax tree."""

    id: str
    file: str
    line: int
    text: str
    tree: pst.Template

    @property
    def effect(self) -> str:
        return self.tree.effect

    def covers(self, action: str) -> bool:
        """Whether its scope covers the action; one that does not can neither apply nor err."""
        match self.tree.action:
            case pst.ActionEq(entity):
                return entity.id == action
            case pst.ActionIn(entities):
                return any(entity.id == action for entity in entities)
            case _:
                return True

    @property
    def note(self) -> str:
        """Its `@reason` or `@description` annotation: what to tell the person who is refused."""
        return self.tree.annotations.get("reason") or self.tree.annotations.get("description") or ""


@dataclass(frozen=True)
class PolicySet:
    """Validated policies, in file and text order. Compare by `digest`."""

    policies: tuple[Policy, ...]

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> PolicySet:
        """Parse and validate files, given as name -> Cedar text.

        Raises:
            PolicyTextError: with a finding for every mistake in every file.
        """
        policies: list[Policy] = []
        findings: list[Finding] = []
        owners: dict[str, Policy] = {}
        for file in sorted(texts):
            for index, (line, text) in enumerate(split(texts[file])):
                found = _parse_one(file, index, line, text)
                if isinstance(found, Finding):
                    findings.append(found)
                    continue
                if found.id in owners:
                    first = owners[found.id]
                    what = f"the id {found.id!r} is already used at {first.file}:{first.line}"
                    findings.append(Finding(file, line, what, "give each policy its own @id"))
                owners[found.id] = found
                policies.append(found)
                findings += [Finding(file, line, what, _hint(what)) for what in map(_plain, engine.validate(text))]
        if findings:
            raise PolicyTextError(tuple(findings))
        return cls(tuple(policies))

    def handle(self, action: str) -> engine.Handle:
        """Those that cover an action, prepared for Cedar under our ids."""
        return engine.build({policy.id: policy.tree for policy in self.policies if policy.covers(action)})

    @cached_property
    def digest(self) -> str:
        """``sha256:`` over the canonical form: id and Cedar JSON of each policy, by id, and the schema's digest.

        Layout, comments and the order and names of files do not change it.
        """
        canonical = {policy.id: engine.to_json(policy.text)["staticPolicies"] for policy in self.policies}
        document = {"policies": canonical, "schema": schema_digest()}
        encoded = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return "sha256:" + hashlib.sha256(encoded.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.policies)

    def __add__(self, other: PolicySet) -> PolicySet:
        """Both sets. A site's own policies are added this way, so a forbid of either side holds.

        Raises PolicyError when an id is in both with different text.
        """
        mine = {policy.id: policy for policy in self.policies}
        for policy in other.policies:
            if policy.id in mine and mine[policy.id].text != policy.text:
                raise PolicyError(
                    f"policy id {policy.id!r} means two things", code="policy.duplicate-id", hint="rename one of them"
                )
        return PolicySet((*self.policies, *(p for p in other.policies if p.id not in mine)))


def schema_digest() -> str:
    """``sha256:`` of the vocabulary's text."""
    return "sha256:" + hashlib.sha256(engine.schema_text().encode()).hexdigest()


def _parse_one(file: str, index: int, line: int, text: str) -> Policy | Finding:
    try:
        tree = engine.parse(text)
    except ValueError as error:
        return Finding(file, line, str(error), "see https://docs.cedarpolicy.com/policies/syntax-grammar.html")
    if tree.templates:
        return Finding(file, line, "policy templates (?principal, ?resource) are not supported", "write the entity out")
    if len(tree.static_policies) != 1:
        return Finding(file, line, "expected one policy here", "end each policy with a semicolon")
    (template,) = tree.static_policies.values()
    identifier = template.annotations.get("id") or f"{file}:{index}"
    return Policy(identifier, file, line, text, replace(template, id=identifier))


def _plain(message: str) -> str:
    return message.removeprefix("for policy `policy0`, ")


def _hint(message: str) -> str:
    if "not found" in message or "unrecognized" in message:
        return "the names that exist are in docs/reference/policy-vocabulary.md"
    if "optional" in message:
        return "test it first with `has`"
    return "types are in docs/reference/policy-vocabulary.md"


def split(text: str) -> Iterator[tuple[int, str]]:
    """(line of its first token, text) of each policy: Cedar text cut at the semicolons outside strings and comments."""
    start, at, line, first_line = 0, 0, 1, 0
    while at < len(text):
        char = text[at]
        if char == '"':
            end = _string_end(text, at)
        elif text.startswith("//", at):
            newline = text.find("\n", at)
            end = len(text) if newline < 0 else newline
            if not first_line:
                at = end
                continue
        else:
            end = at + 1
        if not first_line and not char.isspace():
            first_line, start = line, at
        line += text.count("\n", at, end)
        at = end
        if char == ";":
            yield first_line, text[start:at]
            start, first_line = at, 0
    if first_line:
        yield first_line, text[start:]


def _string_end(text: str, start: int) -> int:
    at = start + 1
    while at < len(text) and text[at] != '"':
        at += 2 if text[at] == "\\" else 1
    return min(at + 1, len(text))
