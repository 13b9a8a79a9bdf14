"""Specialise a Cedar policy: with the site and all stored entities known, what remains is a formula over request facts.

This is partial evaluation of Cedar's expression semantics (https://docs.cedarpolicy.com/policies/syntax-operators.html)
over the syntax tree, done here rather than with Cedar's experimental partial evaluator because the compiler must also
know *when a policy errs*: Cedar skips a policy that errors, we deny, so every result carries its error condition.
Integer facts have few values, so arithmetic and comparison on them become a case per value and stay exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass

from isochrone.policy import operators
from isochrone.policy.attributes import attribute, has
from isochrone.policy.engine import pst
from isochrone.policy.environment import Environment
from isochrone.policy.formula import (
    FALSE,
    FORMULA_TYPES,
    TRUE,
    Constant,
    Fact,
    Formula,
    Literal,
    Opaque,
    TooLargeError,
    conj,
    disj,
    facts_of,
    is_in,
    literals,
    negate,
)
from isochrone.policy.policies import Policy
from isochrone.policy.values import (
    Cases,
    FactUid,
    Known,
    Members,
    Record,
    Result,
    Uid,
    Unknown,
    Value,
    combine,
    each,
    either_error,
    merge,
    spread,
    truth,
    unknown,
)
from isochrone.policy.vocabulary import FACTS

__all__ = ["Residual", "describe", "evaluate", "member", "specialise"]


@dataclass(frozen=True, slots=True)
class Residual:
    """What is left of one policy: `applies` when it fires, `error` when evaluating it fails."""

    policy: Policy
    applies: Formula
    error: Formula

    def as_opaque(self, why: str) -> Residual:
        """The same policy, left as a whole to the external authorizer."""
        name = self.policy.id
        return Residual(self.policy, Opaque(f"policy {name}", why), Opaque(f"error in policy {name}", why))

    @property
    def is_opaque(self) -> bool:
        """Whether nothing of it is left to the proxy."""
        return isinstance(self.applies, Opaque | Constant) and isinstance(self.error, Opaque | Constant)

    @property
    def literals(self) -> tuple[Literal, ...]:
        """Every literal of both."""
        return (*literals(self.applies), *literals(self.error))

    @property
    def facts(self) -> frozenset[Fact]:
        """Every fact that either reads."""
        return facts_of(self.applies) | facts_of(self.error)


def specialise(policy: Policy, env: Environment) -> Residual:
    """What `policy` comes to in `env`. One that is too large for a proxy is opaque as a whole."""
    try:
        return _specialise(policy, env)
    except TooLargeError as error:
        return Residual(policy, FALSE, FALSE).as_opaque(f"has {error}")


def _specialise(policy: Policy, env: Environment) -> Residual:
    tree = policy.tree
    applies: Formula = Constant(policy.covers(env.action))
    error: Formula = FALSE
    for variable, constraint in ((env.principal, tree.principal), (env.resource, tree.resource)):
        if applies != FALSE:
            applies = conj(applies, _scope(variable, constraint, env))
    for clause in tree.clauses:
        if applies != FALSE:
            result = evaluate(clause.expr, env)
            holds = _truth(result.value, clause.expr)
            error = disj(error, conj(applies, result.error))
            applies = conj(applies, holds if isinstance(clause, pst.When) else negate(holds))
    return Residual(policy, conj(applies, negate(error)), error)


def _scope(variable: Value, constraint: pst.PrincipalOrResourceConstraint, env: Environment) -> Formula:
    match constraint:
        case pst.ScopeEq(pst.EntityUid() as entity):
            return operators.equals(variable, _known(entity), str(entity))
        case pst.ScopeIn(pst.EntityUid() as entity):
            return member(variable, _known(entity), env, f"in {entity}")
        case pst.ScopeIs(kind):
            return operators.has_type(variable, str(kind))
        case pst.ScopeIsIn(kind, pst.EntityUid() as entity):
            inside = member(variable, _known(entity), env, f"in {entity}")
            return conj(operators.has_type(variable, str(kind)), inside)
        case _:
            return TRUE


def _known(entity: pst.EntityUid) -> Known:
    return Known(Uid(str(entity.type), entity.id))


def evaluate(expr: pst.Expr, env: Environment) -> Result:
    """The value of an expression and when it errs. Equal subexpressions are evaluated once per environment."""
    found = env.shared.get(id(expr))
    if found is None:
        # Whether it reads the resource is found out once, not once per site.
        found = env.shared[id(expr)] = (expr, None if reads_resource(expr) else _evaluate(expr, env))
    if found[1] is not None:
        return found[1]
    mine = env.cache.get(id(expr))
    if mine is None:
        mine = env.cache[id(expr)] = _evaluate(expr, env)
    return mine


def _truth(value: Value, expr: pst.Expr) -> Formula:
    return value if isinstance(value, FORMULA_TYPES) else truth(value, describe(expr))


def _evaluate(expr: pst.Expr, env: Environment) -> Result:
    match expr:
        case pst.BoolLit(value):
            return Result(Constant(value))
        case pst.LongLit(value) | pst.StringLit(value):
            return Result(Known(value))
        case pst.EntityLit(entity):
            return Result(_known(entity))
        case pst.Var(name):
            return Result(_variable(name, env))
        case pst.BinaryOp(op="and" | "or"):
            return _logic(expr, env)
        case pst.BinaryOp(op, left, right):
            return _binary(expr, op, evaluate(left, env), evaluate(right, env), env)
        case pst.UnaryOp(op, argument):
            return each(evaluate(argument, env), lambda value: operators.unary(op, value, describe(expr)))
        case pst.GetAttr(base, attr):
            return each(evaluate(base, env), lambda value: attribute(value, attr, env, describe(expr)))
        case pst.HasAttr(base, attrs):
            return has(evaluate(base, env), attrs, env, describe(expr))
        case pst.Like(base, pattern):
            return each(evaluate(base, env), lambda value: operators.like_pattern(value, pattern, describe(expr)))
        case pst.Is(base, kind, inside):
            within = None if inside is None else evaluate(inside, env)
            return _is(evaluate(base, env), str(kind), within, env, describe(expr))
        case pst.IfThenElse(condition, yes, no):
            return _choose(evaluate(condition, env), expr.cond, evaluate(yes, env), evaluate(no, env))
        case pst.Set(elements):
            return _collect([evaluate(element, env) for element in elements])
        case pst.Record(fields):
            results = {name: evaluate(value, env) for name, value in fields.items()}
            error = disj(*(result.error for result in results.values()))
            return Result(Record(pst.FrozenMap((name, result.value) for name, result in results.items())), error)
        case _:
            return _opaque(expr, "is not part of the compiled subset")


def _variable(name: str, env: Environment) -> Value:
    match name:
        case "principal":
            return env.principal
        case "resource":
            return env.resource
        case "context":
            return env.context
        case _:
            return Known(Uid("Action", env.action))


def _logic(expr: pst.BinaryOp, env: Environment) -> Result:
    """``&&`` and ``||``: the right side, and its errors, count only when the left side leaves it open."""
    left = evaluate(expr.left, env)
    first = _truth(left.value, expr.left)
    go_on = first if expr.op == "and" else negate(first)
    if go_on == FALSE:
        return Result(first, left.error)
    right = evaluate(expr.right, env)
    second = _truth(right.value, expr.right)
    joined = conj(first, second) if expr.op == "and" else disj(first, second)
    return Result(joined, disj(left.error, conj(go_on, right.error)))


def _binary(expr: pst.BinaryOp, op: str, left: Result, right: Result, env: Environment) -> Result:
    text = describe(expr)

    def apply(a: Value, b: Value) -> Result:
        return Result(member(a, b, env, text)) if op == "in" else operators.binary(op, a, b, text)

    return either_error(combine(left.value, right.value, apply, text), left.error, right.error)


def _is(result: Result, kind: str, inside: Result | None, env: Environment, text: str) -> Result:
    def typed(value: Value) -> Result:
        return Result(operators.has_type(value, kind))

    outcome = each(result, typed)
    if inside is None:
        return outcome
    right = truth(outcome.value, text)
    contained = combine(result.value, inside.value, lambda a, b: Result(member(a, b, env, text)), text)
    return Result(conj(right, truth(contained.value, text)), disj(outcome.error, conj(right, inside.error)))


def _choose(condition: Result, source: pst.Expr, yes: Result, no: Result) -> Result:
    holds = _truth(condition.value, source)
    fails = negate(holds)
    cases = [(conj(holds, c), v) for c, v in spread(yes.value)] + [(conj(fails, c), v) for c, v in spread(no.value)]
    return Result(merge(cases), disj(condition.error, conj(holds, yes.error), conj(fails, no.error)))


def _collect(results: list[Result]) -> Result:
    error = disj(*(result.error for result in results))
    known = [result.value.value for result in results if isinstance(result.value, Known)]
    if len(known) == len(results):
        return Result(Known(frozenset(k for k in known if not isinstance(k, frozenset))), error)
    return Result(Members(tuple(result.value for result in results)), error)


def member(value: Value, group: Value, env: Environment, text: str) -> Formula:
    """``value in group``: the same entity, or below it; for a set, in any of its members."""
    match value, group:
        case (Unknown(_, why), _) | (_, Unknown(_, why)):
            return Opaque(text, why)
        case _, Cases(cases):
            return disj(*(conj(condition, member(value, inner, env, text)) for condition, inner in cases))
        case _, Known(frozenset() as several):
            return disj(*(member(value, Known(one), env, text) for one in several))
        case _, Members(elements):
            return disj(*(member(value, element, env, text) for element in elements))
        case Known(Uid() as uid), Known(Uid() as other):
            if uid == other:
                return TRUE
            if uid not in env.entities and uid.type not in env.complete:
                return Opaque(text, f"the groups of {uid.type} are not known here")
            return Constant(uid in env.entities and other in env.entities[uid].ancestors)
        case Known(Uid() as uid), FactUid(fact):
            above = env.entities[uid].ancestors | {uid} if uid in env.entities else {uid}
            return is_in(fact, (u.id for u in above if u.type == fact.entity_type))
        case FactUid(fact), Known(Uid() as other):
            return _fact_below(fact, other, env, text)
        case FactUid(), FactUid():
            return operators.equals(value, group, text)
        case _:
            return Opaque(text, "asks for membership in a value that is not known")


def _fact_below(fact: Fact, other: Uid, env: Environment, text: str) -> Formula:
    if fact.entity_type == "Agent":
        acting_for = member(FactUid(FACTS["principal.human"]), Known(other), env, text)
        return disj(operators.equals(FactUid(fact), Known(other), text), acting_for)
    if other.type == fact.entity_type:
        return is_in(fact, [other.id])
    if fact.entity_type not in env.complete:
        return Opaque(text, f"the groups of {fact.entity_type} are not known here")
    return is_in(fact, (u.id for u, s in env.entities.items() if u.type == fact.entity_type and other in s.ancestors))


def _opaque(expr: pst.Expr, why: str) -> Result:
    text = describe(expr)
    return unknown(text, f"{text} {why}")


def reads_resource(node: object) -> bool:
    """Whether the variable `resource` occurs in an expression."""
    if isinstance(node, pst.Var):
        return node.name == "resource"
    if isinstance(node, tuple):
        return any(map(reads_resource, node))
    if isinstance(node, Mapping):
        return any(map(reads_resource, node.values()))
    return is_dataclass(node) and any(reads_resource(getattr(node, f.name)) for f in fields(node))


def describe(expr: pst.Expr) -> str:
    """A short rendering of an expression, for explanations and to tell unknown conditions apart."""
    match expr:
        case pst.Var(name):
            return name
        case pst.GetAttr(base, attr):
            return f"{describe(base)}.{attr}"
        case pst.HasAttr(base, attrs):
            return f"{describe(base)} has {'.'.join(attrs)}"
        case pst.StringLit(value):
            return repr(value)
        case pst.LongLit(value) | pst.BoolLit(value):
            return str(value).lower()
        case pst.EntityLit(entity):
            return str(entity)
        case pst.UnaryOp(op, argument):
            return f"{op}({describe(argument)})"
        case pst.BinaryOp(op, left, right):
            return f"({describe(left)} {op} {describe(right)})"
        case pst.Set(elements):
            return "[" + ", ".join(map(describe, elements)) + "]"
        case _:
            return repr(expr)
