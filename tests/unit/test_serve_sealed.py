"""Can whoever carries the hub's documents write, mix up, roll back or blow up one of them?"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import pytest

from isochrone.authority.jose import sign_compact
from isochrone.authority.testing import named_key
from isochrone.errors import IntegrityError
from isochrone.serve import mailbox
from isochrone.serve.sealed import DOCUMENT_BYTES_MAX, open_sealed, seal

HUB, OTHER = named_key("hub"), named_key("other hub")
BODY = {"fabric": "name: x", "policies": {"a.cedar": "permit"}}


def code(kind: str, data: bytes, **options: Any) -> str:
    with pytest.raises(IntegrityError) as caught:
        open_sealed(kind, data, HUB.public, **options)
    return str(caught.value.code)


def forged(claims: dict[str, Any], kind: str = "fabric") -> bytes:
    return sign_compact(claims, HUB, typ=f"isochrone-{kind}+jwt").encode()


def packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()


@pytest.mark.parametrize("kind", [mailbox.FABRIC_KEY, mailbox.PLAN_KEY, mailbox.ROSTER_KEY, mailbox.PEOPLE_KEY])
def test_what_is_sealed_is_opened(kind: str) -> None:
    assert open_sealed(kind, seal(kind, 7, BODY, HUB), HUB.public) == (7, BODY)


def test_nobody_goes_back() -> None:
    old = seal("plan", 6, BODY, HUB)
    assert code("plan", old, after=7) == "sealed.rollback"
    assert open_sealed("plan", old, HUB.public, after=6)[0] == 6, "the same again is harmless"


def test_only_the_hub_writes() -> None:
    assert code("fabric", seal("fabric", 1, BODY, OTHER)) == "sealed.signature"


def test_a_document_of_one_kind_is_none_of_another() -> None:
    assert code("plan", seal("fabric", 1, BODY, HUB)) == "sealed.form"


@pytest.mark.parametrize("cut", [0, 1, 10, -1, -40, -400])
def test_a_document_cut_short_is_none(cut: int) -> None:
    with pytest.raises(IntegrityError):
        open_sealed("fabric", seal("fabric", 1, BODY | {"x": "y" * 3000}, HUB)[:cut], HUB.public)


def test_every_flipped_character_is_noticed() -> None:
    data = seal("fabric", 1, {"a": 1}, HUB)
    for at in range(len(data)):
        flipped = data[:at] + (b"A" if data[at : at + 1] != b"A" else b"B") + data[at + 1 :]
        with pytest.raises(IntegrityError):
            open_sealed("fabric", flipped, HUB.public)


def test_a_small_document_does_not_become_a_large_one() -> None:
    bomb = packed(b'{"a":"' + b"0" * (100 * 1024 * 1024) + b'"}')
    assert len(bomb) < 1024 * 1024
    assert code("fabric", forged({"number": 1, "body": bomb})) == "sealed.form"


@pytest.mark.parametrize(
    "claims",
    [
        {}, {"number": 1}, {"body": packed(b"{}")}, {"number": "1", "body": packed(b"{}")},
        {"number": True, "body": packed(b"{}")}, {"number": 1.5, "body": packed(b"{}")},
        {"number": 1, "body": packed(b"[]")}, {"number": 1, "body": packed(b"not json")}, {"number": 1, "body": "***"},
        {"number": 1, "body": base64.b64encode(b"not zlib").decode()}, {"number": 1, "body": 3},
        {"number": 1, "body": packed(b"{}")[:-8]},
    ],
    ids=lambda claims: json.dumps(claims)[:40],
)  # fmt: skip
def test_signed_nonsense_is_refused_as_such(claims: dict[str, Any]) -> None:
    assert code("fabric", forged(claims)) == "sealed.form"


@pytest.mark.parametrize("data", [b"", b"...", b"\xff\xfe\xfd", b"a.b.c", b"." * 100, b"A" * (DOCUMENT_BYTES_MAX + 1)])
def test_what_is_no_document_is_refused(data: bytes) -> None:
    assert code("fabric", data) == "sealed.form"


@pytest.mark.parametrize(
    ("key", "number"),
    [(mailbox.entry_key(7), 7), ("entry.1", 1), ("entry.", None), ("entry.x", None), ("entry.-1", None),
     ("entry.\u0663", None), ("heartbeat", None), ("7", None)],
)  # fmt: skip
def test_a_feed_entrys_key_gives_its_number_and_nothing_else_does(key: str, number: int | None) -> None:
    assert mailbox.entry_number(key) == number
