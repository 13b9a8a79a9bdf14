"""The table of attacks names tests that exist."""

from __future__ import annotations

import pytest

from support.attacks import ATTACKS, defined


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_is_tried_by_a_test_that_is_there(attack: str) -> None:
    for file, name in ATTACKS[attack]:
        assert any(each.startswith(name) for each in defined(file)), f"{file} has no {name}"
