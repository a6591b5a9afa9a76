# mypy: allow-untyped-calls
"""Health on its own port, without a token: probes of engines and orchestrators cannot carry one.

`/healthz`: the process answers. `/ready`: 200 when every critical check passes, else 503. `/health`: the same with
every check in the body. `/health/checks`: the checks alone, always 200. The checks come from `HealthPort.checks`; they
hold no secret and no task.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from twisted.web.resource import Resource

from chorus.http.problem import HttpError
from chorus.http.reply import JSON_TYPE, bytes_reply
from chorus.http.site import ApiSite, PlainGate
from chorus.services.endpoints.api import HttpPort

if TYPE_CHECKING:
    from chorus.http.ports import HealthPort
    from chorus.http.request import ApiRequest
    from chorus.seams import Document
    from chorus.services.listening import ListenAddress


class HealthService(HttpPort):
    """See the module."""

    name = "health"

    def __init__(self, checks: HealthPort, host_names: Collection[str], address: ListenAddress, reactor: Any) -> None:
        super().__init__(address, reactor)
        self._checks = checks
        self._names = host_names

    def site(self) -> ApiSite:
        return ApiSite(_Probes(self._checks), PlainGate(_route, self._names), self._reactor)


class _Probes(Resource):
    isLeaf = True

    def __init__(self, checks: HealthPort) -> None:
        super().__init__()
        self._checks = checks

    def render(self, request: ApiRequest) -> bytes:
        # The gate has sent away whoever asks for something else.
        probe = _PROBES[request.path]
        if probe is _alive:
            # Says that the reactor turns, whatever the checks may do.
            return _reply(request, *probe([]))
        return _reply(request, *probe(self._checks.checks()))


def _route(request: ApiRequest) -> None:
    if request.path not in _PROBES:
        raise HttpError(404, "not_found", "here are /healthz, /ready, /health and /health/checks")
    if request.method not in {b"GET", b"HEAD"}:
        raise HttpError(405, "method_not_allowed", "allowed here: GET, HEAD", {"Allow": "GET, HEAD"})


def _alive(_: list[Document]) -> tuple[object, int]:
    return {"status": "alive"}, 200


def _ready(checks: list[Document]) -> tuple[object, int]:
    # `ready` marks the checks that only keep new work away.
    failing = [check["name"] for check in checks if check.get("ready", check["critical"]) and not check["ok"]]
    return {"status": "not ready" if failing else "ready", "failing": failing}, 503 if failing else 200


def _health(checks: list[Document]) -> tuple[object, int]:
    failing = [check for check in checks if not check["ok"]]
    if any(check["critical"] for check in failing):
        return {"status": "unhealthy", "checks": checks}, 503
    return {"status": "degraded" if failing else "healthy", "checks": checks}, 200


def _list(checks: list[Document]) -> tuple[object, int]:
    return {"checks": checks}, 200


_PROBES: dict[bytes, Callable[[list[Document]], tuple[object, int]]] = {
    b"/healthz": _alive,
    b"/ready": _ready,
    b"/health": _health,
    b"/health/checks": _list,
}


def _reply(request: ApiRequest, document: object, status: int) -> bytes:
    return bytes_reply(request, json.dumps(document).encode() + b"\n", JSON_TYPE, status)
