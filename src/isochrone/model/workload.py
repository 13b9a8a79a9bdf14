"""Workload: a model served under one protocol, how it is started, and how fast it serves."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from isochrone.model.base import Digest, Name, NonNegative, Noun, Positive

__all__ = ["External", "Kind", "Model", "Process", "Protocol", "Runtime", "ServiceProfile", "ServiceTime", "Workload"]


class Protocol(StrEnum):
    """The wire protocol of a workload, which also fixes the paths it is reached by."""

    OPENAI = "openai"
    OPEN_INFERENCE = "open-inference"
    HTTP = "http"


class Kind(StrEnum):
    """What the work is: only inference has a deadline."""

    INFERENCE = "inference"
    BATCH = "batch"
    TRAINING = "training"


class Model(Noun):
    """The model by its public name and the digest of its files."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    digest: Digest | None = None


class Process(Noun):
    """A model server that a node starts as its own child.

    `{port}` in the command is replaced by the port it must listen on (loopback), `{python}` by the interpreter that
    runs the node. The server is ready when a GET of `ready` answers 200.
    """

    kind: Literal["process"] = "process"
    command: Annotated[list[str], Field(min_length=1)]
    ready: str = "/"
    ready_timeout_s: Positive = 60.0

    @model_validator(mode="after")
    def _has_port(self) -> Process:
        if not any("{port}" in word for word in self.command):
            raise ValueError("the command has no {port}: the node cannot tell the server where to listen")
        return self


class External(Noun):
    """Model servers that already run: `at` maps a site's name to the host:port reachable from that site."""

    kind: Literal["external"]
    at: Annotated[dict[Name, str], Field(min_length=1)]


Runtime = Annotated[Process | External, Field(discriminator="kind")]


class ServiceTime(Noun):
    """Service time at the executing site, without any network, as two points of its distribution, in milliseconds."""

    p50_ms: Positive
    p99_ms: Positive

    @model_validator(mode="after")
    def _ordered(self) -> ServiceTime:
        if self.p99_ms < self.p50_ms:
            raise ValueError("p99_ms is below p50_ms")
        return self


class ServiceProfile(Noun):
    """How one replica of a workload serves on one hardware class; measurements replace it as they come in.

    Attributes:
        first_byte: time to the first byte of the answer; `duration` when left out.
        duration: time to the whole answer.
        concurrency: requests one replica serves at the same time without slowing down.
        rps_max: requests per second one replica can sustain.
        units: hardware units one replica takes.
    """

    first_byte: ServiceTime | None = None
    duration: ServiceTime
    concurrency: Annotated[int, Field(ge=1, le=100_000)] = 1
    rps_max: Positive
    units: Annotated[int, Field(ge=1)] = 1


class Workload(Noun):
    """A model served under one protocol.

    Attributes:
        kind, publisher: as policies name them; the publisher is who made the model.
        service: profile by hardware class; a site without any of these classes cannot run the workload.
        bundle: file of the signed policies that travel with it, relative to the document: a site serves it only while
            that verifies, by the key of its publisher and for the digest of its model.
        replicas_max_per_site: upper bound for placement.
        replicas_min: so many replicas stand in the whole fabric, demand or none.
        load_s: how long a replica loads before it answers: the longer, the more reluctantly it is moved.
        tokens_per_request_max: most tokens that one request can take, in and out together: the context that its model
            servers are started with. Token budgets are reserved by it, and refused where it is not stated.
    """

    protocol: Protocol
    kind: Kind = Kind.INFERENCE
    publisher: Name | None = None
    model: Model
    runtime: Runtime
    service: dict[Name, ServiceProfile] = Field(min_length=1)
    bundle: Annotated[str, StringConstraints(min_length=1)] | None = None
    replicas_max_per_site: Annotated[int, Field(ge=1, le=10_000)] = 1
    replicas_min: Annotated[int, Field(ge=0, le=100_000)] = 0
    load_s: Annotated[NonNegative, Field(le=86_400)] = 0.0
    tokens_per_request_max: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
