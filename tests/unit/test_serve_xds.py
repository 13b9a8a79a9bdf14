"""Are Envoy's files understood, ordered and refused as they must be?"""

import json
from pathlib import Path
from typing import Any

import pytest

from isochrone.errors import InputError
from isochrone.serve.xds import Target, keep_removed_clusters, rejections_of, target_of, versions_of, write_files

T = "type.googleapis.com/envoy."
CLUSTER, LOAD = T + "config.cluster.v3.Cluster", T + "config.endpoint.v3.ClusterLoadAssignment"
ROUTES, LISTENER = T + "config.route.v3.RouteConfiguration", T + "config.listener.v3.Listener"


def file(kind: str, *names: str, version: str = "1", key: str = "name") -> bytes:
    return json.dumps({"version_info": version, "resources": [{"@type": kind, key: n} for n in names]}).encode()


def test_a_files_target_is_what_it_configures_not_what_it_is_called() -> None:
    assert target_of("any.json", file(CLUSTER, "a", "b")) == (Target("cds", ""), "1")
    assert target_of("any.json", file(LOAD, "site:1", key="cluster_name")) == (Target("eds", "site_1"), "1")
    assert target_of("any.json", file(ROUTES, "in")) == (Target("rds", "in"), "1")
    assert target_of("cds.json", file(CLUSTER)) == (Target("cds", ""), "1")
    assert target_of("lds/all.json", file(LISTENER)) == (Target("lds", ""), "1")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"resources": []}',
        b'{"version_info": "1", "resources": [{}]}',
        file("type.googleapis.com/unknown", "x"),
        file(ROUTES, "one", "two"),
        file(ROUTES),
        json.dumps({"version_info": "1", "resources": [{"@type": CLUSTER}, {"@type": LISTENER}]}).encode(),
    ],
)
def test_what_envoy_could_not_take_is_refused_before_it_is_written(data: bytes, tmp_path: Path) -> None:
    good = file(CLUSTER, "a")
    with pytest.raises(InputError) as caught:
        write_files(tmp_path, {"cds/cds.json": good, "x/rds.json": data})
    assert caught.value.code == "envoy.file"
    assert "x/rds.json" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_versions_and_rejections_are_read_from_statistics() -> None:
    stats: dict[str, Any] = {
        "cluster_manager.cds.version_text": "c",
        "cluster.a.b.version_text": "e",
        "sds.identity.version_text": "s",
        "http.in.rds.rt.version_text": "r1",
        "http.mesh.rds.rt.version_text": "r2",
        "extension_config_discovery.http_filter.revocation.version_text": "x",
        "listener_manager.lds.update_rejected": 2,
        "cluster.a.b.update_rejected": 1,
        "cluster.a.b.update_failure": 4,
        "server.live": 1,
    }
    assert versions_of(stats) == {
        Target("cds", ""): {"c"},
        Target("eds", "a.b"): {"e"},
        Target("sds", "identity"): {"s"},
        Target("rds", "rt"): {"r1", "r2"},
        Target("ecds", "revocation"): {"x"},
    }
    assert rejections_of(stats) == {Target("lds", ""): 2, Target("eds", "a.b"): 5}


def test_the_bridge_keeps_clusters_that_go() -> None:
    old, new = file(CLUSTER, "a", "b"), file(CLUSTER, "b", "c", version="2")
    bridge = keep_removed_clusters(old, new)
    assert bridge is not None
    document = json.loads(bridge)
    assert [c["name"] for c in document["resources"]] == ["b", "c", "a"]
    assert document["version_info"] == "2+kept"
    assert keep_removed_clusters(new, file(CLUSTER, "b", "c", "d", version="3")) is None


def test_removal_comes_last_and_may_be_repeated(tmp_path: Path) -> None:
    write_files(tmp_path, {"eds/a.json": file(LOAD, "a", key="cluster_name")})
    for _ in range(2):
        write_files(tmp_path, {"cds/cds.json": file(CLUSTER)}, remove=["eds/a.json", "nowhere/x.json"])
    assert not (tmp_path / "eds" / "a.json").exists()
