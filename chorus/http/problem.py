"""Problem documents (RFC 9457): the one place where an error becomes an HTTP answer."""

from __future__ import annotations

import http
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from chorus.errors import ChorusError, LocalError, UserError
from chorus.tasks.journal import NoQuorum, NotLeader, OutcomeUnknown

if TYPE_CHECKING:
    from chorus.seams import JSON

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_S = 2
"""Told to clients of a 503."""
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""On every answer; a resource may replace Cache-Control."""


class HttpError(UserError):
    """An error of the request as such: `status`, a stable code, one line, headers of the answer, and further members
    of its document (RFC 9457, 3.2)."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, JSON] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.problem_code = code
        self.headers = dict(headers or {})
        self.members = dict(members or {})


@attrs.frozen
class Problem:
    """An answer that is an error."""

    status: int
    code: str
    detail: str
    field: str | None = None
    """Path of the wrong field of the body, where one is at fault."""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    members: Mapping[str, JSON] = attrs.field(factory=dict)
    """Further members of the document."""

    def document(self) -> dict[str, JSON]:
        document: dict[str, JSON] = {
            "type": f"urn:chorus:problem:{self.code}",
            "title": http.HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.field:
            document["field"] = self.field
        return {**document, **self.members}

    def error(self) -> HttpError:
        """To raise where a request is decided about."""
        return HttpError(self.status, self.code, self.detail, self.headers, self.members)

    def body(self) -> bytes:
        return json.dumps(self.document(), ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def of(error: BaseException) -> Problem | None:
    """The problem that `error` is to a client; None for what is no error of CHORUS (a bug: the caller logs it and
    answers `internal`)."""
    match error:
        case HttpError():
            return Problem(error.status, error.problem_code, str(error), headers=error.headers, members=error.members)
        case UserError():
            field = getattr(error, "field", None)
            return Problem(error.http_status, error.code, str(error), field if isinstance(field, str) else None)
        case LocalError():
            return _unavailable(error.http_status, error.code, str(error))
        case NotLeader() | NoQuorum() | OutcomeUnknown():
            return _unavailable(503, error.code, str(error))
        case ChorusError():
            return Problem(502, error.code, str(error))
    return None


NO_SUCH_PATH = Problem(404, "not_found", "no such path; /openapi.json lists all of them")


def internal() -> Problem:
    """A bug here: the log has the traceback, the client learns nothing of it."""
    return Problem(500, "internal_error", "an error inside the node; its log says more")


def from_routing(error: Any) -> Problem:
    """A router's refusal (werkzeug's HTTPException): no such path, no such method."""
    status = error.code or 500
    if status == 405:
        allowed = ", ".join(sorted(error.valid_methods or ()))
        return Problem(405, "method_not_allowed", f"allowed here: {allowed}", headers={"Allow": allowed})
    if status == 404:
        return NO_SUCH_PATH
    return Problem(status if 400 <= status < 600 else 404, "bad_request", "the request cannot be routed")


def _unavailable(status: int, code: str, detail: str) -> Problem:
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    return Problem(status, code, detail, headers=headers)
