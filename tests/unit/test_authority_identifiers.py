"""Ids drawn from base64url may begin or end with any of its letters; names may not."""

import base64

import pytest

from isochrone.authority.scope import check_identifier, check_name
from isochrone.errors import AuthorityError

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@pytest.mark.parametrize("letter", ALPHABET)
def test_every_base64url_letter_may_stand_first_and_last(letter: str) -> None:
    digest = base64.urlsafe_b64encode(bytes(32)).decode().rstrip("=")
    for text in (letter + digest[1:], digest[:-1] + letter, letter):
        assert check_identifier(text, "id") == text


@pytest.mark.parametrize("text", ["", " a", "a ", "a|b", "a\nb", "a,b", "x" * 129, None, 7, "ä"])
def test_what_could_be_read_differently_elsewhere_is_no_identifier(text: object) -> None:
    with pytest.raises(AuthorityError):
        check_identifier(text, "id")


@pytest.mark.parametrize("text", ["-a", "a-", "_a"])
def test_names_stay_stricter(text: str) -> None:
    with pytest.raises(AuthorityError):
        check_name(text, "name")
