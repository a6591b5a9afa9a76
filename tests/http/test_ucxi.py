"""Decisions over HTTP."""

from __future__ import annotations

import json
from urllib.parse import quote

from chorus.ucxl.provenance import ProvenanceEnvelope
from chorus.ucxl.record import Decision
from chorus.ucxl.signed import Head
from tests.http.wire import ApiCase, Response
from tests.ucxl import samples

CHAIN = samples.chain(3)
ADDRESS = CHAIN[0].address


class UcxiTests(ApiCase):
    async def get(self, path: str, **query: str) -> Response:
        asked = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
        return await self.ask("GET", f"/ucxi/v1/{path}?{asked}")

    async def publish(self, body: object) -> Response:
        data = json.dumps(body).encode()
        return await self.ask("POST", "/ucxi/v1/decisions", "Content-Type: application/json", body=data)

    async def test_resolve(self) -> None:
        for version, number in (("", 3), ("/*^", 3), ("/*~", 1), ("/~~1", 2), (f"/={CHAIN[1].content_hash}", 2)):
            answer = await self.get("resolve", address=ADDRESS + version)
            self.assertEqual(answer.status, 200)
            found = answer.json
            self.assertEqual((found["seq"], found["readable"], found["address"]), (number, True, ADDRESS))
            record = Decision.decode(json.dumps(found["record"], separators=(",", ":"), sort_keys=True).encode())
            self.assertEqual(record, CHAIN[number - 1])

    async def test_what_this_node_may_not_read_is_a_403_with_all_but_the_record(self) -> None:
        self.decisions.secret.add(CHAIN[2].content_hash)
        for path in ("resolve", "provenance"):
            answer = await self.get(path, address=ADDRESS)
            self.assertEqual((answer.status, answer.json["code"]), (403, "decision_unreadable"))
            found = answer.json["decision"]
            self.assertEqual((found["content"], found["record"]), (CHAIN[2].content_hash, None))
            self.assertEqual(found["head"]["seq"], 3)
            self.assertNotIn("Version 3.", answer.body.decode())

    async def test_refusals(self) -> None:
        for path in ("resolve", "history", "provenance"):
            for address, status, code in (
                (None, 400, "bad_query"),
                ("http://x", 400, "bad_address"),
                ("ucxl://any:r@p:t", 400, "bad_address"),
                ("ucxl://a:r@p:t/../x", 400, "bad_address"),
                ("ucxl://a:r@p:t", 404, "unknown_decision"),
                (f"{ADDRESS}/~~3", 404, "unknown_decision"),
            ):
                query = {} if address is None else {"address": address}
                answer = await self.get(path, **query)
                self.assertEqual((answer.status, answer.json["code"]), (status, code), address)
        error = (await self.get("resolve", address="ucxl://a:r@p:t/*x")).json
        self.assertIn("temporal of the address, at character 15", error["detail"])

    async def test_history(self) -> None:
        self.decisions.heads[ADDRESS] = [Head.of(CHAIN[2], samples.ALICE)]
        first = (await self.get("history", address=ADDRESS, limit="2")).json
        self.assertEqual([each["seq"] for each in first["versions"]], [3, 2])
        self.assertEqual(first["heads"][0]["content"], CHAIN[2].content_hash)
        rest = (await self.get("history", address=ADDRESS, limit="2", after=first["next"])).json
        self.assertEqual(([each["seq"] for each in rest["versions"]], rest["next"]), ([1], None))

    async def test_search(self) -> None:
        answer = await self.get(
            "search",
            address="ucxl://any:developer@any:any/docs",
            project="team..tool",
            since="2027-01-15T08:00:00.5Z",
            until="2027-01-15T09:00:00+01:00",
            text="Tea, NOT coffee",
            limit="2",
        )
        self.assertEqual(answer.status, 200)
        self.assertEqual((len(answer.json["decisions"]), answer.json["next"]), (2, "2"))
        ((query, limit, after),) = self.decisions.queries
        self.assertEqual((query.role, query.project), ("developer", "team..tool"))
        self.assertEqual((query.agent, query.path), (None, "docs"))
        self.assertEqual((query.since, query.until), (samples.NOW + 1, samples.NOW))
        self.assertEqual((query.words, limit, after), (("tea", "not", "coffee"), 2, None))

    async def test_refused_searches(self) -> None:
        for query in (
            {"address": "ucxl://any:any@any:any/*^"},
            {"address": "ucxl://any:r@p:t", "role": "other"},
            {"role": "a b"},
            {"since": "yesterday"},
            {"text": "a b c d e f g h i"},
            {"text": "…"},
            {"text": "x" * 513},
            {"after": "a b"},
            {"limit": "0"},
            {"limit": "201"},
            {"more": "1"},
        ):
            answer = await self.get("search", **query)
            self.assertEqual(answer.status, 400, query)

    async def test_publish(self) -> None:
        body = {"kind": "design", "summary": "Tea.", "task": "t-1", "project": "tools", "confidence": 900}
        answer = await self.publish(body)
        self.assertEqual(answer.status, 201)
        self.assertEqual(set(answer.json), {"address", "seq", "content", "state"})
        (draft,) = self.decisions.drafts
        self.assertEqual((draft.summary, draft.confidence, draft.outcome.success), ("Tea.", 900, True))

    async def test_refused_drafts(self) -> None:
        good = {"kind": "design", "summary": "Tea.", "task": "t-1"}
        for change, status, field in (
            ({"summary": None}, 422, "summary"),
            ({"summary": "x" * 3000}, 422, "summary"),
            ({"confidence": 1.5}, 422, "confidence"),
            ({"sumary": "x"}, 422, "sumary"),
            ({"seq": 4}, 422, "seq"),
            ({"signature": "x"}, 422, "signature"),
            ({"inputs": [{"nam": "x"}]}, 422, "inputs[0].nam"),
            ({"task": "a/b"}, 422, "task"),
            ({"task": "any"}, 400, None),
            ({"task": "none"}, 400, None),
            ({"project": "any"}, 400, None),
            ({"path": "../x"}, 400, None),
            ({"path": "*^"}, 400, None),
        ):
            answer = await self.publish({**good, **change})
            self.assertEqual((answer.status, answer.json.get("field")), (status, field), change)
        self.assertEqual(self.decisions.drafts, [])

    async def test_provenance(self) -> None:
        answer = await self.get("provenance", address=ADDRESS)
        self.assertEqual(ProvenanceEnvelope.decode(answer.body).check(CHAIN[2]), (samples.ALICE.peer_id,))

    async def test_status(self) -> None:
        answer = await self.get("status")
        self.assertEqual(answer.json["role"], "developer")

    async def test_without_the_token(self) -> None:
        for path in ("resolve", "history", "search", "provenance", "status"):
            answer = await self.ask("GET", f"/ucxi/v1/{path}", token=None)
            self.assertEqual(answer.status, 401)
