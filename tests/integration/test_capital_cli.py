"""Does `isochrone plan` read documents, write its answers, and refuse bad input with a reason?"""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from isochrone.cli.plan import plan
from isochrone.errors import InputError
from isochrone.serve.capital_io import read_input

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "capital" / "plan.yaml"
DATA = ROOT.parent / "shared" / "data"


def _changed(tmp_path: Path, **changes) -> Path:
    raw = yaml.safe_load(EXAMPLE.read_text())
    raw.update(changes)
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def _small(tmp_path: Path, **changes) -> Path:
    few = {"years": [2026], "hours_utc": [2, 14], "scenarios": [{"name": "one", "probability": 1}]}
    return _changed(tmp_path, **(few | changes))


class _Reader(HTMLParser):
    """Collects what a page would fetch, and its visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        for key in ("src", "data", "xlink:href", "href"):
            value = values.get(key)
            if value and not value.startswith(("#", "data:")):
                self.fetched.append(f"{tag} {value}")

    def handle_data(self, data):
        self.text.append(data)


def test_run_writes_report_json_and_tables(tmp_path):
    report, answers, tables = tmp_path / "r.html", tmp_path / "a.json", tmp_path / "t"
    result = CliRunner().invoke(
        plan,
        [
            str(_small(tmp_path)),
            "--report",
            str(report),
            "--json",
            str(answers),
            "--tables",
            str(tables),
            "--format",
            "parquet",
            "--studies",
            "compare",
        ],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    assert "Today's regions serve" in result.output
    assert re.search(r"best [\d.]+ M USD {2}bound [\d.]+ M USD {2}gap [\d.]+ %", result.output)
    said = json.loads(answers.read_text())
    assert {"where", "prices", "stranded", "procurement", "central_vs_aligned", "cost"} <= set(said)
    page = _Reader()
    page.feed(report.read_text())
    assert page.fetched == []
    text = " ".join(page.text)
    assert said["central_vs_aligned"]["sentence"] in text
    assert "GeoNames" in text
    table = pq.read_table(tables / "prices.parquet")
    assert table.schema.field("price").metadata == {b"unit": b"USD/M token"}
    assert table.num_rows == len(said["prices"]["rows"])
    assert table.column("price").to_pylist()[0] == pytest.approx(said["prices"]["rows"][0]["price"])


def test_guarantees_at_the_places_chosen_and_what_each_site_matters(tmp_path):
    document = str(_small(tmp_path, years=[2026, 2027]))
    asked = [document, "--place", "Rome", "--place", "Paris", "--studies", "alternatives", "--json", "-"]
    result = CliRunner().invoke(plan, asked, catch_exceptions=False)
    assert result.exit_code == 0
    assert re.search(r"metro Madrid (kept out|built on): ", result.stderr)
    said = json.loads(result.stdout)
    stated = {(r["place"], r["year"], r["objective"]) for r in said["procurement"]["rows"]}
    assert len(stated) == 2 * 2 * 5
    assert {place for place, _, _ in stated} == {"Rome", "Paris"}
    sites = said["alternatives_by_site"]["rows"]
    assert {r["otherwise"] for r in sites} <= {"kept out", "built on"}
    assert len(sites) == 4
    with pytest.raises(InputError, match="no place 'Atlantis'"):
        CliRunner().invoke(plan, [document, "--place", "Atlantis"], catch_exceptions=False)


def test_csv_headers_carry_units(tmp_path):
    result = CliRunner().invoke(
        plan,
        [str(_small(tmp_path)), "--tables", str(tmp_path / "t"), "--studies", "none", "--relax"],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    with (tmp_path / "t" / "cost.csv").open() as file:
        assert next(csv.reader(file)) == ["part", "present_value [USD]", "share [%]"]


def test_explain(tmp_path):
    document = str(_small(tmp_path, years=[2026, 2027]))
    result = CliRunner().invoke(plan, ["explain", document, "--place", "Rome"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "out of time" in result.output
    assert "USD/M token = compute" in result.output
    asked = ["explain", document, "--place", "Rome", "--year", "2027", "--json"]
    said = json.loads(CliRunner().invoke(plan, asked, catch_exceptions=False).output)
    assert (said["place"], said["year"], said["currency"]) == ("Rome", 2027, "USD")
    act = said["classes"][0]
    assert act["work_class"] == "act-30"
    price = act["price_per_million"]
    assert price["price"] == pytest.approx(sum(price[k] for k in ("compute", "energy", "network", "scarcity")))
    assert any("serves" in s["why"] and s["share"] > 0 for s in act["sites"])
    assert all(s["share"] == 0 for s in act["sites"] if "out of time" in s["why"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--place", "Atlantis"], "no place 'Atlantis'"),
        (["--place", "rome"], "no place 'rome'"),
        (["--place", "Rome", "--year", "1999"], "1999 is no year"),
    ],
)
def test_explain_names_what_is_not_there(arguments, said):
    with pytest.raises(InputError, match=said) as caught:
        CliRunner().invoke(plan, ["explain", str(EXAMPLE), *arguments], catch_exceptions=False)
    assert caught.value.hint


def test_unknown_studies_are_refused_before_anything_is_read():
    with pytest.raises(InputError, match="unknown study bogus"):
        CliRunner().invoke(plan, ["nowhere.yaml", "--studies", "compare,bogus"], catch_exceptions=False)


@pytest.mark.parametrize("arguments", [["--gap", "-1"], ["--time-limit", "0"], ["--threads", "0"]])
def test_options_out_of_range_are_refused(arguments):
    assert CliRunner().invoke(plan, [str(EXAMPLE), *arguments]).exit_code == 2


@pytest.mark.parametrize("command", [[], ["run"], ["explain"], ["siting"], ["import"]])
def test_help_shows_examples(command):
    result = CliRunner().invoke(plan, [*command, "--help"])
    assert f"isochrone plan {' '.join(command)}".strip() in result.output.split("Options:")[0].split("\n", 1)[1]


def test_progress_says_bound_and_gap():
    from isochrone.cli.capital_answers import progress_line
    from isochrone.plan.capital.engine import Progress

    assert progress_line(Progress(106e6, 105e6, 0.0094, 12.0), "USD") == (
        "  best 106.0 M USD  bound 105.0 M USD  gap 0.94 %  12 s"
    )
    assert "no plan yet  bound 5.0 M EUR" in progress_line(Progress(float("inf"), 5e6, float("inf"), 1.0), "EUR")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"currency": None}, "currency"),
        ({"colour": "red"}, "colour"),
        ({"rtt": []}, "no rtt model"),
        (
            {
                "assets": [
                    {
                        "name": "a",
                        "site": "region Dublin",
                        "hardware": "accelerator",
                        "units": 1,
                        "age_years": 9,
                        "cost_per_unit": 1,
                        "life_years": 6,
                    }
                ]
            },
            "written off",
        ),
        (
            {
                "assets": [
                    {
                        "name": "a",
                        "site": "region Dublin",
                        "hardware": "accelerator",
                        "units": 1,
                        "age_years": 1,
                        "cost_per_unit": 1,
                        "life_years": 6,
                        "currency": "EUR",
                    }
                ]
            },
            "currencies are mixed",
        ),
        ({"demand": [{"place": "Oz", "work_class": "batch", "year": 2026, "hour_utc": 2, "units_per_s": 1}]}, "Oz"),
        ({"places": {"file": "missing.csv"}}, "cannot read table"),
        ({"rtt_table": [{"place": "Rome", "site": "nowhere", "rtt_ms": 3}]}, "nowhere"),
    ],
)
def test_bad_documents_are_named(tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        read_input(_changed(tmp_path, **changes))


def test_measured_round_trips_and_own_demand_replace_the_models(tmp_path):
    rows = [{"place": "Rome", "work_class": "batch", "year": 2026, "hour_utc": h, "units_per_s": 7.0} for h in (2, 14)]
    data = read_input(_small(tmp_path, rtt_table=[{"place": "Rome", "site": "metro Madrid", "rtt_ms": 3}], demand=rows))
    rome = [p.name for p in data.places].index("Rome")
    assert data.rtt_s[rome, 3] == pytest.approx(0.003)
    assert data.demand_per_s[rome, 2].tolist() == [[7.0, 7.0]]
    assert data.demand_per_s[rome, 1].min() > 7.0


def test_not_yaml_and_missing(tmp_path):
    bad = tmp_path / "x.yaml"
    bad.write_text("a: [")
    with pytest.raises(InputError, match="not YAML"):
        read_input(bad)
    with pytest.raises(InputError, match="cannot read"):
        read_input(tmp_path / "none.yaml")


def test_siting_command_compares_with_published_optima(tmp_path):
    (tmp_path / "p1").write_text("2 2\n10 5\n10 1\n4 4\n1 9\n9 1\n")
    (tmp_path / "os").write_text("8\n")
    good = CliRunner().invoke(
        plan, ["siting", str(tmp_path / "p1"), "--optima", str(tmp_path / "os")], catch_exceptions=False
    )
    assert "equal" in good.output, good.output
    assert good.exit_code == 0
    (tmp_path / "os").write_text("7\n")
    wrong = CliRunner().invoke(
        plan, ["siting", str(tmp_path / "p1"), "--optima", str(tmp_path / "os")], catch_exceptions=False
    )
    assert wrong.exit_code == 1
    assert "DIFFERS" in wrong.output
    machine = CliRunner().invoke(plan, ["siting", str(tmp_path / "p1"), "--json"], catch_exceptions=False)
    (row,) = json.loads(machine.output)
    assert (row["instance"], row["value"], row["published"], row["verdict"]) == ("p1", 8.0, None, "proven")


def test_import_builds_a_document_from_public_data(tmp_path):
    if not DATA.exists():
        pytest.skip("no public data beside the project")
    paths = {
        "cities": "cities/cities15000_min.csv",
        "regions": "cloud_regions",
        "pops": "edge_pops/cloudflare-edge-locations.json",
        "prices": "energy/electricity_price_hourly_2024.csv.gz",
        "accelerators": "gpu_perf/aiconfigurator_silicon_sample.csv",
        "access": "cloud_access_cdf/corneo2021_fig3_fig4_cdf.csv",
    }
    args = [part for key, value in paths.items() for part in (f"--{key}", str(DATA / value))]
    result = CliRunner().invoke(
        plan,
        ["import", *args, "--continents", "OC", "--places", "8", "--metros", "4", "--out", str(tmp_path / "oc")],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    data = read_input(tmp_path / "oc" / "plan.yaml")
    assert {p.continent for p in data.places} == {"OC"}
    assert sum(s.central for s in data.sites) >= 2
    assert all(a.source for a in data.assumptions)
    assert min(data.sites[0].energy_price_per_kwh) < max(data.sites[0].energy_price_per_kwh)
