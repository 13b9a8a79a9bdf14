"""Trust policies (https://c2sp.org/tlog-policy): which logs are trusted, and which witnesses must have cosigned.

log <vkey> [<url>]
witness <name> <vkey> [<url>]
group <name> all|any|<k> <member>...
quorum <name>|none
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from isochrone.errors import InputError, IntegrityError
from isochrone.tlog.checkpoint import Checkpoint
from isochrone.tlog.cosignature import note_verifier
from isochrone.tlog.note import Note, NoteVerifier, parse_vkey

__all__ = ["Group", "TrustPolicy", "policy_text"]

NONE = "none"


@dataclass(frozen=True, slots=True)
class Group:
    """At least `threshold` of `members` (names of witnesses or groups) must have cosigned."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """Trusted logs, named witnesses and groups, and the name of the one that must have cosigned ("none": nobody)."""

    logs: tuple[NoteVerifier, ...]
    witnesses: Mapping[str, NoteVerifier] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    quorum: str = NONE

    @staticmethod
    def parse(text: str) -> TrustPolicy:
        """Raises InputError (``tlog.policy``) that names the line to mend."""
        return _Parser().parse(text)

    def verify(self, signed: bytes, origin: str | None = None) -> Checkpoint:
        """The checkpoint in `signed`, if a trusted log signed it and the quorum cosigned it.

        The signing key's name must be the origin line, as tlog-policy demands.

        Raises:
            IntegrityError: ``tlog.signature``, ``tlog.origin``, ``tlog.quorum``, or the note is malformed.
        """
        checkpoint = Checkpoint.parse_and_verify(signed, *self.logs, origin=origin)
        note = Note.parse(signed)
        if checkpoint.origin not in {signature.name for signature in note.verified(self.logs)}:
            raise IntegrityError(
                f"the key that signed is not one of {checkpoint.origin!r}",
                code="tlog.origin",
                hint="The key name must be the origin line.",
            )
        cosigned = self.cosigned_by(note)
        if not self._met(self.quorum, cosigned):
            raise IntegrityError(
                f"the checkpoint of {checkpoint.origin} at {checkpoint.size} is cosigned by "
                f"{', '.join(sorted(cosigned)) or 'nobody'}, which does not meet the quorum {self.quorum!r}",
                code="tlog.quorum",
                hint="Wait for more witnesses, or fetch a checkpoint that more of them have cosigned.",
            )
        return checkpoint

    def cosigned_by(self, note: Note) -> frozenset[str]:
        """The names of the witnesses whose cosignature is on `note`; raises IntegrityError when one is forged."""
        good = {(s.name, s.key_id) for s in note.valid(self.witnesses.values())}
        return frozenset(name for name, w in self.witnesses.items() if (w.name, w.key_id) in good)

    def is_met(self, note: Note) -> bool:
        """Whether the quorum has cosigned `note`; raises IntegrityError when a cosignature is forged."""
        return self._met(self.quorum, self.cosigned_by(note))

    def _met(self, name: str, cosigned: frozenset[str]) -> bool:
        if name == NONE:
            return True
        group = self.groups.get(name)
        if group is None:
            return name in cosigned
        return sum(self._met(member, cosigned) for member in group.members) >= group.threshold


class _Parser:
    """Reads a policy line by line; a name can only be used after the line that defines it, so no cycle can arise."""

    def __init__(self) -> None:
        self.logs: list[NoteVerifier] = []
        self.witnesses: dict[str, NoteVerifier] = {}
        self.groups: dict[str, Group] = {}
        self.quorum: str | None = None
        self._keys: dict[str, set[bytes]] = {"log": set(), "witness": set()}
        self._grouped: set[str] = set()

    def parse(self, text: str) -> TrustPolicy:
        handlers = {"log": self._log, "witness": self._witness, "group": self._group, "quorum": self._quorum}
        for number, line in enumerate(text.split("\n"), 1):
            words = [word for word in line.replace("\t", " ").split(" ") if word]
            if not words or words[0].startswith("#"):
                continue
            handler = handlers.get(words[0])
            try:
                if handler is None:
                    raise InputError(f"{words[0]!r} is not log, witness, group or quorum")
                handler(words[1:])
            except InputError as error:
                raise _bad_policy(f"line {number} of the policy: {error}") from error
        if self.quorum is None:
            raise _bad_policy("the policy has no quorum line")
        return TrustPolicy(tuple(self.logs), self.witnesses, self.groups, self.quorum)

    def _key(self, kind: str, vkey: str) -> NoteVerifier:
        public = parse_vkey(vkey)[2]
        if public in self._keys[kind]:
            raise InputError(f"this {kind} key is listed twice")
        self._keys[kind].add(public)
        return note_verifier(vkey)

    def _log(self, words: Sequence[str]) -> None:
        if len(words) not in (1, 2):
            raise InputError("expected: log <vkey> [<url>]")
        self.logs.append(self._key("log", words[0]))

    def _witness(self, words: Sequence[str]) -> None:
        if len(words) not in (2, 3):
            raise InputError("expected: witness <name> <vkey> [<url>]")
        self._define(words[0])
        self.witnesses[words[0]] = self._key("witness", words[1])

    def _group(self, words: Sequence[str]) -> None:
        if len(words) < 3:
            raise InputError("expected: group <name> all|any|<k> <member>...")
        name, rule, *members = words
        self._define(name)
        for member in members:
            if member not in self.witnesses and member not in self.groups:
                raise InputError(f"{member!r} is not defined above")
            if member in self._grouped:
                raise InputError(f"{member!r} is a member of a group already")
            self._grouped.add(member)
        threshold = {"any": 1, "all": len(members)}.get(rule) or (int(rule) if rule.isascii() and rule.isdigit() else 0)
        if not 1 <= threshold <= len(members):
            raise InputError(f"the threshold {rule!r} is not all, any, or 1 to {len(members)}")
        self.groups[name] = Group(threshold, tuple(members))

    def _quorum(self, words: Sequence[str]) -> None:
        if len(words) != 1 or self.quorum is not None:
            raise InputError("expected exactly one line: quorum <name>|none")
        if words[0] != NONE and words[0] not in self.witnesses and words[0] not in self.groups:
            raise InputError(f"{words[0]!r} is not defined above")
        self.quorum = words[0]

    def _define(self, name: str) -> None:
        if name == NONE or name in self.witnesses or name in self.groups:
            raise InputError(f"the name {name!r} is taken")


def policy_text(log_vkey: str, witnesses: Mapping[str, str], quorum: int) -> str:
    """The policy that trusts one log when at least `quorum` of `witnesses` (name to verifier key) have cosigned."""
    lines = [f"log {log_vkey}", *(f"witness {name} {vkey}" for name, vkey in sorted(witnesses.items()))]
    if quorum:
        lines.append(f"group witnesses {quorum} {' '.join(sorted(witnesses))}")
    return "\n".join([*lines, f"quorum {'witnesses' if quorum else NONE}", ""])


def _bad_policy(message: str) -> InputError:
    return InputError(message, code="tlog.policy", hint="See https://c2sp.org/tlog-policy for the format.")
