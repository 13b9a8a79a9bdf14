"""Boolean formulas over the facts of a request: what a policy leaves open once the site is known.

Formulas are kept in negation normal form (only literals are negated) and lightly simplified by the constructors
`conj`, `disj` and `negate`; use those, not the classes. A fact is a string: entity ids are compared as strings because
each fact has one entity type, and small integers are compared as their decimal text (`Fact.domain` lists them all).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

__all__ = [
    "FALSE",
    "FORMULA_TYPES",
    "TRUE",
    "And",
    "Constant",
    "Fact",
    "Formula",
    "In",
    "Like",
    "Literal",
    "Opaque",
    "Or",
    "Pattern",
    "Same",
    "TooLargeError",
    "bound",
    "conj",
    "depth_of",
    "disj",
    "facts_of",
    "iff",
    "is_in",
    "like",
    "literals",
    "matches",
    "negate",
    "same",
    "size_of",
    "substitute",
]

SIZE_MAX = 20_000
"""Literals in one formula. Equivalences of equivalences double with each level; this stops them."""

Pattern = tuple[str | None, ...]
"""A `like` pattern: literal pieces, with None where any run of characters may stand."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact about a request.

    `header` is the request header that carries it ("" when Envoy computes it itself), `domain` all its values in order
    when they are few and fixed, `entity_type` its Cedar entity type when it names an entity.
    """

    name: str
    header: str = field(default="", compare=False)
    domain: tuple[str, ...] = field(default=(), compare=False)
    entity_type: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Constant:
    value: bool


TRUE = Constant(True)
FALSE = Constant(False)


@dataclass(frozen=True, slots=True)
class In:
    """`fact` is (or, `negated`, is not) one of `values`. Never negated for a fact with a domain."""

    fact: Fact
    values: frozenset[str]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Like:
    fact: Fact
    pattern: Pattern
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Same:
    """Two facts have the same text."""

    left: Fact
    right: Fact
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Opaque:
    """A condition we cannot express over facts; `why` says which and why. Equal texts are the same condition."""

    text: str
    why: str
    negated: bool = False


@dataclass(frozen=True, slots=True)
class And:
    """All of `parts`, of which there are at least two, none of them an And. `size` is the number of literals."""

    parts: tuple[Formula, ...]
    size: int = field(compare=False)
    depth: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Or:
    """Any of `parts`, of which there are at least two, none of them an Or. `size` is the number of literals."""

    parts: tuple[Formula, ...]
    size: int = field(compare=False)
    depth: int = field(compare=False)


class TooLargeError(Exception):
    """A formula grew beyond `SIZE_MAX` literals; caught where one policy's residual is computed."""


Literal = In | Like | Same | Opaque
Formula = Constant | Literal | And | Or
FORMULA_TYPES = (Constant, In, Like, Same, Opaque, And, Or)


def is_in(fact: Fact, values: Iterable[str], negated: bool = False) -> Formula:
    """The literal, normalised: complements inside a finite domain, and constants where nothing is left open."""
    chosen = frozenset(values)
    if fact.domain:
        chosen = frozenset(fact.domain) - chosen if negated else chosen & frozenset(fact.domain)
        negated = False
        if len(chosen) == len(fact.domain):
            return TRUE
    if not chosen:
        return TRUE if negated else FALSE
    return In(fact, chosen, negated)


def like(fact: Fact, pattern: Pattern) -> Formula:
    """`fact like pattern`, as set membership where the pattern has no wildcard or the domain is finite."""
    if fact.domain:
        return is_in(fact, (value for value in fact.domain if matches(pattern, value)))
    if None not in pattern:
        return is_in(fact, ["".join(piece for piece in pattern if piece is not None)])
    return TRUE if set(pattern) == {None} else Like(fact, pattern)


def same(left: Fact, right: Fact) -> Formula:
    """Whether two facts are equal; ordered so that the same question is the same literal."""
    if left == right:
        return TRUE
    first, second = sorted((left, right), key=lambda fact: fact.name)
    return Same(first, second)


def matches(pattern: Pattern, text: str) -> bool:
    """Whether `text` matches, by greedy search for each piece after the first wildcard (Cedar `like`)."""
    pieces = [""]
    for piece in pattern:
        if piece is None:
            pieces.append("")
        else:
            pieces[-1] += piece
    if len(pieces) == 1:
        return text == pieces[0]
    first, *middle, last = pieces
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in middle:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def negate(formula: Formula) -> Formula:
    """Not `formula`, in negation normal form."""
    match formula:
        case Constant(value):
            return FALSE if value else TRUE
        case And(parts=parts):
            return disj(*(negate(part) for part in parts))
        case Or(parts=parts):
            return conj(*(negate(part) for part in parts))
        case In(fact, values, negated):
            return is_in(fact, values, not negated)
        case Like(fact, pattern, negated):
            return Like(fact, pattern, not negated)
        case Same(left, right, negated):
            return Same(left, right, not negated)
        case Opaque(text, why, negated):
            return Opaque(text, why, not negated)


def conj(*parts: Formula) -> Formula:
    """All of `parts`."""
    return _join(parts, And, TRUE, FALSE, _both)


def disj(*parts: Formula) -> Formula:
    """Any of `parts`."""
    return _join(parts, Or, FALSE, TRUE, _either)


def iff(left: Formula, right: Formula) -> Formula:
    return disj(conj(left, right), conj(negate(left), negate(right)))


def _join(
    parts: Iterable[Formula],
    kind: type[And] | type[Or],
    neutral: Constant,
    absorbing: Constant,
    merge: Callable[[In, In], Formula],
) -> Formula:
    sets: dict[Fact, Formula] = {}
    others: dict[Formula, None] = {}
    for part in _flat(parts, kind):
        if part == absorbing:
            return absorbing
        if part == neutral:
            continue
        if isinstance(part, In):
            known = sets.get(part.fact)
            joined = merge(known, part) if isinstance(known, In) else part
            if joined == absorbing:
                return absorbing
            sets[part.fact] = joined
        else:
            others[part] = None
    # A literal and its opposite: only for literals, where the test is one dictionary lookup.
    if any(negate(part) in others for part in others if isinstance(part, Like | Same | Opaque)):
        return absorbing
    left = [*(part for part in sets.values() if part != neutral), *others]
    if not left:
        return neutral
    if len(left) == 1:
        return left[0]
    size = sum(map(size_of, left))
    if size > SIZE_MAX:
        raise TooLargeError(f"more than {SIZE_MAX} conditions")
    return kind(tuple(left), size, 1 + max(map(depth_of, left)))


def size_of(formula: Formula) -> int:
    """The number of literals."""
    return formula.size if isinstance(formula, And | Or) else 1


def depth_of(formula: Formula) -> int:
    """How many `and` and `or` are nested."""
    return formula.depth if isinstance(formula, And | Or) else 0


def _flat(parts: Iterable[Formula], kind: type[And] | type[Or]) -> Iterator[Formula]:
    for part in parts:
        if isinstance(part, kind):
            yield from part.parts
        else:
            yield part


def _both(left: In, right: In) -> Formula:
    match left.negated, right.negated:
        case False, False:
            return is_in(left.fact, left.values & right.values)
        case False, True:
            return is_in(left.fact, left.values - right.values)
        case True, False:
            return is_in(left.fact, right.values - left.values)
        case _:
            return is_in(left.fact, left.values | right.values, True)


def _either(left: In, right: In) -> Formula:
    return negate(_both(_flip(left), _flip(right)))


def _flip(literal: In) -> In:
    return In(literal.fact, literal.values, not literal.negated)


def bound(formula: Formula, *, upper: bool) -> Formula:
    """The weakest (`upper`) or strongest formula without opaque conditions that is implied by / implies `formula`."""
    match formula:
        case Opaque():
            return TRUE if upper else FALSE
        case And(parts=parts):
            return conj(*(bound(part, upper=upper) for part in parts))
        case Or(parts=parts):
            return disj(*(bound(part, upper=upper) for part in parts))
        case _:
            return formula


def literals(formula: Formula) -> Iterator[Literal]:
    """Every literal, left to right, with repeats."""
    match formula:
        case And(parts=parts) | Or(parts=parts):
            for part in parts:
                yield from literals(part)
        case Constant():
            return
        case _:
            yield formula


def facts_of(formula: Formula) -> frozenset[Fact]:
    """The facts a formula reads."""
    return frozenset(fact for literal in literals(formula) for fact in _facts(literal))


def _facts(literal: Literal) -> tuple[Fact, ...]:
    match literal:
        case Same(left, right):
            return (left, right)
        case Opaque():
            return ()
        case _:
            return (literal.fact,)


def substitute(formula: Formula, decide: Callable[[Literal], Formula]) -> Formula:
    """The formula with every literal replaced by `decide(literal)`."""
    match formula:
        case And(parts=parts):
            return conj(*(substitute(part, decide) for part in parts))
        case Or(parts=parts):
            return disj(*(substitute(part, decide) for part in parts))
        case Constant():
            return formula
        case _:
            return decide(formula)
