"""Documents: YAML text in, a validated `Fabric` out, or every mistake at once with file, line and remedy."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from isochrone.errors import InputError
from isochrone.model.fabric import Fabric, Mistake, cross_check
from isochrone.model.presets import PRESETS

__all__ = ["DocumentError", "Finding", "parse_fabric"]

Path = tuple[str | int, ...]
_MAX_CHARS = 4_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake with its place. `line` and `column` count from 1."""

    file: str
    line: int
    column: int
    where: str
    problem: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"{self.file}:{self.line}:{self.column}: {self.where + ': ' if self.where else ''}{self.problem}"
        return f"{text}\n    {self.hint}" if self.hint else text


class DocumentError(InputError):
    """A document with mistakes; `findings` holds all of them in the order of the text."""

    code = "input.document"

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = sorted(findings, key=lambda f: (f.file, f.line, f.column))
        count = len(findings)
        super().__init__(
            f"{count} mistake{'s' if count != 1 else ''}\n" + "\n".join(map(str, self.findings)),
            hint="mend the lines named above and run the command again",
        )


def parse_fabric(text: str, file: str = "fabric.yaml") -> Fabric:
    """Parse and validate a fabric document.

    Args:
        text: YAML 1.1 as PyYAML's safe loader reads it, without anchors that expand (aliases are refused).
        file: name to show in findings.

    Raises:
        DocumentError: with every mistake found; syntax errors stop at the first, since what follows cannot be read.
    """
    data, marks, findings = _load(text, file)
    if findings:
        raise DocumentError(findings)
    _apply_presets(data, mistakes := [])
    try:
        fabric = Fabric.model_validate(data, strict=False)
    except ValidationError as error:
        mistakes += [_mistake(detail, data) for detail in error.errors(include_url=False)]
    else:
        mistakes += cross_check(fabric)
        if not mistakes:
            return fabric
    raise DocumentError([_place(mistake, marks, file) for mistake in mistakes])


# --- reading YAML with places -------------------------------------------------------------------------------------


def _load(text: str, file: str) -> tuple[Any, dict[Path, tuple[int, int]], list[Finding]]:
    """Plain data, the place of every key and item, and syntax findings (duplicate keys, aliases, bad YAML)."""
    marks: dict[Path, tuple[int, int]] = {}
    findings: list[Finding] = []
    if len(text) > _MAX_CHARS:
        return None, marks, [Finding(file, 1, 1, "", f"the file is over {_MAX_CHARS:,} characters", "split it")]
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            return None, marks, [Finding(file, 1, 1, "", "YAML aliases (*name) are not read", "write the value out")]
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.MarkedYAMLError, yaml.reader.ReaderError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        return None, marks, [Finding(file, line, column, "", f"not readable as YAML: {problem}")]
    if root is None:
        return None, marks, [Finding(file, 1, 1, "", "the file is empty", "see examples/fabric.yaml for a start")]
    _walk(root, (), marks, findings, file)
    data = None if findings else yaml.safe_load(text)
    if not findings and not isinstance(data, dict):
        findings.append(Finding(file, 1, 1, "", "the document is not a mapping", "start with `name: my-fabric`"))
    return data, marks, findings


def _walk(node: yaml.Node, path: Path, marks: dict[Path, tuple[int, int]], out: list[Finding], file: str) -> None:
    marks.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line, column = key.start_mark.line + 1, key.start_mark.column + 1
            name = str(getattr(key, "value", ""))
            if name in seen:
                where = ".".join(map(str, (*path, name)))
                out.append(Finding(file, line, column, where, f"{name!r} stands here twice", "keep one of them"))
            seen.add(name)
            marks[(*path, name)] = (line, column)
            _walk(value, (*path, name), marks, out, file)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(value, (*path, index), marks, out, file)


def _place(mistake: Mistake, marks: dict[Path, tuple[int, int]], file: str) -> Finding:
    path = mistake.path
    while path and path not in marks:
        path = path[:-1]
    line, column = marks.get(path, (1, 1))
    return Finding(file, line, column, ".".join(map(str, mistake.path)), mistake.problem, mistake.hint)


# --- presets and wording ------------------------------------------------------------------------------------------


def _apply_presets(data: dict[str, Any], mistakes: list[Mistake]) -> None:
    """Fill `in_time` from `preset`, where the contract does not say otherwise. Mutates `data`."""
    contracts = data.get("contracts")
    for name, contract in contracts.items() if isinstance(contracts, dict) else ():
        if not isinstance(contract, dict) or "preset" not in contract:
            continue
        preset = PRESETS.get(str(contract.pop("preset")))
        if preset is None:
            path = ("contracts", str(name), "preset")
            mistakes.append(Mistake(path, "there is no such preset", f"presets: {', '.join(PRESETS)}"))
            contract.setdefault("in_time", {"objective_ms": 1})
        elif isinstance(own := contract.get("in_time", {}), dict):
            contract["in_time"] = preset.in_time() | own


def _mistake(detail: ErrorDetails, data: Any) -> Mistake:
    # pydantic puts the union's branch into the path; it is no key of the document.
    path = tuple(part for part in detail["loc"] if part not in ("process", "external", "[key]"))
    kind, hint = detail["type"], ""
    problem = detail["msg"].removeprefix("Value error, ")
    problem = problem[:1].lower() + problem[1:]
    if kind == "extra_forbidden":
        known = _known_keys(path[:-1])
        close = difflib.get_close_matches(str(path[-1]), known, n=1)
        problem = f"{path[-1]!r} is not a known key here"
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
    elif kind == "missing":
        problem, hint = f"{path[-1]!r} is missing", f"add `{path[-1]}:`"
    elif kind == "string_pattern_mismatch":
        problem = f"{detail['input']!r} has a shape that is not allowed here"
        hint = f"it must match {detail['ctx']['pattern']}"
    elif "input" in detail and isinstance(detail["input"], str | int | float | bool):
        problem = f"{problem} (found {detail['input']!r})"
    return Mistake(path, problem, hint)


def _known_keys(path: Path) -> list[str]:
    """Keys allowed at `path`, by walking the model's own field types."""
    models: list[Any] = [Fabric]
    for part in path:
        following: list[Any] = []
        for model in models:
            field = model.model_fields.get(str(part))
            following += _models_in(field.annotation) if field else [model]
        models = following
    extra = ["preset"] if len(path) == 2 and path[0] == "contracts" else []
    return sorted({key for model in models for key in model.model_fields} | set(extra))


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]
