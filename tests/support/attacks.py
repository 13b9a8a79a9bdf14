"""The attacks on authority by name, each with its tests; run as a script it tries them and prints what came of it.

    python tests/support/attacks.py [--fast]

`--fast` leaves out those that need a running fabric.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
CHAIN, FABRIC = "faults/test_authority_attacks.py", "integration"
EXCHANGE, BUDGETS, TAKING = (f"{FABRIC}/test_fabric_{name}.py" for name in ("exchange", "budgets", "taking_back"))

# Attack -> (file, class or beginning of a test's name).
ATTACKS: dict[str, tuple[tuple[str, str], ...]] = {
    "depth escalation": ((CHAIN, "TestDepthEscalation"),),
    "scope widened by a child": ((CHAIN, "TestWidenedScope"), (EXCHANGE, "test_a_widened_chain")),
    "scope recombined by siblings": ((CHAIN, "test_siblings_do_not_recombine"),),
    "a hop signed by the wrong key": ((CHAIN, "TestWrongKey"),),
    "spliced parents": ((CHAIN, "TestSplicedParents"),),
    "alg confusion and none": ((CHAIN, "TestAlgorithms"),),
    "a second name for the same signature": ((CHAIN, "TestMalleability"),),
    "a stolen grant with another certificate or key": ((CHAIN, "TestStolenGrant"),),
    "a stolen chain without its key": ((EXCHANGE, "test_possession_must_be_proven"),),
    "a replayed DPoP proof": ((CHAIN, "TestReplayedDPoP"), (EXCHANGE, "test_a_proof_serves_once")),
    "a DPoP proof replayed after a restart": ((TAKING, "test_a_proof_of_possession_serves_once_also"),),
    "a grant or chain of another fabric": ((CHAIN, "TestOtherFabric"), (EXCHANGE, "test_a_chain_of_another_fabric")),
    "clocks ahead and behind": ((CHAIN, "test_clocks_that_run"), (EXCHANGE, "test_an_old_proof")),
    "expired parents of live children": ((CHAIN, "test_a_live_child_of_an_expired_parent"),),
    "a node that lies about freshness": ((CHAIN, "test_a_lie_about_freshness"), (CHAIN, "test_a_heartbeat_cannot")),
    "roll-back, gap and fork of the feed": (
        (CHAIN, "test_rolled_back"), (CHAIN, "test_with_a_gap"), (CHAIN, "test_forked"),
    ),
    "a feed signed by somebody else": ((CHAIN, "test_signed_by_another_key"),),
    "revoking what is not one's own": ((CHAIN, "TestWhoMayRevoke"), (TAKING, "test_an_agent_revokes")),
    "an old request that lifts a new stop": ((CHAIN, "test_an_old_request"),),
    "a stream that outlives its revocation": ((TAKING, "test_a_running_stream_ends"),),
    "a budget spent at every site at once": ((BUDGETS, "test_a_budget_holds"),),
    "a budget spent by a site that is cut off": ((BUDGETS, "test_a_site_cut_off"),),
    "a limited grant used at another site": ((BUDGETS, "test_a_grant_under_a_limit"),),
    "counters emptied by a restart": ((BUDGETS, "test_counters_made_anew"),),
    "an account altered on the bus": ((BUDGETS, "test_an_account_that_is_damaged"),),
    "junk, oversized and malformed tokens": ((CHAIN, "TestSizeAndShape"),),
}  # fmt: skip


def defined(file: str) -> set[str]:
    """Classes and tests of a file, by name."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    return {node.name for node in ast.walk(ast.parse((TESTS / file).read_text())) if isinstance(node, kinds)}


class _Table:
    """A pytest plugin: outcomes by attack."""

    def __init__(self) -> None:
        self.seen: dict[str, Counter[str]] = {attack: Counter() for attack in ATTACKS}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        for attack, tried in ATTACKS.items():
            if any(file in report.nodeid and f"::{name}" in report.nodeid for file, name in tried):
                self.seen[attack][report.outcome] += 1


def main() -> int:
    """Try every attack and print what came of it."""
    fast = "--fast" in sys.argv
    files = sorted({file for tried in ATTACKS.values() for file, _ in tried if not (fast and file.startswith(FABRIC))})
    table = _Table()
    pytest.main(["-q", "-p", "no:xdist", "--no-header", *(str(TESTS / file) for file in files)], plugins=[table])
    width, held = max(map(len, ATTACKS)), True
    for attack, outcomes in table.seen.items():
        is_held = bool(outcomes["passed"]) and not outcomes["failed"]
        held &= is_held or not outcomes
        tried = sum(outcomes.values())
        print(f"{attack:{width}}  {tried:4} tried  {'refused' if is_held else 'FAILED' if tried else 'not tried'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
