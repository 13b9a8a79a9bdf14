"""Refusals as they are compiled: problem documents that fit into Envoy's limit, with the right status."""

from __future__ import annotations

import json
from typing import Any

import pytest

from isochrone.forward.problem import MEDIA_TYPE, direct_response, local_replies, problem_type, refusal_response
from isochrone.plan.plan import Exclusion, ExclusionKind, Refusal

ENVOY_BODY_BYTES_MAX = 4096


def document(response: tuple[dict[str, Any], list[dict[str, Any]]]) -> dict[str, Any]:
    text = response[0]["body"]["inline_string"]
    assert len(text.encode()) <= ENVOY_BODY_BYTES_MAX
    body = json.loads(text)
    assert body["status"] == response[0]["status"]
    return dict(body)


def headers(response: tuple[dict[str, Any], list[dict[str, Any]]]) -> dict[str, str]:
    return {option["header"]["key"]: option["header"]["value"] for option in response[1]}


def refusal(*kinds: ExclusionKind, detail: str = "why") -> Refusal:
    excluded = tuple(
        Exclusion(f"site-{at}", kind, 12.5, 3.0, 9.5, 1.5, ("p1",), detail) for at, kind in enumerate(kinds)
    )
    return Refusal("No site is in time", "detail", "site-0", 12.5, 1.5, excluded)


@pytest.mark.parametrize(
    ("kinds", "status", "kind"),
    [
        (("out_of_time",), 422, "out_of_time"),
        (("out_of_bounds", "out_of_bounds"), 422, "out_of_bounds"),
        (("out_of_time", "out_of_bounds"), 422, "out_of_time"),
        (("out_of_time", "full"), 503, "unavailable"),
        (("down",), 503, "unavailable"),
        (("drained", "out_of_bounds"), 503, "unavailable"),
        (("not_placed",), 503, "unavailable"),
        (("no_hardware",), 422, "out_of_time"),
    ],
)
def test_what_time_may_mend_is_503_and_what_it_will_not_is_422(
    kinds: tuple[ExclusionKind, ...], status: int, kind: str
) -> None:
    response = refusal_response(refusal(*kinds), "line", 20.0)
    assert document(response)["status"] == status
    assert document(response)["type"] == problem_type(kind)
    named = headers(response)
    assert named["content-type"] == MEDIA_TYPE
    assert named["x-isochrone-refused"] == kind
    assert ("retry-after" in named) == (status == 503)


def test_a_refusal_names_every_site_with_its_reason_and_the_physics() -> None:
    body = document(refusal_response(refusal("out_of_time", "out_of_bounds"), "line", 20.0))
    assert (body["contract"], body["deadline_ms"], body["needed_ms"], body["floor_ms"]) == ("line", 20.0, 12.5, 1.5)
    assert [site["kind"] for site in body["sites"]] == ["out_of_time", "out_of_bounds"]
    assert body["sites"][1]["policies"] == ["p1"]


@pytest.mark.parametrize("count", [1, 20, 200, 2000])
@pytest.mark.parametrize("detail", ["", "short", "ü" * 300, '"\\' * 400])
def test_a_body_fits_however_many_sites_there_are(count: int, detail: str) -> None:
    kinds: list[ExclusionKind] = ["out_of_time"] * count
    body = document(refusal_response(refusal(*kinds, detail=detail), "c" * 63, 20.0))
    assert len(body["sites"]) + body.get("sites_left_out", 0) == count


@pytest.mark.parametrize("detail", ["x" * 100_000, "ü" * 50_000, '"' * 50_000])
def test_a_body_fits_however_long_its_detail_is(detail: str) -> None:
    shortened = document(direct_response({"type": "t", "title": "t", "status": 422, "detail": detail}, "deadline"))
    assert detail.startswith(shortened["detail"])
    assert shortened["detail"]


def test_equal_refusals_are_equal_bytes() -> None:
    assert refusal_response(refusal("full"), "line", 20.0) == refusal_response(refusal("full"), "line", 20.0)


def test_every_local_reply_is_a_problem_document_that_says_why() -> None:
    for mapper in local_replies("konstanz")["mappers"]:
        body = mapper["body_format_override"]
        assert body["content_type"] == MEDIA_TYPE
        kind = body["json_format"]["type"].rpartition(":")[2]
        named = {option["header"]["key"]: option["header"]["value"] for option in mapper["headers_to_add"]}
        assert named["x-isochrone-refused"] == kind
        assert body["json_format"]["site"] == "konstanz"
