"""Documents: YAML text in, a validated `Fabric` out, or every mistake at once with file, line and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from isochrone.errors import InputError
from isochrone.model.fabric import Fabric, Mistake, cross_check
from isochrone.model.presets import PRESETS

__all__ = ["DocumentError", "Draft", "Finding", "draft_fabric", "parse_fabric"]

Path = tuple[str | int, ...]
_MAX_CHARS = 4_000_000
_DEPTH_MAX = 50
_TAG = "tag:yaml.org,2002:"
_SCALARS = frozenset(_TAG + kind for kind in ("str", "int", "float", "bool", "null"))
_BRANCHES = ("process", "external")
_CONSTRUCTOR = yaml.constructor.SafeConstructor()


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


@dataclass(frozen=True, slots=True)
class Draft:
    """A fabric document read as far as it can be read.

    Attributes:
        fabric: None exactly when there are findings.
        files: name and keys of every Cedar file and bundle the document names, whatever else is wrong with it.
    """

    file: str
    fabric: Fabric | None
    files: tuple[tuple[str, Path], ...]
    findings: tuple[Finding, ...]
    marks: Mapping[Path, tuple[int, int]]

    def place(self, mistake: Mistake) -> Finding:
        """The mistake at its line and column; where its key does not stand in the text, at the nearest one above."""
        path = mistake.path
        while path and path not in self.marks:
            path = path[:-1]
        line, column = self.marks.get(path, (1, 1))
        return Finding(self.file, line, column, ".".join(map(str, mistake.path)), mistake.problem, mistake.hint)


def parse_fabric(text: str, file: str = "fabric.yaml") -> Fabric:
    """Parse and validate a fabric document.

    Args:
        text: YAML 1.1 as PyYAML's safe loader reads it, without anchors that expand (aliases are refused).
        file: name to show in findings.

    Raises:
        DocumentError: with every mistake found; syntax errors stop at the first, since what follows cannot be read.
    """
    draft = draft_fabric(text, file)
    if draft.fabric is None:
        raise DocumentError(list(draft.findings))
    return draft.fabric


def draft_fabric(text: str, file: str = "fabric.yaml") -> Draft:
    """As `parse_fabric`, for callers that go on after mistakes to find those of other files as well."""
    data, marks, findings = _load(text, file)
    draft = Draft(file, None, _named_files(data), tuple(findings), marks)
    if findings:
        return draft
    _apply_presets(data, mistakes := [])
    fabric = None
    try:
        fabric = Fabric.model_validate(data, strict=False)
    except ValidationError as error:
        mistakes += [_mistake(detail, data) for detail in error.errors(include_url=False)]
    else:
        mistakes += cross_check(fabric)
    return replace(draft, fabric=None if mistakes else fabric, findings=tuple(map(draft.place, mistakes)))


def _named_files(data: Any) -> tuple[tuple[str, Path], ...]:
    data = data if isinstance(data, dict) else {}
    policies, workloads = data.get("policies"), data.get("workloads")
    named: list[tuple[Any, Path]] = []
    if isinstance(policies, list):
        named += [(name, ("policies", index)) for index, name in enumerate(policies)]
    for name, workload in workloads.items() if isinstance(workloads, dict) else ():
        if isinstance(workload, dict):
            named.append((workload.get("bundle"), ("workloads", name, "bundle")))
    return tuple((file, path) for file, path in named if isinstance(file, str))


# --- reading YAML with places -------------------------------------------------------------------------------------


def _load(text: str, file: str) -> tuple[Any, dict[Path, tuple[int, int]], list[Finding]]:
    """Plain data, the place of every key and item, and syntax findings (duplicate keys, aliases, bad YAML)."""
    marks: dict[Path, tuple[int, int]] = {}
    findings: list[Finding] = []
    if len(text) > _MAX_CHARS:
        return None, marks, [Finding(file, 1, 1, "", f"the file is over {_MAX_CHARS:,} characters", "split it")]
    try:
        if (finding := _refused_event(text, file)) is not None:
            return None, marks, [finding]
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.MarkedYAMLError, yaml.reader.ReaderError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        return None, marks, [Finding(file, line, column, "", f"not readable as YAML: {problem}")]
    if root is None:
        return None, marks, [Finding(file, 1, 1, "", "the file is empty", "see examples/fabric.yaml for a start")]
    data = _walk(root, (), marks, findings, file)
    if not findings and not isinstance(data, dict):
        findings.append(Finding(file, 1, 1, "", "the document is not a mapping", "start with `name: my-fabric`"))
    return data, marks, findings


def _refused_event(text: str, file: str) -> Finding | None:
    """What must be refused before it is composed: aliases, which can expand without end, and endless nesting."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        mark = event.start_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        if isinstance(event, yaml.AliasEvent):
            return Finding(file, *place, "", f"YAML aliases (*{event.anchor}) are not read", "write the value out")
        if depth > _DEPTH_MAX:
            return Finding(file, *place, "", f"nested deeper than {_DEPTH_MAX} levels", "no key of a fabric is")
    return None


def _walk(node: yaml.Node, path: Path, marks: dict[Path, tuple[int, int]], out: list[Finding], file: str) -> Any:
    """The plain value of `node`; notes the place of everything below it and what is not plain."""
    marks.setdefault(path, _start(node))
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        return _walk_mapping(node, path, marks, out, file)
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        return [_walk(value, (*path, index), marks, out, file) for index, value in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode) and node.tag in _SCALARS:
        try:
            return _CONSTRUCTOR.construct_object(node)
        except (ValueError, KeyError):
            pass  # a tag that says number where none stands
    where, kind = ".".join(map(str, path)), node.tag.removeprefix(_TAG)
    out.append(Finding(file, *_start(node), where, f"this is read as {kind}, which no key takes", "quote the value"))
    return None


def _walk_mapping(
    node: yaml.MappingNode, path: Path, marks: dict[Path, tuple[int, int]], out: list[Finding], file: str
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.value:
        if key.tag != _TAG + "str":
            kind = key.tag.removeprefix(_TAG)
            problem = f"a key must be text, and this is read as {kind}"
            out.append(Finding(file, *_start(key), ".".join(map(str, path)), problem, "quote the key"))
            continue
        if key.value in found:
            where = ".".join(map(str, (*path, key.value)))
            out.append(Finding(file, *_start(key), where, f"{key.value!r} stands here twice", "keep one of them"))
        marks[(*path, key.value)] = _start(key)
        found[key.value] = _walk(value, (*path, key.value), marks, out, file)
    return found


def _start(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


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
    loc = detail["loc"]
    path = tuple(
        part
        for at, part in enumerate(loc)
        if part != "[key]" and not (at and loc[at - 1] == "runtime" and part in _BRANCHES)
    )
    kind, hint = detail["type"], ""
    problem = detail["msg"].removeprefix("Value error, ")
    problem = problem[:1].lower() + problem[1:]
    if kind == "extra_forbidden":
        known = _known_keys(path[:-1])
        close = difflib.get_close_matches(str(path[-1]), known, n=1)
        problem = f"{path[-1]!r} is not a known key here"
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
    elif kind in ("union_tag_not_found", "union_tag_invalid"):
        problem = "`kind` is missing" if kind == "union_tag_not_found" else f"there is no kind {detail['ctx']['tag']!r}"
        hint = f"kinds: {detail['ctx'].get('expected_tags') or _kinds(path)}"
    elif kind == "missing":
        problem, hint = f"{path[-1]!r} is missing", f"add `{path[-1]}:`"
    elif kind == "string_pattern_mismatch":
        problem = f"{detail['input']!r} has a shape that is not allowed here"
        hint = f"it must match {detail['ctx']['pattern']}"
    elif "input" in detail and isinstance(detail["input"], str | int | float | bool):
        problem = f"{problem} (found {detail['input']!r})"
    return Mistake(path, problem, hint)


def _known_keys(path: Path) -> list[str]:
    """Keys allowed at `path`."""
    extra = ["preset"] if len(path) == 2 and path[0] == "contracts" else []
    return sorted({key for model in _models_at(path) for key in model.model_fields} | set(extra))


def _kinds(path: Path) -> str:
    """The tags of the union of models at `path`."""
    return ", ".join(repr(get_args(model.model_fields["kind"].annotation)[0]) for model in _models_at(path))


def _models_at(path: Path) -> list[Any]:
    """The models that may stand at `path`, by walking the model's own field types."""
    models, named = [Fabric], False
    for part in path:
        if named:  # a name in a mapping of nouns, whatever it is called
            named = False
            continue
        fields = [field for model in models if (field := model.model_fields.get(str(part)))]
        named = any(get_origin(field.annotation) in (dict, tuple, list) for field in fields)
        models = [model for field in fields for model in _models_in(field.annotation)]
    return models


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]
