"""Is a bundle signed for its document, verified against it, and carried whole through an OCI layout?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from isochrone.cli.main import main
from isochrone.errors import InputError, IntegrityError
from isochrone.serve.oci_layout import pull, push

DEMO = Path(__file__).parents[2] / "src" / "isochrone" / "cli" / "demo"
FORBID = 'forbid (principal, action == Action::"execute", resource) when { resource.tier == "region" };'


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["bundle", *map(str, words)])


@pytest.fixture
def fabric(tmp_path: Path) -> Path:
    """A document whose voice workload brings a bundle, and the key and policy to make it with."""
    made = run("key", "lab", "--out", tmp_path / "lab.key")
    document = yaml.safe_load((DEMO / "fabric.yaml").read_text())
    document["publishers"] = yaml.safe_load(made.output.partition("\n\n")[2])["publishers"]
    document["policies"] = []
    document["contracts"]["line-audio"]["in_bounds"].pop("policies")
    voice = document["workloads"]["voice"]
    voice |= {"publisher": "lab", "bundle": "voice.json", "model": {"name": "m", "digest": "sha256:" + "ab" * 32}}
    (tmp_path / "no-region.cedar").write_text(FORBID)
    (tmp_path / "fabric.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "fabric.yaml"


def sign(fabric: Path, *more: object) -> Result:
    policies = fabric.parent / "no-region.cedar"
    return run("sign", fabric, "--workload", "voice", "--key", fabric.parent / "lab.key", "--policies", policies, *more)


def test_signed_and_verified(fabric: Path) -> None:
    assert "revision 1" in sign(fabric).output
    assert "revision 2" in sign(fabric).output
    done = run("verify", fabric, "--workload", "voice", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["revision"] == 2
    shown = run("show", fabric.parent / "voice.json").output
    assert "terms      line-audio" in shown
    assert FORBID in shown


def test_a_flipped_byte_and_an_expired_one_are_refused(fabric: Path) -> None:
    sign(fabric, "--days", 0)
    done = run("verify", fabric, "--workload", "voice")
    assert done.exit_code == 1
    assert "bundle-expired" in done.output
    sign(fabric)
    file = fabric.parent / "voice.json"
    envelope = json.loads(file.read_text())
    payload = envelope["payload"]
    envelope["payload"] = payload[:40] + ("A" if payload[40] != "A" else "B") + payload[41:]
    file.write_text(json.dumps(envelope))
    assert "bundle-signature" in run("verify", fabric, "--workload", "voice").output


def test_a_document_with_a_refused_bundle_is_a_mistake_at_its_line(fabric: Path) -> None:
    sign(fabric, "--days", 0)
    done = CliRunner().invoke(main, ["check", str(fabric)])
    assert done.exit_code == 1
    assert "workloads.voice.bundle: bundle-expired" in done.output
    (fabric.parent / "voice.json").unlink()
    assert "cannot read" in CliRunner().invoke(main, ["check", str(fabric)]).output


def test_through_an_oci_layout(fabric: Path, tmp_path: Path) -> None:
    sign(fabric)
    file, layout, back = fabric.parent / "voice.json", tmp_path / "layout", tmp_path / "back.json"
    first = run("push", file, layout, "--tag", "voice:1")
    assert first.output.startswith("sha256:")
    sign(fabric)
    run("push", file, layout, "--tag", "voice:2")
    assert run("pull", layout, "--tag", "voice:2", "--out", back).exit_code == 0
    assert back.read_bytes() == file.read_bytes()
    assert json.loads((layout / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    tags = [
        m["annotations"]["org.opencontainers.image.ref.name"]
        for m in json.loads((layout / "index.json").read_text())["manifests"]
    ]
    assert tags == ["voice:1", "voice:2"]
    assert "tags: voice:1, voice:2" in run("pull", layout, "--tag", "nope", "--out", back).stderr


def test_every_blob_of_a_layout_is_checked(tmp_path: Path) -> None:
    push(tmp_path, "t", b"an envelope", "t.json")
    for blob in (tmp_path / "blobs" / "sha256").iterdir():
        kept = blob.read_bytes()
        if kept == b"{}":
            continue  # the empty configuration is named by its digest and never read
        blob.write_bytes(b"x" + kept[1:])
        with pytest.raises(IntegrityError, match="not what its name says"):
            pull(tmp_path, "t")
        blob.unlink()
        with pytest.raises(IntegrityError, match="lacks the blob"):
            pull(tmp_path, "t")
        blob.write_bytes(kept)
    assert pull(tmp_path, "t") == b"an envelope"


@pytest.mark.parametrize("damage", ["index.json", "oci-layout"])
def test_what_is_no_layout(tmp_path: Path, damage: str) -> None:
    push(tmp_path, "t", b"an envelope", "t.json")
    (tmp_path / damage).write_text("[]")
    with pytest.raises(InputError, match="no OCI image layout"):
        pull(tmp_path, "t")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("verify", DEMO / "fabric.yaml", "--workload", "voice"), "names no bundle"),
        (("verify", DEMO / "fabric.yaml", "--workload", "nothing"), "workloads: chat, voice"),
        (("show", DEMO / "fabric.yaml"), "no bundle"),
        (("show", "/nowhere"), "cannot read"),
    ],
)
def test_what_cannot_be_done_says_why(words: tuple[object, ...], says: str) -> None:
    done = run(*words)
    assert done.exit_code == 1
    assert says in done.stderr
