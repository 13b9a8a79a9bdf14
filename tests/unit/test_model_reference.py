"""The reference pages name every key, every refusal and every header that the code knows, and their examples parse."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from isochrone.authority.grant import CLAIM_HEADERS
from isochrone.forward import headers, problem, routes
from isochrone.model.document import parse_fabric
from isochrone.model.fabric import Fabric
from isochrone.model.presets import PRESETS

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def models_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        inner = (field.annotation for field in annotation.model_fields.values())
        return {annotation}.union(*map(models_in, inner))
    return set().union(*map(models_in, get_args(annotation)))


def page(name: str) -> str:
    return (REFERENCE / name).read_text()


@pytest.mark.parametrize("model", sorted(models_in(Fabric), key=str))
def test_every_key_of_a_fabric_is_explained(model: type[BaseModel]) -> None:
    text = page("fabric.md")
    missing = [key for key in model.model_fields if f"`{key}`" not in text and f"`{key}:" not in text]
    assert not missing


def test_every_default_in_the_page_is_the_one_in_force() -> None:
    text = page("fabric.md")
    for key, default in re.findall(r"^\| `([a-z_0-9]+)` \| [^|]+ \| `([^`]+)` \|", text, flags=re.M):
        known = {
            field.default
            for model in models_in(Fabric)
            for name, field in model.model_fields.items()
            if name == key and not field.is_required()
        }
        texts = {str(value).lower() for value in known} | {str(value).removesuffix(".0") for value in known}
        nested = key == "on_record"  # its default is that of the key inside it
        assert nested or default.lower() in texts, (key, default, known)


def test_the_whole_example_parses() -> None:
    example = re.findall(r"```yaml\n(name: .*?)```", page("fabric.md"), flags=re.S)
    assert len(example) == 1
    parse_fabric(example[0])


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_in_the_page_with_its_figures(name: str) -> None:
    preset = PRESETS[name]
    row = f"| `{name}` | `{preset.metric}` | {preset.objective_ms:g} | {preset.quantile:g} |"
    assert row in page("fabric.md")


def test_every_kind_of_refusal_is_explained() -> None:
    sources = "".join(Path(str(module.__file__)).read_text() for module in (problem, routes))
    kinds = {mapper["headers_to_add"][0]["header"]["value"] for mapper in problem.local_replies("s")["mappers"]}
    kinds |= set(re.findall(r'"([a-z_]+)",\s*[1-5][0-9]{2},', sources)) | {
        "unavailable",
        "out_of_time",
        "out_of_bounds",
    }
    assert {"deadline", "unknown", "full"} <= kinds
    explained = set(re.findall(r"^\| `([a-z_]+)` \| [0-9]", page("refusals.md"), flags=re.M))
    assert kinds <= explained


def test_every_header_is_explained() -> None:
    text = page("headers.md")
    ours = {value for name, value in vars(headers).items() if name.isupper() and str(value).startswith(headers.PREFIX)}
    tags = re.compile(r"x-isochrone-[hk][0-8]")
    wanted = {name for name in (*ours, *CLAIM_HEADERS.values()) if not tags.fullmatch(name)} - {headers.PREFIX}
    assert not [name for name in wanted if f"`{name}`" not in text]
    assert all(f"`{name}`" in text for name in ("x-isochrone-h1", "x-isochrone-h8", "x-isochrone-k0", "x-isochrone-k8"))
