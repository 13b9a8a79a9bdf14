"""Every operating error this package raises.

A refusal (a denied request, an infeasible plan) is a value, not one of these. A programmer's mistake raises
`TypeError`, `ValueError` or `AssertionError` as usual.

    IsochroneError
    ├── InputError              a document, argument or file that a person must mend
    │   └── DocumentError       a document with one or more located mistakes (`.findings`)
    ├── IntegrityError          something signed, hashed or sequenced does not verify
    ├── AuthorityError          a delegation chain, grant or identity is not good
    ├── PolicyError             a policy cannot be parsed, validated, compiled or evaluated
    ├── PlanError               the optimiser gave no usable answer (a defect or a limit; not "infeasible")
    ├── StorageError            a store refused a write, is full, or is damaged
    ├── ProcessError            a supervised child process could not start, died, or never became ready
    └── PeerError               another party (bus, site, hub, model server) did not answer or answered wrongly
"""

from __future__ import annotations

__all__ = [
    "AuthorityError",
    "InputError",
    "IntegrityError",
    "IsochroneError",
    "PeerError",
    "PlanError",
    "PolicyError",
    "ProcessError",
    "StorageError",
]


class IsochroneError(Exception):
    """An operating error: `code` is stable and for machines, `hint` says what to do next.

    Args:
        message: what is wrong, in one sentence, naming the thing.
        code: stable identifier, `area.problem` in kebab case, e.g. ``tlog.rollback``.
        hint: what the reader can do about it; empty when nothing useful can be said.
    """

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.hint = hint


class InputError(IsochroneError):
    """Something a person wrote or chose must be mended."""

    code = "input"


class IntegrityError(IsochroneError):
    """A signature, hash, proof or sequence does not verify: treat the data as hostile."""

    code = "integrity"


class AuthorityError(IsochroneError):
    """A delegation chain, grant, key or identity is not good."""

    code = "authority"


class PolicyError(IsochroneError):
    """A policy cannot be parsed, validated, compiled or evaluated; the verdict is then Deny."""

    code = "policy"


class PlanError(IsochroneError):
    """The optimiser ended without a usable answer (limit, numerical trouble); never a silent empty plan."""

    code = "plan"


class StorageError(IsochroneError):
    """A store refused a write, is full, or holds damaged data."""

    code = "storage"


class ProcessError(IsochroneError):
    """A supervised process could not start, died, or never became ready."""

    code = "process"


class PeerError(IsochroneError):
    """Another party did not answer, or answered what it must not."""

    code = "peer"
