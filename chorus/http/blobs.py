# mypy: allow-untyped-calls
"""`/v1/blobs`: content by its SHA-256, streamed both ways; `/ucxi/v1/blobs`: ciphertext by its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import IO, TYPE_CHECKING

from chorus.fields import Schema
from chorus.http.body import UploadBody
from chorus.http.gate import SHA256
from chorus.http.problem import HttpError
from chorus.http.reply import OCTETS, json_reply
from chorus.http.routes import BINARY, ApiOperation, BlobBody, Route, header, json_answer, parameter
from chorus.http.schemas.words import SHA256 as DIGEST
from chorus.shield import shield

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from chorus.http.request import ApiRequest
    from chorus.http.routes import Serving


async def _put(serving: Serving, request: ApiRequest, query: dict[str, str], sha256: str | None = None) -> bytes:
    assert isinstance(request.body, UploadBody)
    document = await shield(request.body.take().finish())
    return json_reply(request, document, 201, {"Location": f"/v1/blobs/{document['sha256']}"})


async def _get(serving: Serving, request: ApiRequest, query: dict[str, str], sha256: str) -> None:
    await _send(serving, request, sha256, serving.ports.blobs.open)


async def _get_sealed(serving: Serving, request: ApiRequest, query: dict[str, str], sha256: str) -> None:
    await _send(serving, request, sha256, serving.ports.blobs.open_sealed)


async def _send(
    serving: Serving, request: ApiRequest, sha256: str, find: Callable[[str], Deferred[tuple[IO[bytes], int]]]
) -> None:
    if not SHA256.fullmatch(sha256):
        raise HttpError(404, "unknown_blob", "no blob has this id (64 lower-case hexadecimal digits)")
    etag = f'"{sha256}"'
    request.setHeader("ETag", etag)
    request.setHeader("Cache-Control", "private, max-age=31536000, immutable")
    if _matches(request.requestHeaders.getRawHeaders("If-None-Match"), etag):
        request.setResponseCode(304)
        return
    with serving.downloads:
        file, size = await shield(find(sha256), lambda unwanted: unwanted[0].close())
        with file:
            await serving.downloads.send(request, file, size, etag)


def _matches(values: Sequence[str] | None, etag: str) -> bool:
    tags = [tag.strip() for value in values or () for tag in value.split(",")]
    return "*" in tags or etag in [tag.removeprefix("W/") for tag in tags]


def _upload(path: str, name: str) -> Route:
    operation = ApiOperation(
        name,
        "blobs",
        "Upload a blob",
        {201: json_answer("Blob", "Durable here.", {"Location": header("Path of the blob.")})},
        (409, 415, 422, 507),
        "Streams to disk; answered once it is durable. What the content must hash to can also be said as a "
        "Content-Digest header (RFC 9530, sha-256).",
        (parameter("query", "sha256", DIGEST, "What the content must hash to; it is refused when it does not."),),
    )
    # The gate has read the query, before the body came.
    return Route("PUT", path, _put, operation, body=BlobBody(), any_query=True)


def _octets(description: str, headers: Schema | None = None) -> Schema:
    shared = {"ETag": header("The SHA-256 in quotes."), "Accept-Ranges": header("`bytes`.")}
    return {"description": description, "headers": {**shared, **(headers or {})}, "content": {OCTETS: BINARY}}


def _download(path: str, serve: Callable[..., Awaitable[None]], name: str, summary: str, description: str) -> Route:
    operation = ApiOperation(
        name,
        "blobs",
        summary,
        {
            200: _octets("The whole blob."),
            206: _octets("The part asked for.", {"Content-Range": header("Which part.")}),
            304: {"description": "The client has it already."},
        },
        (404, 416, 502),
        description,
        (
            parameter(
                "header",
                "Range",
                {"type": "string", "examples": ["bytes=0-1023"]},
                "One range; others are ignored.",
            ),
            parameter("header", "If-None-Match", {"type": "string"}, "ETags."),
        ),
    )
    return Route("GET", path, serve, operation)


ROUTES = (
    _upload("/v1/blobs", "putBlob"),
    _upload("/v1/blobs/{sha256}", "putBlobAs"),
    _download(
        "/v1/blobs/{sha256}",
        _get,
        "getBlob",
        "Fetch a blob",
        "From a peer, where it is not on this node; unsealed, where a decision that this node may read names it.",
    ),
    _download(
        "/ucxi/v1/blobs/{sha256}",
        _get_sealed,
        "getSealedBlob",
        "Fetch the ciphertext of a blob",
        "An age file, by the SHA-256 of its own bytes (`stored` of a decision's artifact).",
    ),
)
