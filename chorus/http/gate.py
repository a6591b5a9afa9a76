"""The gate of the API: decides about a request before any of its body is read."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import attrs

from chorus.http import auth, limits
from chorus.http.body import Body, Buffered, UploadBody, too_large
from chorus.http.problem import HttpError
from chorus.http.reply import query
from chorus.http.routes import JsonBody, Route
from chorus.http.site import RouteCheck, unwanted_body
from chorus.tasks.spec import LimitPolicy

if TYPE_CHECKING:
    from chorus.http.ports import BlobPort
    from chorus.http.request import ApiRequest

SHA256 = re.compile(r"[0-9a-f]{64}")
_JSON_TYPE = re.compile(r"application/(?:[a-z0-9.!#$&^_-]+\+)?json", re.IGNORECASE)
_DIGEST = re.compile(r"([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):")


@attrs.frozen
class ApiRules:
    """The settings of an API."""

    token: str
    host_names: Collection[str]
    max_blob: int
    """Bytes."""
    policy: LimitPolicy = attrs.field(factory=LimitPolicy)
    """For the API's description alone; the coordinator applies it."""


class ApiGate:
    """Host name for every path, token for every route that is not open; the body that the route's row names, JSON into
    memory, a blob into its writer. `check` raises the 404 or 405 of a request that no route answers."""

    def __init__(self, rules: ApiRules, routes: Sequence[Route], blobs: BlobPort, check: RouteCheck) -> None:
        self._token = rules.token.encode()
        self._names = frozenset(rules.host_names)
        self._max_blob = rules.max_blob
        self._open = frozenset(route.path.encode() for route in routes if route.open)
        self._with_body = [(route.method.encode(), route.pattern, route.body) for route in routes if route.body]
        self._blobs = blobs
        self._check = check
        self.uploads = 0
        self.unauthorized = 0

    def admit(self, request: ApiRequest) -> bool:
        headers = request.requestHeaders
        auth.check_host(headers.getRawHeaders(b"Host") or (), self._names)
        if request.path in self._open:
            return False
        given = headers.getRawHeaders(b"Authorization") or ()
        try:
            auth.check_token(given[0] if len(given) == 1 else (b"" if given else None), self._token)
        except HttpError:
            self.unauthorized += 1
            raise
        return True

    def body_of(self, request: ApiRequest, length: int | None) -> Body:
        for method, pattern, body in self._with_body:
            if request.method == method and (path := pattern.fullmatch(request.path)):
                _plain_encoding(request)
                if isinstance(body, JsonBody):
                    return _buffered(request, length, body.most)
                return self._upload(request, length, path.groupdict().get("sha256"))
        return unwanted_body(request, length, self._check)

    def _upload(self, request: ApiRequest, length: int | None, segment: bytes | None) -> UploadBody:
        expected = expected_sha256(request, segment)
        if length is not None and length > self._max_blob:
            raise too_large(self._max_blob)
        if self.uploads >= limits.MAX_UPLOADS:
            raise HttpError(503, "busy", f"{limits.MAX_UPLOADS} uploads run already", {"Retry-After": "2"})
        upload = UploadBody(self._blobs.writer(expected), self._released)
        self.uploads += 1
        return upload

    def _released(self) -> None:
        self.uploads -= 1


def _buffered(request: ApiRequest, length: int | None, most: int) -> Buffered:
    _json_type(request)
    if length is not None and length > most:
        raise too_large(most)
    return Buffered(most)


def expected_sha256(request: ApiRequest, segment: bytes | None) -> str | None:
    """The digest that the client announces for its blob: in the path, as `?sha256=`, or as Content-Digest (RFC 9530).
    Raises a 400 when one is malformed, a 409 when two differ."""
    given: set[str] = set()
    if segment is not None:
        given.add(_sha256(segment.decode("latin-1")))
    if (asked := query(request, "sha256").get("sha256")) is not None:
        given.add(_sha256(asked))
    for header in request.requestHeaders.getRawHeaders("Content-Digest") or ():
        for part in header.split(","):
            member = _DIGEST.fullmatch(part.strip())
            if member is None:
                raise HttpError(400, "bad_digest", "Content-Digest is malformed; for example sha-256=:<base64>:")
            if member[1] == "sha-256":
                given.add(_base64_digest(member[2]))
    if len(given) > 1:
        raise HttpError(409, "bad_digest", "the request announces two different SHA-256 digests")
    return next(iter(given), None)


def _sha256(text: str) -> str:
    if not SHA256.fullmatch(text):
        raise HttpError(400, "bad_sha256", "a SHA-256 is 64 lower-case hexadecimal digits")
    return text


def _base64_digest(text: str) -> str:
    try:
        digest = base64.b64decode(text, validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise HttpError(400, "bad_digest", "the sha-256 of Content-Digest is not 32 bytes in base64")
    return digest.hex()


def _plain_encoding(request: ApiRequest) -> None:
    encoding = request.requestHeaders.getRawHeaders("Content-Encoding")
    if encoding and encoding != ["identity"]:
        raise HttpError(415, "unsupported_encoding", "bodies are taken without Content-Encoding")


def _json_type(request: ApiRequest) -> None:
    values = request.requestHeaders.getRawHeaders("Content-Type") or [""]
    media, *parameters = [part.strip() for part in values[0].split(";")]
    charset = next((p.partition("=")[2].strip('"').lower() for p in parameters if p.lower().startswith("charset=")), "")
    if len(values) != 1 or not _JSON_TYPE.fullmatch(media) or charset not in {"", "utf-8"}:
        raise HttpError(
            415, "unsupported_media_type", "a task is sent as application/json in UTF-8", {"Accept": "application/json"}
        )
