# mypy: allow-untyped-calls
"""`/v1/keys`: roles, who holds them, and changes by the founder (spec/amendments.md 28)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from chorus.http.problem import HttpError
from chorus.http.reply import json_reply
from chorus.http.routes import ApiOperation, Route, json_answer
from chorus.security.roles import ROLE_PATTERN

if TYPE_CHECKING:
    from chorus.http.request import ApiRequest
    from chorus.http.routes import Serving

_ROLE = re.compile(ROLE_PATTERN)
_PEER = re.compile("[1-9A-HJ-NP-Za-km-z]{1,128}")
_ONE_ROLE = "/v1/keys/members/{peer_id}/roles/{role}"


def _list(serving: Serving, request: ApiRequest, query: dict[str, str]) -> bytes:
    return json_reply(request, serving.ports.keys.listing())


async def _grant(serving: Serving, request: ApiRequest, query: dict[str, str], peer_id: str, role: str) -> bytes:
    _check(peer_id, role)
    return json_reply(request, await serving.ports.keys.grant(peer_id, role))


async def _revoke(serving: Serving, request: ApiRequest, query: dict[str, str], peer_id: str, role: str) -> bytes:
    _check(peer_id, role)
    return json_reply(request, await serving.ports.keys.revoke(peer_id, role))


async def _rotate(serving: Serving, request: ApiRequest, query: dict[str, str]) -> bytes:
    return json_reply(request, await serving.ports.keys.rotate())


def _check(peer_id: str, role: str) -> None:
    if not _PEER.fullmatch(peer_id) or not _ROLE.fullmatch(role):
        raise HttpError(404, "unknown_role", "no member or no role has this name")


def _change(name: str, summary: str, problems: tuple[int, ...], description: str) -> ApiOperation:
    answers = {200: json_answer("Keys", "After it.")}
    return ApiOperation(name, "keys", summary, answers, problems, f"At the founder alone. {description}")


ROUTES = (
    Route(
        "GET",
        "/v1/keys",
        _list,
        ApiOperation("listKeys", "keys", "Roles and members", {200: json_answer("Keys", "The newest that this has.")}),
    ),
    Route(
        "PUT",
        _ONE_ROLE,
        _grant,
        _change("grantRole", "Grant a role", (403, 404, 409), "Repeating it changes nothing."),
    ),
    Route(
        "DELETE",
        _ONE_ROLE,
        _revoke,
        _change(
            "revokeRole",
            "Take a role back",
            (403, 404, 409),
            "The member keeps the keys that it has: a rotation makes new ones.",
        ),
    ),
    Route(
        "POST",
        "/v1/keys/rotate",
        _rotate,
        _change(
            "rotateKeys",
            "New keys for all roles",
            (403, 409),
            "What is written from now on is closed to whoever holds no role any more.",
        ),
    ),
)
