"""What every noun shares: immutability, closed fields, and the shapes of names and measures."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

__all__ = ["Digest", "Jurisdiction", "Name", "NonNegative", "Noun", "Positive", "Share"]


class Noun(BaseModel):
    """A parsed and validated value: frozen, no unknown keys, no NaN or infinity, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)


# Names travel in header values, file names, NATS subjects and certificate URIs: one alphabet is safe in all of them.
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
# ISO 3166-1 alpha-2, or the name of a group of them (EU, EEA).
Jurisdiction = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9-]{1,15}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
# A share strictly between none and all, as a quantile is.
Share = Annotated[float, Field(gt=0, lt=1)]
