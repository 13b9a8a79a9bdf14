"""Is a workload served only while its bundle holds, and does a site's own restriction hold?"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from isochrone.errors import AuthorityError
from isochrone.policy.bundle import Bundle, sign
from support.fabric import RunningFabric, until

SEED, DIGEST = bytes(range(32)), "ab" * 32
PUBLIC = base64.b64encode(Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw()).decode()
CARRIED = """@id("no-secrets")
forbid (principal, action in [Action::"place", Action::"exchange", Action::"execute"], resource)
when { context.data_class == "secret" };"""
OWN = """@id("not-here")
forbid (principal, action == Action::"execute", resource)
when { context.contract == Contract::"anywhere" };"""


def write(fabric: RunningFabric, revision: int, expires_s: float) -> None:
    bundle = Bundle({"echo": DIGEST}, {"quiet.cedar": CARRIED}, {}, revision, int(expires_s))
    (fabric.directory / "echo.json").write_bytes(sign(bundle, {"lab": SEED}))


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFabric]:
    made = RunningFabric.make(tmp_path_factory.mktemp("bundle"))
    document = yaml.safe_load(made.path.read_text())
    document["publishers"] = {"lab": {"key": PUBLIC}}
    document["workloads"]["echo"] |= {"publisher": "lab", "bundle": "echo.json"}
    document["workloads"]["echo"]["model"]["digest"] = f"sha256:{DIGEST}"
    made.path.write_text(yaml.safe_dump(document))
    write(made, 2, time.time() + 3600)
    own = made.state / "sites" / "frankfurt" / "policies"
    own.mkdir(parents=True)
    (own / "own.cedar").write_text(OWN)
    try:
        made.process = made.spawn("up", str(made.path), "--state", str(made.state))
        until(lambda: made.call("konstanz").status_code == 200, f"konstanz serves\n{made.output}", 60.0)
        yield made
    finally:
        made.close()


def test_what_enters_at_a_site_that_restricts_itself_runs_elsewhere(fabric: RunningFabric) -> None:
    """Its own policy forbids the execution there; the hub heard of it, so the plan sends it on."""
    until(lambda: fabric.call("frankfurt").status_code == 200, "frankfurt hands over")
    answers = [fabric.call("frankfurt") for _ in range(10)]
    assert {answer.json()["answer"] for answer in answers} == {"konstanz"}


def apply(fabric: RunningFabric, revision: int, life_s: float) -> None:
    write(fabric, revision, time.time() + life_s)
    done = fabric.run("apply", str(fabric.path), "--state", str(fabric.state), "--yes")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_bundle_that_expires_ends_the_workload_and_says_so(fabric: RunningFabric) -> None:
    apply(fabric, 3, 3600)
    assert fabric.call("konstanz").status_code == 200
    token = fabric.token("konstanz")
    apply(fabric, 4, 8)
    refused = until(lambda: a if (a := fabric.call("konstanz", token=token)).status_code >= 400 else None, "it expires")
    assert refused.headers["content-type"] == "application/problem+json"
    until(lambda: any("bundle-expired" in alarm for alarm in fabric.report("konstanz")["alarms"]), "an alarm says so")


def test_an_older_one_is_refused_by_the_site_and_a_newer_one_taken(fabric: RunningFabric) -> None:
    """The command does not know what sites have seen; they do."""
    apply(fabric, 1, 3600)
    until(lambda: any("bundle-downgrade" in a for a in fabric.report("konstanz")["alarms"]), "an alarm says so")
    with pytest.raises(AuthorityError, match="policy allows no site"):
        fabric.source("konstanz").token()
    apply(fabric, 5, 3600)
    until(lambda: fabric.call("konstanz").status_code == 200, "konstanz serves again")
