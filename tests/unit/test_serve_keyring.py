"""Keys of people and agents on one machine."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from isochrone.errors import InputError
from isochrone.serve.keyring import Holder, Keyring


def test_a_holder_comes_back_with_its_key_and_chain(tmp_path: Path) -> None:
    ring = Keyring(tmp_path)
    made = ring.create("agent:caller", "Caller")
    ring.save(Holder(made.id, made.name, made.key, ("hop-one", "hop-two")))
    found = Keyring(tmp_path).get("agent:caller")
    assert found.chain == ("hop-one", "hop-two")
    assert found.key.public.thumbprint == made.key.public.thumbprint
    assert (found.kind, found.identity().kind) == ("agent", "agent")


def test_keys_are_this_users_alone(tmp_path: Path) -> None:
    Keyring(tmp_path).create("human:ada", "Ada")
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()] == [0o600]


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    ring = Keyring(tmp_path)
    first = ring.create("human:ada", "Ada")
    with pytest.raises(InputError) as caught:
        ring.create("human:ada", "Another")
    assert caught.value.code == "identity.exists"
    assert ring.get("human:ada").key.public == first.key.public


def test_who_is_not_here_is_named_with_who_is(tmp_path: Path) -> None:
    ring = Keyring(tmp_path)
    assert ring.all() == []
    assert ring.find("human:ada") is None
    with pytest.raises(InputError) as caught:
        ring.get("human:ada")
    assert (caught.value.code, caught.value.hint) == ("identity.unknown", "keys here: none")
    ring.create("human:ben", "Ben")
    with pytest.raises(InputError) as caught:
        ring.get("human:ada")
    assert "human:ben" in caught.value.hint


@pytest.mark.parametrize(
    "name", ["ada", "", ":", "human:", "robot:x", "human:../../etc", "human:a/b", "agent:a b", "agent:-"]
)
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        Keyring(tmp_path).create(name, "x")
    assert caught.value.code == "identity.name"
    assert not (tmp_path / "keys").exists()
