"""Laws of formulas, patterns and the solver, against brute force over small alphabets."""

from __future__ import annotations

import itertools
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from isochrone.policy import formula as f
from isochrone.policy.native import regex_quote
from isochrone.policy.solve import satisfy, witnesses

A, B = f.Fact("a", "x-a"), f.Fact("b", "x-b")
N = f.Fact("n", "x-n", domain=("1", "2", "3"))
TEXTS = ["".join(t) for n in range(4) for t in itertools.product("xyz", repeat=n)]
pieces = st.lists(st.one_of(st.none(), st.text("xy", min_size=1, max_size=2)), min_size=1, max_size=4).map(tuple)


def literal() -> st.SearchStrategy[f.Formula]:
    values = st.frozensets(st.sampled_from(["x", "y", "xy", "yx"]), min_size=1, max_size=3)
    return st.one_of(
        st.builds(f.is_in, st.sampled_from([A, B]), values, st.booleans()),
        st.builds(f.is_in, st.just(N), st.frozensets(st.sampled_from("123")), st.booleans()),
        st.builds(f.like, st.sampled_from([A, B]), pieces),
        st.just(f.same(A, B)),
        st.sampled_from([f.TRUE, f.FALSE]),
    )


def formulas() -> st.SearchStrategy[tuple[f.Formula, object]]:
    """A formula beside the same thing unsimplified: nested (operator, operands), to be judged by brute force."""
    leaf = literal().map(lambda x: (x, x))

    def grow(children: st.SearchStrategy[tuple[f.Formula, object]]) -> st.SearchStrategy[tuple[f.Formula, object]]:
        two = st.tuples(children, children)
        return st.one_of(
            two.map(lambda p: (f.conj(p[0][0], p[1][0]), ("and", p[0][1], p[1][1]))),
            two.map(lambda p: (f.disj(p[0][0], p[1][0]), ("or", p[0][1], p[1][1]))),
            two.map(lambda p: (f.iff(p[0][0], p[1][0]), ("iff", p[0][1], p[1][1]))),
            children.map(lambda c: (f.negate(c[0]), ("not", c[1]))),
        )

    return st.recursive(leaf, grow, max_leaves=6)


def holds(tree: object, facts: dict[str, str]) -> bool:
    match tree:
        case ("and", left, right):
            return holds(left, facts) and holds(right, facts)
        case ("or", left, right):
            return holds(left, facts) or holds(right, facts)
        case ("iff", left, right):
            return holds(left, facts) == holds(right, facts)
        case ("not", inner):
            return not holds(inner, facts)
        case f.And(parts=parts):
            return all(holds(part, facts) for part in parts)
        case f.Or(parts=parts):
            return any(holds(part, facts) for part in parts)
        case f.Constant(value):
            return value
        case f.In(fact, values, negated):
            return (facts[fact.name] in values) is not negated
        case f.Like(fact, pattern, negated):
            regex = "".join(".*" if p is None else re.escape(p) for p in pattern)
            return bool(re.fullmatch(regex, facts[fact.name])) is not negated
        case f.Same(left, right, negated):
            return (facts[left.name] == facts[right.name]) is not negated
    raise AssertionError(tree)


@given(formulas(), st.sampled_from(TEXTS), st.sampled_from(TEXTS), st.sampled_from("123"))
@settings(max_examples=400, deadline=None)
def test_simplified_formulas_mean_what_they_were_made_of(
    made: tuple[f.Formula, object], a: str, b: str, n: str
) -> None:
    facts = {"a": a, "b": b, "n": n}
    assert holds(made[0], facts) is holds(made[1], facts)


@given(formulas())
@settings(max_examples=200, deadline=None)
def test_the_solver_finds_a_solution_exactly_when_there_is_one(made: tuple[f.Formula, object]) -> None:
    simplified, tree = made
    found = satisfy(simplified)
    if found is not None:
        assert holds(tree, {"a": "", "b": "q", "n": "1", **dict(found.facts)})
    else:
        texts = [text for text in TEXTS if text]
        assert not any(
            holds(tree, {"a": a, "b": b, "n": n}) for a, b, n in itertools.product(texts[::2], texts[::3], "123")
        )


@given(st.lists(pieces, min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_witnesses_cover_every_class_of_strings(patterns: list[f.Pattern]) -> None:
    covered = {tuple(f.matches(p, w) for p in patterns) for w in witnesses(patterns)}
    assert {tuple(f.matches(p, text) for p in patterns) for text in TEXTS if text} <= covered


@given(pieces, st.text("xyz", max_size=6))
@settings(max_examples=400, deadline=None)
def test_patterns_match_as_cedar_defines(pattern: f.Pattern, text: str) -> None:
    regex = "".join(".*" if piece is None else re.escape(piece) for piece in pattern)
    assert f.matches(pattern, text) is bool(re.fullmatch(regex, text))


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20))
def test_quoted_text_matches_only_itself(text: str) -> None:
    quoted = regex_quote(text)
    assert re.fullmatch(quoted, text, re.DOTALL)
    assert not re.fullmatch(quoted, text + "x")
