"""Journal against proxy: what must become a finding, and what must not."""

from __future__ import annotations

from isochrone.serve.bookmark import Bookmark, Counts, Tally
from isochrone.serve.clock import read_clock
from isochrone.serve.completeness import Balance

T0 = 1_000.0


def tally(ends: int, role: str = "ingress") -> Tally:
    return Tally(1, {role: Counts(ends, ends, ends)})


def told(balance: Balance, steps: list[tuple[int, int]], from_s: int = 0) -> list[int]:
    """Counts of the gaps found: each step is (requests counted by the proxy, lines in the journal), a second apart."""
    found = []
    for at, (ended, lines) in enumerate(steps, from_s):
        gaps = balance.step(T0 + at, {"ingress": ended, "peer": 0}, tally(lines), T0 + at - 0.1)
        found += [gap.count for gap in gaps]
    return found


def test_lines_that_come_a_moment_later_are_no_gap() -> None:
    assert told(Balance(1, T0), [(100 * n, max(0, 100 * n - 60)) for n in range(20)]) == []


def test_lost_lines_are_told_with_their_interval_and_all_of_them_at_the_next_pause() -> None:
    balance, found = Balance(1, T0), []
    for at in range(30):
        ended = 10 * min(at, 20)
        lines = ended - 25 if at > 5 else ended
        found += balance.step(T0 + at, {"ingress": ended, "peer": 0}, tally(max(0, lines)), T0 + at - 0.1)
    assert sum(gap.count for gap in found) == 25
    assert T0 <= found[0].since_s <= T0 + 6 <= found[0].until_s <= T0 + 12
    assert "requests ended and have no line" in str(found[0])
    assert found[-1].until_s <= T0 + 26


def test_lines_of_no_request_are_told_once() -> None:
    steps = [(10 * n, 10 * n) for n in range(4)] + [(10 * n, 10 * n + 3) for n in range(4, 14)]
    assert told(Balance(1, T0), steps) == [-3]


def test_a_journal_that_is_not_read_yet_says_nothing() -> None:
    balance = Balance(1, T0)
    for at in range(10):
        assert balance.step(T0 + at, {"ingress": 50 * at, "peer": 0}, tally(0), T0) == []


def test_what_a_killed_proxy_had_counted_last_is_held_against_its_last_line() -> None:
    balance = Balance(1, T0)
    told(balance, [(10, 10), (20, 20)])
    assert [gap.count for gap in balance.end(T0 + 9, tally(17))] == [3]
    assert balance.end(T0 + 9, tally(20)) == []


def test_a_bookmark_comes_back_as_it_was() -> None:
    lines = [
        {"role": "ingress", "type": "DownstreamStart", "id": "a"},
        {"role": "ingress", "type": "DownstreamEnd", "id": "a"},
        {"role": "peer", "type": "DownstreamEnd", "id": ""},
        {"role": "ingress", "type": "UpstreamEnd", "id": "a"},
        {"role": "nobody", "type": "DownstreamEnd"},
    ]
    made = Bookmark(b"\x01" * 28, Tally(4).add(lines), {"assistant": "6-months"})
    assert Bookmark.decode(made.encode()) == made
    assert (made.tally.of("ingress"), made.tally.of("peer")) == (Counts(1, 1, 1), Counts(0, 1, 0))
    assert Bookmark.decode(b"") == Bookmark()


def test_the_clock_says_what_is_known_of_it() -> None:
    clock = read_clock()
    assert clock.source in ("ntp", "free", "unknown")
    assert (clock.error_us_max is not None) == (clock.source == "ntp")
