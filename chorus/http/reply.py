# mypy: allow-untyped-calls
"""Shared by all routes: answers, accepted media types, query parameters."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from chorus.http.problem import HttpError

if TYPE_CHECKING:
    from chorus.http.request import ApiRequest

JSON_TYPE = "application/json"
OCTETS = "application/octet-stream"

_QUALITY_ZERO = re.compile(r";\s*q=0(\.0{0,3})?\s*(;|$)", re.IGNORECASE)


def json_reply(
    request: ApiRequest, document: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> bytes:
    """Sets status and headers and returns the body, which Klein writes."""
    for name, value in (headers or {}).items():
        request.setHeader(name, value)
    body = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    return bytes_reply(request, body, JSON_TYPE, status)


def bytes_reply(request: ApiRequest, body: bytes, content_type: str, status: int = 200) -> bytes:
    request.setResponseCode(status)
    request.setHeader("Content-Type", content_type)
    request.setHeader("Content-Length", str(len(body)))
    return body


def want(request: ApiRequest, *types: str) -> None:
    """Raises a 406 when the Accept header leaves none of `types`."""
    values = request.requestHeaders.getRawHeaders("Accept")
    if not values or not (text := ",".join(values).strip()):
        return
    ranges: dict[str, bool] = {}
    for part in text.split(","):
        media, _, parameters = part.partition(";")
        ranges[media.strip().lower()] = not _QUALITY_ZERO.search(";" + parameters)
    for kind in types:
        # The most specific range decides.
        for name in (kind, kind.split("/")[0] + "/*", "*/*"):
            if name in ranges:
                if ranges[name]:
                    return
                break
    raise HttpError(406, "not_acceptable", f"this path answers with {' or '.join(types)}")


def query(request: ApiRequest, *known: str) -> dict[str, str]:
    """The query parameters. Raises a 400 for an unknown or doubled one, or one that is not UTF-8."""
    found: dict[str, str] = {}
    for raw, values in (request.args or {}).items():
        try:
            name, texts = raw.decode(), [value.decode() for value in values]
        except UnicodeDecodeError:
            raise HttpError(400, "bad_query", "a query parameter is not UTF-8") from None
        if name not in known:
            near = difflib.get_close_matches(name[:64], known, 1)
            hint = f"did you mean {near[0]}?" if near else "known here: " + (", ".join(known) or "none")
            raise HttpError(400, "bad_query", f"unknown query parameter {name[:64]!r}; {hint}")
        if len(texts) != 1:
            raise HttpError(400, "bad_query", f"the query parameter {name} appears {len(texts)} times")
        found[name] = texts[0]
    return found


def whole_number(text: str, name: str, minimum: int, maximum: int) -> int:
    """Raises a 400."""
    if not re.fullmatch(r"[0-9]{1,16}", text) or not minimum <= int(text) <= maximum:
        raise HttpError(400, "bad_query", f"{name} must be a whole number from {minimum} to {maximum}")
    return int(text)
