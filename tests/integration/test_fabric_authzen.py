"""Do hub and node answer AuthZEN requests by the policies in force, to callers with the token alone?"""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from support.fabric import RunningFabric, running_fabric

EVALUATION = {
    "subject": {"type": "agent", "id": "agent:caller", "properties": {"human": "human:operator", "depth": 1}},
    "action": {"name": "execute"},
    "resource": {"type": "site", "id": "konstanz"},
    "context": {"contract": "anywhere", "workload": "echo", "data_class": "public"},
}


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFabric]:
    with running_fabric(tmp_path_factory.mktemp("authzen")) as made:
        yield made


def points(fabric: RunningFabric) -> dict[str, tuple[str, str]]:
    """URL and token of each decision point."""
    hub, site = fabric.state / "hub", fabric.state / "sites" / "konstanz"
    node_api = json.loads((site / "ports.json").read_bytes())["node_api"]
    return {
        "hub": (json.loads((hub / "api.json").read_bytes())["url"], (hub / "api.token").read_text()),
        "node": (f"http://{node_api}", (site / "api.token").read_text()),
    }


@pytest.mark.parametrize("which", ["hub", "node"])
def test_the_policies_in_force_decide(fabric: RunningFabric, which: str) -> None:
    base, token = points(fabric)[which]
    endpoints = httpx.get(f"{base}/.well-known/authzen-configuration").json()
    headers = {"authorization": f"Bearer {token}", "x-request-id": "r-1"}
    answer = httpx.post(endpoints["access_evaluation_endpoint"], json=EVALUATION, headers=headers)
    assert answer.json()["decision"] is True
    assert answer.headers["x-request-id"] == "r-1"
    assert answer.json()["context"]["reasons"][0]["policy"] == "agents-may"
    sites = [{"resource": {"type": "site", "id": name}} for name in ("frankfurt", "atlantis")]
    both = httpx.post(
        endpoints["access_evaluations_endpoint"], json=EVALUATION | {"evaluations": sites}, headers=headers
    )
    assert [each["decision"] for each in both.json()["evaluations"]] == [True, False]
    assert httpx.post(endpoints["access_evaluation_endpoint"], content=b"[", headers=headers).status_code == 400
    assert httpx.post(endpoints["access_evaluation_endpoint"], json=EVALUATION).status_code == 401


def test_clients_of_the_site_do_not_reach_them(fabric: RunningFabric) -> None:
    token = points(fabric)["node"][1]
    for path in ("/access/v1/evaluation", "/.isochrone/access/v1/evaluation", "/.isochrone/../access/v1/evaluation"):
        url = f"{fabric.base('konstanz')}{path}"
        assert httpx.post(url, json=EVALUATION, headers={"authorization": f"Bearer {token}"}).status_code >= 400
