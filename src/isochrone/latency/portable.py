"""Values that travel: frozen dataclasses to and from plain JSON dictionaries, checked on the way in."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from isochrone.errors import InputError

__all__ = ["Portable"]


# Building an adapter takes milliseconds: once per class.
_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]


class Portable:
    """Mixin for frozen dataclasses: `to_json` gives plain dicts and lists, `from_json` refuses anything else."""

    __slots__ = ()
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    def to_json(self) -> dict[str, Any]:
        """The value as dicts, lists, strings and numbers only."""
        plain: dict[str, Any] = _adapter(type(self)).dump_python(self, mode="json")
        return plain

    @classmethod
    def from_json(cls, data: object) -> Self:
        """The value that `to_json` wrote.

        Raises:
            InputError: unknown or missing keys, wrong types, NaN or infinity.
        """
        try:
            value: Self = _adapter(cls).validate_python(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or cls.__name__
            raise InputError(
                f"not a {cls.__name__}: {where}: {first['msg']}",
                code="input.value",
                hint="the sender runs another version, or the document was cut short",
            ) from error
        return value
