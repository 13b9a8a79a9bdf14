"""Parsing: every mistake is found, with its file and line; ids and digests are stable."""

from __future__ import annotations

import pytest

from isochrone.errors import PolicyError
from isochrone.policy import PolicySet, PolicyTextError
from isochrone.policy.policies import split

EXECUTE = 'principal, action == Action::"execute", resource'


def findings(**texts: str) -> list[tuple[str, int, str]]:
    with pytest.raises(PolicyTextError) as caught:
        PolicySet.parse(texts)
    return [(finding.file, finding.line, finding.what) for finding in caught.value.findings]


def test_all_mistakes_of_all_files_are_reported() -> None:
    a = f'// a note; with a semicolon\npermit({EXECUTE})\nwhen {{ context.foo == "x" }};\n\npermit(;\n'
    b = f'permit({EXECUTE}) when {{ principal.depth == "1" }};'
    found = findings(a=a, b=b)
    assert [(file, line) for file, line, _ in found] == [("a", 2), ("a", 5), ("b", 1)]
    assert "foo" in found[0][2]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("permit(principal, action, resource)", "end"),
        ("permit(principal == ?principal, action, resource);", "template"),
        ('permit(principal, action == Action::"fly", resource);', "fly"),
        (f"permit({EXECUTE}) when {{ context.measured.rtt_us < 3 }};", "measured"),
        (f"permit({EXECUTE}) when {{ context.hour_utc < 99999999999999999999 }};", "integer"),
        (";", "token"),
        (f'permit({EXECUTE}) when {{ "unfinished', "token"),
    ],
)
def test_one_mistake(text: str, says: str) -> None:
    (found,) = findings(f=text)[:1]
    assert found[1] == 1
    assert says in found[2]


@pytest.mark.parametrize(
    "expression",
    [
        "(" * 5000 + "true" + ")" * 5000,
        " && ".join(["true"] * 5000),
        "context" + ".a" * 5000,
        "if true then true else " * 5000,
    ],
)
def test_text_that_would_overflow_the_parser_is_a_finding(expression: str) -> None:
    # Cedar's recursive parser would end the process; brackets in strings do not count.
    ((_, line, what),) = findings(f=f'permit({EXECUTE}) when {{ "{"(" * 9000}" == "" || {expression} }};')
    assert line == 1
    assert "limit" in what


def test_the_same_id_twice_is_named_with_its_first_place() -> None:
    ((file, line, what),) = findings(f=f'@id("x") permit({EXECUTE});\n@id("x") forbid({EXECUTE});')
    assert (file, line) == ("f", 2)
    assert "f:1" in what


def test_ids_come_from_the_annotation_or_the_place() -> None:
    parsed = PolicySet.parse({"f.cedar": f'permit({EXECUTE});\n@id("named") forbid({EXECUTE});'})
    assert [policy.id for policy in parsed.policies] == ["f.cedar:0", "named"]


def test_digest_ignores_layout_and_order_but_no_meaning() -> None:
    one, two = (
        f'@id("a") permit({EXECUTE});',
        f'@id("b") forbid({EXECUTE}) when {{ context.hour_utc == 9223372036854775807 }};',
    )
    digest = PolicySet.parse({"x": one + two}).digest
    assert digest == PolicySet.parse({"2": two.replace(" ", "\n"), "y": f"// note\n{one}"}).digest
    assert digest != PolicySet.parse({"x": one + two.replace("5807", "5806")}).digest
    assert digest != PolicySet.parse({"x": one}).digest


def test_a_site_adds_policies_and_cannot_change_any() -> None:
    base = PolicySet.parse({"x": f'@id("a") permit({EXECUTE});'})
    both = base + PolicySet.parse({"y": f'@id("b") forbid({EXECUTE});'})
    assert [policy.id for policy in both.policies] == ["a", "b"]
    with pytest.raises(PolicyError, match="'a'"):
        base + PolicySet.parse({"y": f'@id("a") forbid({EXECUTE});'})


def test_split_keeps_semicolons_in_strings_and_comments() -> None:
    text = 'a "x;\\"" // ; \n b;  // tail;\n\nc "//";'
    assert list(split(text)) == [(1, 'a "x;\\"" // ; \n b;'), (4, 'c "//";')]
    assert list(split("  // only a comment")) == []
