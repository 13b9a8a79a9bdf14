"""Is everything that can be wrong in a capital document named, in words, before anything is solved?"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from capital_world import world

from isochrone.errors import InputError, StorageError
from isochrone.plan.capital.inputs import findings
from isochrone.serve.capital_dataset import Files, Size, build_dataset
from isochrone.serve.capital_io import read_input, read_table, write_tables, write_text

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "capital" / "plan.yaml"


def _document(tmp_path: Path, **changes) -> Path:
    raw = yaml.safe_load(EXAMPLE.read_text())
    raw.update(changes)
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def _example(key: str) -> list[dict]:
    return yaml.safe_load(EXAMPLE.read_text())[key]


def _row(key: str, **changes) -> dict:
    """One table of the example with its first row changed; None takes a column away."""
    first, *others = _example(key)
    return {key: [{k: v for k, v in (first | changes).items() if v is not None}, *others]}


def _every_hour(place: str, work_class: str) -> list[dict]:
    return [{"place": place, "work_class": work_class, "year": y, "hour_utc": h, "units_per_s": 5.0}
            for y in (2026, 2027, 2028) for h in (2, 8, 14, 20)]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (_row("places", lat=None), r"places row 1 \(London\) lat: Field required"),
        (_row("places", lat=float("nan")), r"places row 1 \(London\) lat: Input should be a finite number"),
        (_row("places", lat=95.0), "place 'London' has no usable coordinates"),
        (_row("places", population=0), "place 'London' has population 0, but people are what"),
        (_row("places", population=-3), "place 'London' has population -3"),
        (_row("hardware", capex_per_unit=float("nan")), r"hardware row 1 \(accelerator\) capex_per_unit"),
        (_row("hardware", throughput=[]), "states no throughput"),
        (_row("classes", objective_ms=3), "no hardware has a throughput at 3 ms"),
        (_row("assets", age_years=9), "9 years old with a life of 6: it is written off"),
        (_row("sites", currency="EUR"), r"currencies are mixed: the document is in USD, but region Dublin \(EUR\)"),
        ({"energy": [{"zone": "a", "hour_utc": 1, "price_per_mwh": 9, "currency": "EUR"}]}, "power price of a.*EUR"),
        ({"energy": [{"hour_utc": 1, "price_per_mwh": 9}]}, "energy row 1 zone: Field required"),
        ({"demand": [{"place": "Rome", "work_class": "batch", "year": 2026, "hour_utc": 2, "units_per_s": "lots"}]},
         "demand row 1 units_per_s"),
        ({"rtt_table": [{"place": "Rome", "site": "metro Madrid", "rtt_ms": "near"}]}, "rtt_table row 1 rtt_ms"),
        ({"rtt_table": [{"place": "Rome", "site": "metro Madrid", "rtt_ms": -4}]}, "below zero"),
        ({"years": [2028, 2026]}, "years 2028, 2026 must follow each other"),
        ({"years": [2026, 2030]}, "in steps of years_per_period = 1"),
        ({"hours_utc": [2, 2]}, "each listed once"),
        ({"hours_utc": [2, 26]}, "must lie in 0 to 24"),
        ({"classes": [{"name": "idle", "objective_ms": 30, "penalty_per_million": 5}]}, "there is no demand"),
        ({"discount_rate": 9}, "900 % a year"),
        ({"discount_rate": ".nan"}, "discount_rate"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path, changes, said):
    with pytest.raises(InputError, match=said) as caught:
        read_input(_document(tmp_path, **changes))
    assert caught.value.hint


def test_people_are_not_asked_where_the_demand_is_stated(tmp_path):
    named = [row for c in ("act-30", "talk-100", "batch") for row in _every_hour("London", c)]
    data = read_input(_document(tmp_path, demand=named, **_row("places", population=None)))
    assert data.demand_per_s[0].min() == 5.0
    with pytest.raises(InputError, match=r"population 0.*'batch'"):
        read_input(_document(tmp_path, demand=named[:24], **_row("places", population=None)))


def test_a_public_file_that_holds_nonsense_is_named(tmp_path):
    bad = tmp_path / "cities.csv"
    bad.write_text("name,country,lat,lon,population,timezone\nA,DE,x,1,100,Europe/Berlin\n")
    files = Files(bad, tmp_path, bad, bad, bad, bad)
    with pytest.raises(InputError, match=r"cities\.csv holds something that cannot be read"):
        build_dataset(files, Size(("EU",), 3, 1), tmp_path / "out")
    bad.write_text("name,country,lat,lon,population,timezone\nA,DE,50,1,100,Europe/Berlin\n")
    with pytest.raises(InputError, match=r"holds no PROVIDER_regions\.json"):
        build_dataset(files, Size(("EU",), 3, 1), tmp_path / "out")
    with pytest.raises(StorageError, match="cannot write to"):
        build_dataset(files, Size(("EU",), 3, 1), bad / "out")


def test_no_people_and_no_demand_is_named_by_the_model_too():
    data = world()
    demand = data.demand_per_s.copy()
    demand[0] = 0.0
    empty = replace(data, places=(replace(data.places[0], population_n=0.0), *data.places[1:]))
    assert findings(empty) == []
    assert any("population 0 and no demand" in line for line in findings(replace(empty, demand_per_s=demand)))


def test_what_is_not_a_number_is_named_by_the_model_too():
    data = world()
    lost = replace(data, hardware=(replace(data.hardware[0], capex_per_unit=float("nan")), *data.hardware[1:]))
    assert "hardware 'big': capex_per_unit is not a number" in findings(lost)


def test_power_prices_go_round_the_clock_and_may_be_negative(tmp_path):
    rows = [{"zone": "z", "hour_utc": h, "price_per_mwh": p} for h, p in ((6, -40), (18, 80))]
    sites = [{k: v for k, v in s.items() if k != "energy_price_per_kwh"} | {"energy_zone": "z"}
             for s in _example("sites")]  # fmt: skip
    data = read_input(_document(tmp_path, energy=rows, sites=sites, hours_utc=[0, 6, 12, 18]))
    assert data.sites[0].energy_price_per_kwh == pytest.approx((0.02, -0.04, 0.02, 0.08))


def test_a_table_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "t.csv").write_text("name,lat\nRome,41.9\n", encoding="utf-8-sig")
    assert read_table(tmp_path / "t.csv") == [{"name": "Rome", "lat": "41.9"}]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_table_that_is_no_table_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match=re.escape(name)):
        read_table(tmp_path / name)


def test_where_nothing_can_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write to"):
        write_tables([], tmp_path / "file" / "folder", "csv")
    with pytest.raises(StorageError, match="cannot write"):
        write_text(tmp_path / "file" / "page.html", "x")


def test_demand_is_the_proxy_of_people_and_local_time(tmp_path):
    """Units per second of the example, worked out by hand."""
    data = read_input(_document(tmp_path))
    act, vienna = 0, [p.name for p in data.places].index("Vienna")
    local_h = np.array([3, 9, 15, 21])
    by_hand = 1690000 * 6000 / 86400 * (1 + 0.5 * np.cos((local_h - 15) * np.pi / 12))
    assert data.demand_per_s[vienna, act, 0] == pytest.approx(by_hand)
    assert data.demand_per_s[vienna, act, 2] == pytest.approx(by_hand * 1.5**2)
