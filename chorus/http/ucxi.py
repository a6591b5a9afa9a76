# mypy: allow-untyped-calls
"""`/ucxi/v1`: decisions by their addresses (spec/ucxl.md, "UCXI over HTTP")."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import attrs

from chorus import strictjson
from chorus.errors import UserError
from chorus.fields import Refusal, Schema
from chorus.fields.members import ADDRESS
from chorus.http import limits
from chorus.http.body import Buffered
from chorus.http.problem import HttpError
from chorus.http.reply import json_reply, whole_number
from chorus.http.routes import ApiOperation, JsonBody, Route, json_answer, parameter
from chorus.shield import shield
from chorus.ucxl.address import PARTS, Address, AddressError, InForce
from chorus.ucxl.query import DecisionQuery, DecisionUnreadable, FoundDecision
from chorus.ucxl.record import DRAFT, RECORD
from chorus.ucxl.signed import HEAD, VERSION

if TYPE_CHECKING:
    from chorus.http.request import ApiRequest
    from chorus.http.routes import Serving
    from chorus.seams import JSON

MAX_TEXT: Final = 512
"""Bytes of the text of a search: eight words, however long."""
MAX_AFTER: Final = 128
_CURSOR: Final = re.compile(r"[A-Za-z0-9._-]+")
_US: Final = 1_000_000


class BadDecision(UserError):
    """A draft that is not as its schema says; `field` is the path of what is wrong."""

    code = "bad_decision"
    http_status = 422

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.field = refusal.path


async def _resolve(serving: Serving, request: ApiRequest, query: dict[str, str]) -> bytes:
    found = await serving.ports.decisions.resolve(_address(query))
    if found.record is None:
        raise _unreadable(DecisionUnreadable(found))
    return json_reply(request, _document(found))


async def _provenance(serving: Serving, request: ApiRequest, query: dict[str, str]) -> bytes:
    try:
        envelope = await serving.ports.decisions.provenance(_address(query))
    except DecisionUnreadable as error:
        raise _unreadable(error) from None
    return json_reply(request, envelope.document())


async def _history(serving: Serving, request: ApiRequest, query: dict[str, str]) -> bytes:
    limit, after = _page(query)
    found = await serving.ports.decisions.history(_address(query), limit=limit, after=after)
    document: dict[str, JSON] = {
        "address": found.address,
        "versions": [_document(each) for each in found.versions],
        "heads": [HEAD.write(each) for each in found.heads],
        "next": found.next,
        "missing": found.missing,
    }
    return json_reply(request, document)


async def _search(serving: Serving, request: ApiRequest, query: dict[str, str]) -> bytes:
    limit, after = _page(query)
    text = query.get("text", "")
    if len(text.encode()) > MAX_TEXT:
        raise HttpError(400, "bad_query", f"text must have at most {MAX_TEXT} bytes")
    pattern = Address.parse(query["address"]) if "address" in query else None
    # As an address says them, so that there is one reader of names.
    names = Address.parse("ucxl://{}:{}@{}:{}".format(*(query.get(part, "any") for part in PARTS)))
    asked = DecisionQuery.of(
        pattern,
        text,
        **{part: getattr(names, part) for part in PARTS},
        since=_moment(query, "since"),
        until=_moment(query, "until"),
    )
    page = await serving.ports.decisions.search(asked, limit=limit, after=after)
    return json_reply(request, {"decisions": [attrs.asdict(each) for each in page.decisions], "next": page.next})


async def _publish(serving: Serving, request: ApiRequest, query: dict[str, str]) -> bytes:
    assert isinstance(request.body, Buffered)
    body = strictjson.loads(request.body.getvalue(), max_bytes=limits.MAX_JSON)
    try:
        draft = DRAFT.read(body)
    except Refusal as refusal:
        raise BadDecision(refusal) from None
    draft.place("agent", "role")
    # A client that hangs up does not take its decision back.
    placed = await shield(serving.ports.decisions.publish(draft))
    return json_reply(request, attrs.asdict(placed), 201)


async def _status(serving: Serving, request: ApiRequest, query: dict[str, str]) -> bytes:
    return json_reply(request, attrs.asdict(await serving.ports.decisions.memory_status()))


def _address(query: dict[str, str]) -> Address:
    """One address without wildcards. Raises `HttpError` or `AddressError`."""
    if "address" not in query:
        raise HttpError(400, "bad_query", "say which decision: ?address=ucxl://agent:role@project:task")
    address = Address.parse(query["address"])
    for part in address.wildcards:
        raise AddressError(part, address.offset_of(part), "an address with a wildcard is for /ucxi/v1/search")
    return address


def _page(query: dict[str, str]) -> tuple[int, str | None]:
    after = query.get("after")
    if after is not None and (len(after) > MAX_AFTER or not _CURSOR.fullmatch(after)):
        raise HttpError(400, "bad_query", "after must be the `next` of the page before")
    return whole_number(query.get("limit", str(limits.DEFAULT_PAGE)), "limit", 1, limits.MAX_PAGE), after


def _moment(query: dict[str, str], name: str) -> int | None:
    """Unix seconds, rounded up: a second that began before the time is not after it."""
    if (text := query.get(name)) is None:
        return None
    if (moment := InForce.parse(text)) is None:
        raise HttpError(400, "bad_query", f"{name} must be a time as 2026-01-31T12:00:00Z")
    return -(-moment.at_us // _US)


def _document(found: FoundDecision) -> dict[str, JSON]:
    return {
        "address": found.address,
        "seq": found.seq,
        "content": found.content,
        "time": found.time,
        "readable": found.record is not None,
        "record": None if found.record is None else RECORD.write(found.record),
        "head": None if found.head is None else HEAD.write(found.head),
        "version": None if found.version is None else VERSION.write(found.version),
    }


def _unreadable(error: DecisionUnreadable) -> HttpError:
    """A 403 that says all that everybody may see."""
    return HttpError(403, error.code, str(error), members={"decision": _document(error.found)})


_ADDRESS_SCHEMA: Final[Schema] = ADDRESS.schema()
_ADDRESS: Final = {
    **parameter(
        "query",
        "address",
        {**_ADDRESS_SCHEMA, "examples": ["ucxl://agent:developer@team..tool:task/*^"]},
        "`ucxl://agent:role@project:task/temporal/path`. `temporal`: `*^` latest, `*~` first, `~~N` N before the "
        "latest, `^^N` N after the first, `@TIME` in force then, `=HASH`; without it the latest.",
    ),
    "required": True,
}
_NAME_SCHEMA: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"}
_TIME_SCHEMA: Final[Schema] = {"type": "string", "format": "date-time"}
_PAGING: Final = (
    parameter(
        "query",
        "limit",
        {"type": "integer", "minimum": 1, "maximum": limits.MAX_PAGE, "default": limits.DEFAULT_PAGE},
        "Decisions in the page.",
    ),
    parameter(
        "query",
        "after",
        {"type": "string", "minLength": 1, "maxLength": MAX_AFTER, "pattern": "^[A-Za-z0-9._-]+$"},
        "`next` of the page before.",
    ),
)
_REFUSED: Final = "Where this node may not read it, the 403 has all that everybody may see, as `decision`."

ROUTES = (
    Route(
        "GET",
        "/ucxi/v1/resolve",
        _resolve,
        ApiOperation(
            "resolveDecision",
            "decisions",
            "Read a decision",
            {200: json_answer("FoundDecision", "The version, verified.")},
            (403, 404, 502, 503),
            _REFUSED,
            (_ADDRESS,),
        ),
    ),
    Route(
        "GET",
        "/ucxi/v1/history",
        _history,
        ApiOperation(
            "listVersions",
            "decisions",
            "Versions of a decision, newest first",
            {200: json_answer("DecisionHistory", "One page.")},
            (404, 502, 503),
            "From the version that the address means, down to the first. `heads` are the signed heads that holders "
            "have: two with one number and different contents prove that the author forked its chain.",
            (_ADDRESS, *_PAGING),
        ),
    ),
    Route(
        "GET",
        "/ucxi/v1/search",
        _search,
        ApiOperation(
            "searchDecisions",
            "decisions",
            "Search the decisions that this node knows of, newest first",
            {200: json_answer("DecisionPage", "One page, which may be short and still have a next one.")},
            description="All conditions hold. Text is found in decisions that this node may read.",
            parameters=(
                parameter("query", "address", _ADDRESS_SCHEMA, "Pattern: `any` stands for every name; no version."),
                *(parameter("query", part, _NAME_SCHEMA, f"Only this {part}.") for part in PARTS),
                parameter("query", "since", _TIME_SCHEMA, "Made then or later."),
                parameter("query", "until", _TIME_SCHEMA, "Made before."),
                parameter("query", "text", {"type": "string", "maxLength": MAX_TEXT}, "Words that all stand in it."),
                *_PAGING,
            ),
        ),
    ),
    Route(
        "POST",
        "/ucxi/v1/decisions",
        _publish,
        ApiOperation(
            "publishDecision",
            "decisions",
            "Publish a decision",
            {201: json_answer("PlacedDecision", "Signed and durable here; on its way to others.")},
            (403, 409, 415, 422, 503),
            "The node adds the author, the place in the chain, the time and the signature. Published for good: a later "
            "version may supersede it.",
        ),
        body=JsonBody("DecisionDraft"),
    ),
    Route(
        "GET",
        "/ucxi/v1/provenance",
        _provenance,
        ApiOperation(
            "getProvenance",
            "decisions",
            "A decision as SLSA provenance",
            {200: json_answer("ProvenanceEnvelope", "in-toto Statement v1 in a DSSE envelope, signed by this node.")},
            (403, 404, 502, 503),
            _REFUSED,
            (_ADDRESS,),
        ),
    ),
    Route(
        "GET",
        "/ucxi/v1/status",
        _status,
        ApiOperation(
            "getMemoryStatus",
            "decisions",
            "The memory as this node sees it",
            {200: json_answer("MemoryStatus", "Role, epoch, index.")},
            (503,),
        ),
    ),
)
