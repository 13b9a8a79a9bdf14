"""A delegation in words."""

from __future__ import annotations

from isochrone.authority.explain import explain_chain, explain_scope
from isochrone.authority.scope import Money, Scope
from isochrone.authority.testing import NOW_S, World


def test_every_member_is_said_and_silence_is_not_used_for_anything() -> None:
    free = explain_scope(Scope())
    assert len(free) == 11
    assert sum(line.startswith(("any ", "at any ")) for line in free) == 10
    assert free[-1] == "may not be delegated further"
    bound = explain_scope(
        World().scope(rate_rps_max=0.5, cost_max=Money("EUR", 2_500_000), not_before_s=0, not_after_s=2**52)
    )
    assert "only jurisdiction EU" in bound
    assert "only site ber or vie" in bound
    assert "at most 0.5 requests/s" in bound
    assert "at most EUR 2.50 in all" in bound
    assert "not before 1970-01-01 00:00:00 UTC" in bound
    assert f"not from second {2**52} on" in bound


def test_the_tree_says_what_each_hop_narrows() -> None:
    world = World()
    root = world.root()
    chain = world.child([root], by="a0", to="a1", scope=world.scope(sites=frozenset({"vie"}), may_delegate=False))
    assert isinstance(chain, list)
    verified = world.verify(chain)
    tree = explain_chain(verified.hops).splitlines()  # type: ignore[union-attr]
    assert tree[0] == "human:ada"
    assert "agent:a0" in tree[1]
    tail = [line.strip() for line in tree if line.startswith("         ")]
    assert tail == ["only site vie", "may not be delegated further"]
    assert NOW_S == 1_800_000_000.0
    assert tree[1].endswith("until 2027-01-15 09:00:00 UTC")
