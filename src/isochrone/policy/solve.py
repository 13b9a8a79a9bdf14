"""Is a formula over facts satisfiable, and by which facts? Exact: a finite set of representatives decides.

The literals of one fact (constants, `like` patterns) cut its strings into finitely many classes; one string of each
class is enough. The classes that exist are found by running all patterns side by side as automata. Facts that are
compared with each other share their classes, with as many strings of each class as there are facts. The search splits
the narrowest alternation until only literals are left, using the sets that facts are already confined to wherever they
occur (unit propagation: Davis, Logemann and Loveland 1962); then it picks representatives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from isochrone.errors import PolicyError
from isochrone.policy.formula import (
    FALSE,
    TRUE,
    And,
    Constant,
    Fact,
    Formula,
    In,
    Like,
    Literal,
    Opaque,
    Or,
    Pattern,
    Same,
    conj,
    literals,
    matches,
    negate,
    substitute,
)
from isochrone.policy.vocabulary import FACT_MAX_BYTES, malformed_fact

__all__ = ["Solution", "satisfy"]

STATES_MAX = 5_000
"""Joint automaton states explored before a set of patterns is called too complex."""


@dataclass(frozen=True, slots=True)
class Solution:
    """Facts that satisfy a formula; `assumed` are the conditions no fact carries that were taken to hold or not."""

    facts: tuple[tuple[str, str], ...]
    assumed: tuple[tuple[str, bool], ...] = ()


def satisfy(formula: Formula, only: Mapping[str, Sequence[str]] | None = None) -> Solution | None:
    """Some facts that make `formula` true, or None when there are none.

    `only` restricts facts, by name, to listed values (the contracts that exist, say). Raises PolicyError when the
    patterns are too complex to decide.
    """
    return _split(formula, _representatives(formula, only or {}))


Facts = tuple[tuple[str, str], ...]
Assumed = tuple[tuple[str, bool], ...]


def _split(formula: Formula, choices: Mapping[Fact, Sequence[str]]) -> Solution | None:
    """Try the alternatives of the narrowest alternation; without any, pick facts."""
    formula = _propagate(formula)
    if formula == FALSE:
        return None
    parts = formula.parts if isinstance(formula, And) else (formula,)
    alternations = [part for part in parts if isinstance(part, Or)]
    if not alternations:
        return _search(formula, choices, (), ())
    narrowest = min(alternations, key=lambda part: len(part.parts))
    rest = [part for part in parts if part is not narrowest]
    return next((s for part in narrowest.parts if (s := _split(conj(part, *rest), choices))), None)


def _propagate(formula: Formula) -> Formula:
    """Use the literals that must hold on all other parts, until nothing changes."""
    while isinstance(formula, And):
        confined = {part.fact: part for part in formula.parts if isinstance(part, In)}
        decided = {part for part in formula.parts if isinstance(part, Like | Same | Opaque)}
        if not confined and not decided:
            return formula
        decide = partial(_decide, confined=confined, decided=decided)
        wider = [part for part in formula.parts if isinstance(part, And | Or)]
        units = [part for part in formula.parts if not isinstance(part, And | Or)]
        narrowed = conj(*units, *(substitute(part, decide) for part in wider))
        if narrowed == formula:
            return formula
        formula = narrowed
    return formula


def _decide(literal: Literal, confined: Mapping[Fact, In], decided: set[Like | Same | Opaque]) -> Formula:
    if not isinstance(literal, In):
        return TRUE if literal in decided else FALSE if negate(literal) in decided else literal
    known = confined.get(literal.fact)
    if known is None:
        return literal
    if conj(known, literal) == FALSE:
        return FALSE
    return TRUE if conj(known, negate(literal)) == FALSE else literal


def _search(formula: Formula, choices: Mapping[Fact, Sequence[str]], facts: Facts, assumed: Assumed) -> Solution | None:
    if isinstance(formula, Constant):
        return Solution(facts, assumed) if formula.value else None
    literal = _branching(formula, choices)
    if isinstance(literal, Opaque):
        for value in (True, False):
            rest = substitute(formula, partial(_assume, text=literal.text, value=value))
            if found := _search(rest, choices, facts, (*assumed, (literal.text, value))):
                return found
        return None
    fact = literal.left if isinstance(literal, Same) else literal.fact
    for text in choices[fact]:
        rest = substitute(formula, partial(_assign, fact=fact, text=text))
        if rest != FALSE and (found := _search(rest, choices, (*facts, (fact.name, text)), assumed)):
            return found
    return None


def _branching(formula: Formula, choices: Mapping[Fact, Sequence[str]]) -> Literal:
    """The literal whose fact has the fewest choices; opaque conditions last."""

    def width(literal: Literal) -> int:
        if isinstance(literal, Opaque):
            return 1 << 30
        return len(choices[literal.left if isinstance(literal, Same) else literal.fact])

    return min(literals(formula), key=width)


def _assume(literal: Literal, text: str, value: bool) -> Formula:
    if isinstance(literal, Opaque) and literal.text == text:
        return Constant(value is not literal.negated)
    return literal


def _assign(literal: Literal, fact: Fact, text: str) -> Formula:
    match literal:
        case In(f, values, negated) if f == fact:
            return Constant((text in values) is not negated)
        case Like(f, pattern, negated) if f == fact:
            return Constant(matches(pattern, text) is not negated)
        case Same(left, right, negated) if fact in (left, right):
            return In(right if left == fact else left, frozenset([text]), negated)
        case _:
            return literal


def _representatives(formula: Formula, only: Mapping[str, Sequence[str]]) -> dict[Fact, Sequence[str]]:
    """Per fact, one string of each class its literals tell apart."""
    groups: dict[Fact, set[Fact]] = {}
    predicates: dict[Fact, set[Pattern]] = {}
    for literal in literals(formula):
        match literal:
            case In(fact, values):
                predicates.setdefault(fact, set()).update((value,) for value in values)
            case Like(fact, pattern):
                predicates.setdefault(fact, set()).add(pattern)
            case Same(left, right):
                joined = groups.get(left, {left}) | groups.get(right, {right})
                groups.update(dict.fromkeys(joined, joined))
                for fact in (left, right):
                    predicates.setdefault(fact, set())
            case _:
                pass
    found: dict[Fact, Sequence[str]] = {}
    for fact in predicates:
        group = groups.get(fact, {fact})
        asked = set().union(*(predicates[other] for other in group))
        found[fact] = only.get(fact.name) or fact.domain or tuple(witnesses(asked, copies=len(group)))
    return found


def witnesses(predicates: Iterable[Pattern], *, copies: int = 1) -> Iterator[str]:
    """Well-formed strings: for every combination of predicates that some string satisfies, `copies` of them."""
    patterns = sorted(predicates, key=repr)
    if all(None not in pattern for pattern in patterns):
        constants = ["".join(piece or "" for piece in pattern) for pattern in patterns]
        yield from (constant for constant in constants if not malformed_fact(constant))
        yield from [
            name for name in (f"any-other-{n}" for n in range(copies + len(constants))) if name not in constants
        ][:copies]
        return
    yield from _explore(patterns, copies)


def _explore(patterns: Sequence[Pattern], copies: int) -> Iterator[str]:
    """Breadth-first over the joint automaton: shortest strings first."""
    steps = [_steps(pattern) for pattern in patterns]
    alphabet = sorted({char for step in steps for char in step if char is not None and char >= " "} - {",", "\x7f"})
    alphabet += _fresh(alphabet, copies)
    start = tuple(_close(step, {0}) for step in steps)
    visits: dict[object, int] = {}
    kept: dict[tuple[bool, ...], int] = {}
    queue = deque([("", start)])
    while queue:
        text, state = queue.popleft()
        if len(visits) > STATES_MAX:
            raise PolicyError(
                "too many `like` patterns on one fact to decide",
                code="policy.too-complex",
                hint="use fewer or shorter patterns, or equality",
            )
        accepts = tuple(len(step) in places for step, places in zip(steps, state, strict=True))
        if kept.get(accepts, 0) < copies and not malformed_fact(text):
            kept[accepts] = kept.get(accepts, 0) + 1
            yield text
        if len(text.encode()) >= FACT_MAX_BYTES:
            continue
        for char in alphabet:
            following = tuple(_move(step, places, char) for step, places in zip(steps, state, strict=True))
            # A trailing blank makes a string malformed, so it is part of the state.
            key = (following, char == " ", bool(text))
            if visits.get(key, 0) < copies and (text or char != " "):
                visits[key] = visits.get(key, 0) + 1
                queue.append((text + char, following))


def _steps(pattern: Pattern) -> list[str | None]:
    return [char for piece in pattern for char in ([None] if piece is None else piece)]


def _close(step: Sequence[str | None], places: set[int]) -> frozenset[int]:
    """Places reachable without reading: a wildcard may match nothing."""
    closed = set(places)
    for place in sorted(places):
        while place < len(step) and step[place] is None:
            place += 1
            closed.add(place)
    return frozenset(closed)


def _move(step: Sequence[str | None], places: frozenset[int], char: str) -> frozenset[int]:
    after = {place for place in places if place < len(step) and step[place] is None}
    after |= {place + 1 for place in places if place < len(step) and step[place] == char}
    return _close(step, after)


def _fresh(alphabet: Sequence[str], count: int) -> list[str]:
    candidates = (chr(code) for code in (*range(ord("a"), ord("z") + 1), *range(0x100, 0x200)))
    return [char for char in candidates if char not in alphabet][:count]
