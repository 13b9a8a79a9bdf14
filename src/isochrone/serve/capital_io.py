"""Reads the capital planner's document and tables, writes its answers: YAML, CSV and Parquet in; CSV, Parquet and
JSON out."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from isochrone.errors import InputError, StorageError
from isochrone.policy.policies import PolicySet
from isochrone.serve.capital_document import Document, to_input
from isochrone.serve.policy_source import read_policies

if TYPE_CHECKING:
    from isochrone.plan.capital.inputs import CapitalInput
    from isochrone.plan.capital.tables import Answer

__all__ = [
    "answers_as_json",
    "read_document",
    "read_input",
    "read_table",
    "write_csv",
    "write_json",
    "write_tables",
    "write_text",
]

_TABLES = ("places", "sites", "hardware", "classes", "assets", "demand", "rtt", "rtt_table", "energy", "scenarios")


def read_input(path: Path) -> CapitalInput:
    """Read and check a document.

    Raises:
        InputError: the file, one of its tables or a policy file is missing or wrong; every mistake is named.
        PolicyTextError: a Cedar file is wrong.
    """
    document = read_document(path)
    texts = {
        f"{file}/{name}" if Path(file).name != name else file: text  # a folder gives several
        for file in document.policies
        for name, text in read_policies(path.parent / file).items()
    }
    return to_input(document, PolicySet.parse(texts))


def read_document(path: Path) -> Document:
    """Read a document; a table given as ``{file: NAME}`` is read from beside it."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror}", code="capital.file") from exc
    except UnicodeDecodeError as exc:
        raise InputError(f"{path} is not UTF-8 text: {exc}", code="capital.file") from exc
    except yaml.YAMLError as exc:
        raise InputError(f"{path} is not YAML: {exc}", code="capital.file") from exc
    if not isinstance(raw, dict):
        raise InputError(f"{path} must be a mapping of keys such as currency, years, places", code="capital.file")
    for name in _TABLES:
        if isinstance(raw.get(name), dict) and set(raw[name]) == {"file"}:
            raw[name] = read_table(path.parent / str(raw[name]["file"]))
    try:
        return Document.model_validate(raw)
    except ValidationError as exc:
        lines = [f"{_where(raw, e['loc'])}: {e['msg']}" for e in exc.errors()]
        raise InputError(
            f"{path} has {len(lines)} mistake{'s' if len(lines) > 1 else ''}:\n- " + "\n- ".join(lines[:30]),
            code="capital.document",
            hint="docs/howto/plan-capital.md describes every key",
        ) from exc


def _where(raw: dict[str, Any], at: tuple[int | str, ...]) -> str:
    """Where a mistake is: table, row (counted from 1, by name where it has one) and column."""
    match at:
        case (str(table), int(row), *rest):
            name = raw[table][row].get("name") if isinstance(raw[table][row], dict) else None
            return " ".join([table, f"row {row + 1}", *([f"({name})"] if name else []), *map(str, rest)])
        case _:
            return ".".join(map(str, at))


def read_table(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV or Parquet file; empty cells are left out so that defaults apply."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            rows = pq.read_table(path).to_pylist()
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets write a byte order mark
                rows = list(csv.DictReader(file))
    except (OSError, ValueError) as exc:  # ValueError: not UTF-8, or not Parquet
        raise InputError(f"cannot read table {path}: {exc}", code="capital.file") from exc
    return [{k: v for k, v in row.items() if v is not None and v != ""} for row in rows]


def write_csv(path: Path, header: list[str], rows: list[tuple[Any, ...]]) -> None:
    """Write one CSV file."""
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(rows)
    except OSError as exc:
        raise StorageError(f"cannot write {path}: {exc.strerror}", code="capital.write") from exc


def write_tables(answers: list[Answer], folder: Path, kind: str) -> list[Path]:
    """One file per answer; a column's unit is in the header (CSV: ``name [unit]``) or the field's metadata
    (Parquet)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StorageError(f"cannot write to {folder}: {exc.strerror}", code="capital.write") from exc
    written = []
    for answer in answers:
        path = folder / f"{answer.name}.{kind}"
        if kind == "csv":
            write_csv(path, [f"{c.name} [{c.unit}]" if c.unit else c.name for c in answer.columns], list(answer.rows))
        else:
            _write_parquet(answer, path)
        written.append(path)
    return written


def _write_parquet(answer: Answer, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = [pa.array([_plain(v) for v in answer.column(c.name)]) for c in answer.columns]
    fields = [pa.field(c.name, a.type, metadata={"unit": c.unit}) for c, a in zip(answer.columns, arrays, strict=True)]
    table = pa.Table.from_arrays(
        arrays, schema=pa.schema(fields, metadata={"title": answer.title, "sentence": answer.sentence})
    )
    try:
        pq.write_table(table, path)
    except OSError as exc:
        raise StorageError(f"cannot write {path}: {exc}", code="capital.write") from exc


def answers_as_json(answers: list[Answer]) -> dict[str, Any]:
    """Answers by name: title, sentence, units by column, rows."""
    return {
        a.name: {
            "title": a.title,
            "sentence": a.sentence,
            "units": {c.name: c.unit for c in a.columns},
            "rows": [{k: _plain(v) for k, v in row.items()} for row in a.as_dicts()],
        }
        for a in answers
    }


def write_json(path: Path, value: Any) -> None:
    """Write JSON that every parser accepts (no NaN or infinity)."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write one text file."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise StorageError(f"cannot write {path}: {exc.strerror}", code="capital.write") from exc


def _plain(value: Any) -> Any:
    """numpy scalars to Python's; what is not a finite number to None."""
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
