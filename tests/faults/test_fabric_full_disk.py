"""The disk of a site fills up: nothing is executed or minted without a record, others go on, and it all comes back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from isochrone.errors import PeerError
from isochrone.forward.problem import MEDIA_TYPE
from support.fabric import SITES, RunningFabric, until

KONSTANZ, FRANKFURT = SITES
DISK = "24m"
LENIENT = """
  lenient:
    workload: echo
    in_time: {quantile: 0.9, objective_ms: 500}
    in_bounds: {sites: [konstanz]}
    on_record: {when_unrecorded: continue}
    demand_rps: {konstanz: 5}
    price_per_1k: 1
    penalty_per_1k: 20
"""


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[RunningFabric]:
    """A fabric one of whose sites has a small disk of its own."""
    if sys.platform != "linux":
        pytest.skip("a small tmpfs needs Linux")
    made = RunningFabric.make(tmp_path, contracts=LENIENT)
    place = made.state / "sites" / KONSTANZ
    place.mkdir(parents=True)
    options = ["-o", f"size={DISK},mode=700", "tmpfs", str(place)]
    if subprocess.run(["mount", "-t", "tmpfs", *options], capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        made.up()
        yield made
    finally:
        made.close()
        until(
            lambda: subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode == 0,
            "unmounted",
        )


def fill(fabric: RunningFabric) -> Path:
    """Take every byte that is left."""
    filler = fabric.state / "sites" / KONSTANZ / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return filler


def call(fabric: RunningFabric, site: str, contract: str, token: str) -> httpx.Response | None:
    try:
        return fabric.call(site, contract, token)
    except httpx.HTTPError:
        return None


def is_unrecorded(answer: httpx.Response | None) -> bool:
    return answer is not None and answer.status_code == 503 and answer.json()["type"].endswith(":unrecorded")


def test_a_full_disk_stops_admission_at_that_site_only_until_there_is_room_again(fabric: RunningFabric) -> None:
    here, local = fabric.token(KONSTANZ), fabric.token(KONSTANZ, "lakeside")
    there, lenient = fabric.token(FRANKFURT), fabric.token(KONSTANZ, "lenient")
    filler = fill(fabric)
    # Traffic is what finds out: Envoy's journal lines and the log have nowhere to go.
    refused = until(
        lambda: answer if is_unrecorded(answer := call(fabric, KONSTANZ, "lakeside", local)) else None, "it refuses"
    )
    assert refused is not None
    assert refused.headers["content-type"] == MEDIA_TYPE
    assert refused.headers["x-isochrone-refused"] == "unrecorded"
    served = fabric.models[KONSTANZ].served
    for _ in range(10):
        assert is_unrecorded(fabric.call(KONSTANZ, "lakeside", local))
        assert is_unrecorded(fabric.call(KONSTANZ, "anywhere", here))
    assert fabric.models[KONSTANZ].served == served, "something ran without a record"

    assert fabric.call(KONSTANZ, "lenient", lenient).status_code == 200, "its contract says that it goes on"
    served = fabric.models[KONSTANZ].served

    with pytest.raises(PeerError) as caught:
        fabric.source(KONSTANZ).token()
    assert "HTTP 5" in str(caught.value)
    until(lambda: any("nothing is executed here" in a for a in fabric.report(KONSTANZ)["alarms"]), "its status says so")
    until(
        lambda: any("nothing is executed here" in a for a in fabric.status()["sites"][KONSTANZ]["alarms"]),
        "the fabric's status says so",
    )
    answers = [fabric.call(FRANKFURT, token=there) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert fabric.models[KONSTANZ].served == served, "another site handed an execution to one that cannot record it"

    os.unlink(filler)
    until(lambda: fabric.call(KONSTANZ, "lakeside").status_code == 200, "it serves again")
    execution = fabric.call(KONSTANZ, "lakeside").headers["x-isochrone-execution"]
    fabric.wait_recorded(execution)
    found = [record for record in fabric.entries(KONSTANZ) if record["kind"] == "finding"]
    assert any(record["what"] == "unrecorded" and "lenient, which went on" in record["detail"] for record in found)
