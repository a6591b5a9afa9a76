"""A route of the API as one row: Klein, the gate and the OpenAPI document are made from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from chorus.fields import Schema
from chorus.http import limits
from chorus.http.body import Buffered, UploadBody
from chorus.http.reply import JSON_TYPE, OCTETS
from chorus.http.schemas.words import ref

if TYPE_CHECKING:
    from chorus.http.downloads import Downloads
    from chorus.http.event_stream import EventStream
    from chorus.http.ports import ApiPorts
    from chorus.observe.metrics import Metrics


BINARY: Schema = {"schema": {"type": "string", "format": "binary"}}


@attrs.frozen
class Serving:
    """Everything that the routes of one API share."""

    ports: ApiPorts
    metrics: Metrics
    reactor: Any
    downloads: Downloads
    streams: set[EventStream]
    """Those that are open, for their limit and the shutdown."""
    description: Mapping[str, Any]
    """The OpenAPI document."""


@attrs.frozen
class JsonBody:
    """A JSON document, kept in memory."""

    taken: ClassVar[type] = Buffered
    """Class that the gate reads it into."""
    schema: str
    """Its name in the OpenAPI document."""
    most: int = limits.MAX_JSON
    """Bytes."""

    def content(self) -> Schema:
        return {JSON_TYPE: {"schema": ref(self.schema)}}


@attrs.frozen
class BlobBody:
    """Bytes of a blob, streamed to disk. The path's `sha256`, where it has one, is the digest that they must have."""

    taken: ClassVar[type] = UploadBody

    def content(self) -> Schema:
        return {OCTETS: BINARY}


@attrs.frozen
class ApiOperation:
    """A route's entry in the OpenAPI document."""

    name: str
    tag: str
    summary: str
    answers: Mapping[int, Schema]
    problems: tuple[int, ...] = ()
    """Status codes of errors, beside those that every route may answer."""
    description: str = ""
    parameters: tuple[Schema, ...] = ()
    """Of the query and the headers; those of the path stand for themselves."""


@attrs.frozen(slots=False)
class Route:
    """`serve(serving, request, query, **path)` answers; it may be a coroutine function."""

    method: str
    path: str
    """As OpenAPI writes it: `/v1/tasks/{task_id}`."""
    serve: Callable[..., Any]
    operation: ApiOperation
    body: JsonBody | BlobBody | None = None
    open: bool = False
    """Answered without the token."""
    any_query: bool = False
    """True if `serve` is reached with query parameters that the operation does not name; it then gets none."""

    @cached_property
    def rule(self) -> str:
        """The path as Klein writes it."""
        return re.sub(r"\{(\w+)\}", r"<string:\1>", self.path)

    @cached_property
    def pattern(self) -> re.Pattern[bytes]:
        """The path as it arrives, not decoded."""
        return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]*)", self.path).encode())

    @cached_property
    def path_parameters(self) -> tuple[str, ...]:
        return tuple(re.findall(r"\{(\w+)\}", self.path))

    @cached_property
    def query(self) -> tuple[str, ...]:
        """Names of the query parameters that it knows."""
        return tuple(each["name"] for each in self.operation.parameters if each["in"] == "query")

    @cached_property
    def media_types(self) -> tuple[str, ...]:
        """Of the answer; the Accept header must leave one of them."""
        return tuple(next(each["content"] for each in self.operation.answers.values() if "content" in each))


def parameter(place: str, name: str, schema: Schema, description: str) -> Schema:
    """One parameter; `place` is `path`, `query` or `header`."""
    return {"in": place, "name": name, "required": place == "path", "schema": schema, "description": description}


def header(description: str) -> Schema:
    return {"description": description, "schema": {"type": "string"}}


def answer(description: str, content: Schema) -> Schema:
    return {"description": description, "content": content}


def json_answer(schema: str, description: str, headers: Schema | None = None) -> Schema:
    """`schema` is a name in the OpenAPI document."""
    found = answer(description, {JSON_TYPE: {"schema": ref(schema)}})
    return {**found, "headers": headers} if headers else found
