"""Do `explain` and `reach` answer from a document alone, and refuse what they cannot answer?"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from isochrone.cli.main import main
from isochrone.console.picture import bearing_rad
from isochrone.control.node import emulated_rtt_ms
from isochrone.model.document import parse_fabric
from isochrone.model.site import Position

DEMO = Path(__file__).parents[2] / "src" / "isochrone" / "cli" / "demo" / "fabric.yaml"
VOICE = ("reach", "--fabric", DEMO, "--workload", "voice")


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_explain_without_a_hub() -> None:
    done = run("explain", "--contract", "line-audio", "--from", "konstanz", "--fabric", DEMO, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["options"][0]["site"] == "konstanz"
    out = {each["site"]: each for each in found["exclusions"]}
    assert out["zurich"]["kind"] == "out_of_bounds"
    assert "eu-only-biometric" in out["zurich"]["policies"]
    people = run("explain", "--contract", "line-audio", "--from", "konstanz", "--fabric", DEMO).output
    assert "eu-only-biometric" in people
    assert "What would change it" in people


def test_explain_shows_a_refusal_and_its_physics() -> None:
    people = run("explain", "--contract", "reflex-chat", "--from", "konstanz", "--fabric", DEMO).output
    assert "refused: No site can answer within 5 ms" in people
    assert "light in fibre" in people


BAD = {
    "contract": (("explain", "--contract", "x", "--from", "konstanz", "--fabric", DEMO), "contracts: "),
    "site": (("explain", "--contract", "assistant", "--from", "x", "--fabric", DEMO), "sites: "),
    "rung": (
        ("explain", "--contract", "assistant", "--from", "konstanz", "--within", "7ms", "--fabric", DEMO),
        "rungs: 5, 10",
    ),
    "time without unit": ((*VOICE, "--from", "konstanz", "--within", "20"), "a number and its unit"),
    "time of nothing": ((*VOICE, "--from", "konstanz", "--within", "0ms"), "a number and its unit"),
    "negative time": ((*VOICE, "--from", "konstanz", "--within=-5ms"), "a number and its unit"),
    "workload": (
        ("reach", "--fabric", DEMO, "--workload", "x", "--from", "konstanz", "--within", "5ms"),
        "workloads: ",
    ),
    "place": ((*VOICE, "--from", "atlantis", "--within", "5ms"), "neither a site nor a position"),
    "latitude": ((*VOICE, "--from", "91,0", "--within", "5ms"), "neither a site nor a position"),
    "digits": ((*VOICE, "--from", "1.2.3,0", "--within", "5ms"), "neither a site nor a position"),
    "quantile": ((*VOICE, "--from", "konstanz", "--within", "5ms", "--quantile", "1"), "no quantile"),
    "picture": ((*VOICE, "--from", "konstanz", "--within", "5ms", "--picture", "x.bmp"), "end its name in"),
    "folder": ((*VOICE, "--from", "konstanz", "--within", "5ms", "--picture", "/nowhere/x.png"), "cannot write"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_questions_are_refused_with_what_to_do(case: str) -> None:
    words, said = BAD[case]
    done = run(*words)
    assert done.exit_code == 1, done.output
    assert said in done.output
    assert "Traceback" not in done.output


def test_reach_from_a_site_takes_the_stated_distances() -> None:
    found = json.loads(run(*VOICE, "--from", "konstanz", "--within", "20ms", "--json").output)
    rtt_ms = {site["site"]: site["rtt_s"] * 1e3 for site in found["sites"] if site["site"] != "konstanz"}
    stated = emulated_rtt_ms(parse_fabric(DEMO.read_text()), "konstanz")
    assert rtt_ms == {site: pytest.approx(value, rel=0.02) for site, value in stated.items()}
    assert 300e3 < found["expected_m"] < found["possible_m"] < 1.5e6


def test_reach_from_a_position_and_when_nothing_is_near_enough() -> None:
    done = run(*VOICE, "--from=-33.9, 18.4", "--within", "0.002s")
    assert done.exit_code == 0, done.output
    assert "no site can be near enough" in done.output


@pytest.mark.parametrize("within", ["20ms", "500us"])
@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_pictures_are_written(tmp_path: Path, within: str, kind: str) -> None:
    path = tmp_path / f"isochrone.{kind}"
    done = run(*VOICE, "--from", "konstanz", "--within", within, "--picture", path)
    assert done.exit_code == 0, done.output
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert path.read_bytes().startswith(starts[kind])
    assert f"wrote {path}" in done.output


@pytest.mark.parametrize(("lat", "lon", "degrees"), [(10, 0, 0), (0, 10, 90), (-10, 0, 180), (0, -10, -90)])
def test_bearings(lat: float, lon: float, degrees: float) -> None:
    assert math.degrees(bearing_rad(Position(lat=0, lon=0), Position(lat=lat, lon=lon))) == pytest.approx(degrees)
