"""Published optima of OR-Library and Holmberg et al. (1999): facility location in three kinds, and p-median."""

from __future__ import annotations

from pathlib import Path

import pytest

from isochrone.plan.siting import check, parse_orlib, parse_pmedian, solve

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
# Beasley's optima for the same data posed without capacity (uncapopt) and with divisible customers (capopt).
UNCAPACITATED = {
    "p1": 932615.750,
    "p2": 977799.400,
    "p3": 1010641.450,
    "p4": 1034976.975,
    "p9": 796648.437,
    "p10": 854704.200,
    "p11": 893782.112,
    "p12": 928941.750,
    "p17": 793439.562,
    "p18": 851495.325,
    "p19": 893076.712,
    "p20": 928941.750,
    "p25": 17156454.478,
    "p29": 12979071.582,
    "p33": 11505594.329,
}
CAPACITATED = {
    "p1": 932615.750,
    "p2": 977799.400,
    "p3": 1014062.050,
    "p4": 1045650.250,
    "p9": 796648.438,
    "p10": 855733.500,
    "p11": 896617.538,
    "p12": 946051.325,
    "p17": 793439.562,
    "p18": 852524.625,
    "p19": 895302.325,
    "p20": 946051.325,
    "p25": 19240822.449,
    "p29": 13656379.578,
    "p33": 11646596.974,
}
SINGLE = [*range(1, 25), 25, 29, 33]


def _read(*parts: str) -> str:
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no {'/'.join(parts)} beside the project")
    return path.read_text(errors="replace")


def _solved(problem):
    answer = solve(problem)
    assert check(problem, answer) == []
    assert answer.gap < 1e-8
    return answer.value


@pytest.mark.parametrize("name", sorted(UNCAPACITATED))
def test_uncapacitated(name):
    value = _solved(parse_orlib(_read("facility_location", "orlib_ss", name), name, kind="uncapacitated"))
    assert value == pytest.approx(UNCAPACITATED[name], abs=0.01)


@pytest.mark.parametrize("name", sorted(CAPACITATED))
def test_capacitated(name):
    value = _solved(parse_orlib(_read("facility_location", "orlib_ss", name), name, kind="capacitated"))
    assert value == pytest.approx(CAPACITATED[name], abs=0.01)


@pytest.mark.parametrize("number", SINGLE)
def test_single_source(number):
    optimum = float(_read("facility_location", "orlib_ss", "os").split()[number - 1])
    problem = parse_orlib(_read("facility_location", "orlib_ss", f"p{number}"), f"p{number}")
    assert _solved(problem) == pytest.approx(optimum, abs=0.01)


@pytest.mark.parametrize("number", range(1, 26))
def test_holmberg(number):
    optimum = float(_read("facility_location", "holmberg", "os").split()[number - 1])
    assert _solved(parse_orlib(_read("facility_location", "holmberg", f"p{number}"), f"p{number}")) == optimum


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_p_median(number):
    optima = dict(line.split() for line in _read("pmedian", "pmedopt.txt").splitlines()[1:] if line.strip())
    problem = parse_pmedian(_read("pmedian", f"pmed{number}.txt"), f"pmed{number}")
    assert _solved(problem) == float(optima[f"pmed{number}"])
