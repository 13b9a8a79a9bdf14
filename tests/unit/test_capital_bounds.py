"""Does a capital plan keep work in bounds, in the words and by the predicate of routing, and say why it cannot?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from capital_world import CLASSES, world
from click.testing import CliRunner

from isochrone.cli.plan import plan as command
from isochrone.errors import InputError
from isochrone.model.bounds import outside
from isochrone.model.contract import InBounds
from isochrone.plan.capital.arcs import build_arcs, unreachable
from isochrone.plan.capital.inputs import Terms
from isochrone.plan.capital.model import Options
from isochrone.plan.capital.plan import plan_capital
from isochrone.plan.capital.verify import check_plan
from isochrone.policy.policies import PolicyTextError
from isochrone.serve.capital_io import read_input

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "capital" / "plan.yaml"
ACTIONS = 'action in [Action::"place", Action::"execute"]'
PERMIT = f"permit (principal, {ACTIONS}, resource);\n"


def _vendors(data, *names):
    return replace(data, sites=tuple(replace(s, vendor=v) for s, v in zip(data.sites, names, strict=True)))


def _bound(data, **terms):
    return replace(data, classes=tuple(replace(c, in_bounds=Terms(**terms)) for c in data.classes))


def _used(plan) -> set[tuple[str, str]]:
    """(site, hardware) of what serves."""
    data, arcs = plan.data, plan.arcs
    busy = np.flatnonzero(plan.serve.sum(axis=(1, 2)) > 1e-9)
    return {(data.sites[arcs.site[a]].name, data.hardware[arcs.hardware[a]].name) for a in busy}


@pytest.mark.parametrize(
    ("terms", "inside"),
    [
        ({"vendors": ("b", "c")}, lambda site, _: site in ("s1", "s2")),
        ({"sites": ("s2",)}, lambda site, _: site == "s2"),
        ({"hardware": ("small",)}, lambda _, kind: kind == "small"),
        ({"jurisdictions": ("CH",)}, lambda site, _: site in ("s0", "s2")),
        ({"vendors": ("a",), "hardware": ("big",)}, lambda site, kind: (site, kind) == ("s0", "big")),
    ],
)
def test_only_what_the_terms_name_is_used(terms, inside):
    near = world(stretch=5e-6)
    plan = plan_capital(_bound(_vendors(near, "a", "b", "c"), **terms), Options(integer=False))
    assert check_plan(plan) == []
    assert _used(plan)
    assert all(inside(*pair) for pair in _used(plan))


def test_narrower_bounds_never_cost_less():
    data = _vendors(world(stretch=5e-6), "a", "b", "c")
    free = plan_capital(data, Options(integer=False))
    bound = plan_capital(_bound(data, vendors=("a",)), Options(integer=False))
    lost = sum(o.demand_per_s for o in bound.on_premises) - sum(o.demand_per_s for o in free.on_premises)
    assert bound.objective >= free.objective * (1 - 1e-7) or lost > 0


def test_a_plan_out_of_bounds_is_seen():
    plan = plan_capital(world(), Options(integer=False))
    forged = replace(plan, data=_bound(plan.data, vendors=("nobody",)))
    assert any("out of bounds at s0: vendor unknown is not among nobody" in line for line in check_plan(forged))


def test_what_no_site_may_serve_is_on_premises_only_with_every_reason():
    data = _vendors(world(places=2), "a", "b", "b")
    lonely = replace(data, classes=(replace(CLASSES[1], in_bounds=Terms(vendors=("z",), sites=("s0",))),),
                     demand_per_s=data.demand_per_s[:, 1:2])  # fmt: skip
    found = plan_capital(lonely, Options(integer=False)).on_premises
    assert {o.place for o in found} == {"p0", "p1"}
    assert found[0].reason == (
        "on premises only: no candidate site is in bounds: vendor b is not among z (2 sites); the site is not among "
        "s0 (2 sites); vendor a is not among z (1 site)"
    )
    batch = replace(data, classes=(replace(CLASSES[2], in_bounds=Terms(vendors=("z",))),),
                    demand_per_s=data.demand_per_s[:, 2:])  # fmt: skip
    (beyond,) = plan_capital(batch, Options(integer=False)).on_premises
    assert (beyond.place, beyond.work_class) == ("anywhere", "batch")


def test_what_is_in_bounds_and_too_far_says_both():
    data = _vendors(world(places=1), "a", "b", "b")
    far = replace(data, rtt_s=np.array([[0.004, 0.080, 0.090]]))
    tight = replace(far, classes=(replace(CLASSES[0], in_bounds=Terms(vendors=("b",))),),
                    demand_per_s=data.demand_per_s[:, :1])  # fmt: skip
    (beyond,) = plan_capital(tight, Options(integer=False)).on_premises
    assert "s1 is nearest of the sites in bounds at 80.0 ms" in beyond.reason


def test_routing_and_capital_ask_the_same_predicate():
    for terms in (InBounds(vendors=("a",), jurisdictions=("EU",)), Terms(vendors=("a",), jurisdictions=("EU",))):
        assert outside(terms, "x", jurisdiction="DE", vendor="a", hardware=("h",)) == []
        assert outside(terms, "x", jurisdiction="CH", vendor="b", hardware=("h",)) == [
            "jurisdiction CH is not in EU",
            "vendor b is not among a",
        ]


def _document(tmp_path: Path, *, cedar: dict[str, str] | None = None, **bounds) -> Path:
    """The example in one year and two hours, with vendors; its tightest class in these bounds."""
    raw = yaml.safe_load(EXAMPLE.read_text())
    raw |= {"years": [2026], "hours_utc": [2, 14], "scenarios": [{"name": "one", "probability": 1}]}
    for site, vendor in zip(raw["sites"], ("cloud", "tel-a", "tel-b", "tel-b"), strict=True):
        site["vendor"] = vendor
        site["attestations"] = ["iso-27001"] if vendor != "tel-a" else []
    raw["classes"][0]["in_bounds"] = bounds
    raw["policies"] = list(cedar or {})
    for name, text in (cedar or {}).items():
        (tmp_path / name).write_text(text)
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def _reach(path: Path, k: int = 0) -> set[str]:
    """Sites that may serve the class from somewhere."""
    data = read_input(path)
    arcs = build_arcs(data)
    mine = np.array([r.work_class for r in arcs.rows])[arcs.row] == k
    return {data.sites[s].name for s in arcs.site[mine]}


def test_a_group_of_countries_bounds_as_it_does_for_a_fabric(tmp_path):
    everywhere = _reach(_document(tmp_path))
    inside = _reach(_document(tmp_path, jurisdictions=["EU"]))
    assert "metro London" in everywhere
    assert inside
    assert "metro London" not in inside


def test_what_policies_forbid_is_not_used_and_said(tmp_path):
    forbid = (
        '@id("only-attested")\n@reason("act-30 runs where ISO 27001 is attested")\n'
        f'forbid (principal, {ACTIONS}, resource) when {{ context.contract == Contract::"act-30" }} '
        'unless { resource.attestations.contains("iso-27001") };\n'
    )
    path = _document(tmp_path, cedar={"bounds.cedar": PERMIT + forbid})
    assert "metro London" not in _reach(path)
    assert "metro London" in _reach(path, k=1)
    said = CliRunner().invoke(command, ["explain", str(path), "--place", "London"], catch_exceptions=False).output
    assert "only-attested" in said
    assert "out of bounds" in said


def test_a_policy_of_routing_bounds_a_plan_as_it_is(tmp_path):
    """`examples/policies/batch-in-regions.cedar`, unchanged: batch runs at sites of tier region only."""
    batch = (EXAMPLE.parents[1] / "policies" / "batch-in-regions.cedar").read_text()
    path = _document(tmp_path, cedar={"permit.cedar": PERMIT, "batch.cedar": batch})
    assert _reach(path, k=2) == {"region Dublin"}
    assert len(_reach(path, k=0)) > 1


def test_policies_without_a_permit_leave_everything_on_premises(tmp_path):
    path = _document(tmp_path, cedar={"none.cedar": "forbid (principal, action, resource);\n"})
    data = read_input(path)
    beyond = unreachable(data, build_arcs(data))
    assert {o.work_class for o in beyond} == {"act-30", "talk-100", "batch"}
    assert all("on premises only: no candidate site is in bounds" in o.reason for o in beyond)


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"sites": ["metro Atlantis"]}, "class 'act-30': in_bounds names site 'metro Atlantis'"),
        ({"hardware": ["abacus"]}, "in_bounds names hardware 'abacus'"),
        ({"policies": ["p"]}, "in_bounds names policy 'p'"),
        ({"vendor": ["x"]}, r"classes row 1 \(act-30\) in_bounds vendor"),
    ],
)
def test_bounds_that_name_what_is_not_there_are_refused(tmp_path, bounds, said):
    with pytest.raises(InputError, match=said) as caught:
        read_input(_document(tmp_path, **bounds))
    assert caught.value.hint


def test_policies_that_are_missing_or_wrong_are_refused(tmp_path):
    path = _document(tmp_path, cedar={"p.cedar": "permit (principal, action, nonsense);"})
    with pytest.raises(PolicyTextError):
        read_input(path)
    (tmp_path / "p.cedar").unlink()
    with pytest.raises(InputError, match=r"cannot read .*p\.cedar"):
        read_input(path)


def test_the_same_jurisdiction_needs_one(tmp_path):
    data = world()
    nowhere = replace(data, places=(replace(data.places[0], jurisdiction=""), *data.places[1:]))
    with pytest.raises(InputError, match="place 'p0' states none"):
        plan_capital(_bound(nowhere, jurisdictions=("same",)))
