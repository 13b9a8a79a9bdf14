"""Is the report page whole, does it stand alone, and can it be read on a desk and on a phone?"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from isochrone.cli.capital_answers import answers_of
from isochrone.console.capital_report import render_report
from isochrone.plan.capital import studies
from isochrone.plan.capital.alternatives import by_site_answer, by_tier_answer
from isochrone.plan.capital.frontier import frontier_answer
from isochrone.plan.capital.plan import plan_capital
from isochrone.serve.capital_io import read_input
from support.browser import chromium, running_browser

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "capital" / "plan.yaml"


@pytest.fixture(scope="module")
def plan():
    """The example in its first year, with names that are no formulae and no mark-up, and a place beyond reach."""
    data = read_input(EXAMPLE)
    horizon = replace(data.horizon, years=data.horizon.years[:1], hours_utc=data.horizon.hours_utc[:2])
    places = (replace(data.places[0], name="$Lon$don <b>&"), *data.places[1:])
    rtt = data.rtt_s.copy()
    rtt[5] += 0.030
    return plan_capital(
        replace(data, horizon=horizon, places=places, rtt_s=rtt, demand_per_s=data.demand_per_s[:, :, :1, :2],
                sites=tuple(replace(s, energy_price_per_kwh=s.energy_price_per_kwh[:1]) for s in data.sites)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def answers(plan):
    return [
        *answers_of(plan),
        studies.compare_answer(plan.data, aligned=plan),
        frontier_answer(plan.data, coverages=(0.9, 0.99, 1.0)),
        by_tier_answer(plan.data, plan),
        by_site_answer(plan),
    ]


@pytest.fixture(scope="module")
def page(plan, answers):
    return render_report(plan, answers)


def test_every_answer_has_its_sentence_a_plot_and_a_table(page, answers):
    sections = dict(re.findall(r'<section id="([a-z_]+)">(.*?)</section>', page, re.S))
    assert {a.name for a in answers} < set(sections)
    for answer in answers:
        assert '<svg role="img" aria-label=' in sections[answer.name], answer.name
        assert "<table>" in sections[answer.name], answer.name
    assert "on premises only" in sections["on_premises"]
    assert sections["prices"].count("<svg") == 2  # by part, and on the map


def test_names_are_shown_as_they_are(page):
    assert "$Lon$don &lt;b&gt;&amp;" in page
    assert "<b>&" not in page


def test_nothing_is_fetched_and_no_name_is_given_twice(page):
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)
    assert "@import" not in page
    assert "<script" not in page
    names = re.findall(r'<(?:section|svg|g)[^>]* id="([^"]+)"', page)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_readable_in_a_browser(page, tmp_path, width):
    if chromium() is None:
        pytest.skip("no chromium here")
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    with running_browser(tmp_path / "profile") as browser:
        tab = browser.page()
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        tab.goto(path.as_uri())
        assert tab.js("document.documentElement.scrollWidth") <= width
        smallest = tab.js(
            "Math.min(...[...document.querySelectorAll('.plot svg text, .map svg text')]"
            ".map(t => t.getBoundingClientRect()).map(r => Math.min(r.height, r.width + 99)))"
        )
        assert smallest >= 7.0
        outside = tab.js(
            "[...document.querySelectorAll('svg')].flatMap(s => { const o = s.getBoundingClientRect();"
            "return [...s.querySelectorAll('text')].filter(t => { const r = t.getBoundingClientRect();"
            "return r.left < o.left - 3 || r.right > o.right + 3 || r.bottom > o.bottom + 3; })"
            ".map(t => t.textContent); })"
        )
        assert outside == []
