"""Decisions of tasks on three real nodes, of which one dies."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any
from urllib.parse import quote

from chorus.ucxl.chain import ClaimedVersion, verify_chain
from chorus.ucxl.documents import sha256
from chorus.ucxl.provenance import ProvenanceEnvelope
from chorus.ucxl.record import RECORD, Decision
from tests.integration.agents import until
from tests.integration.nodes import Node, NodeCase, need_bubblewrap, threaded


def ask(node: Node, what: str, address: str) -> Any:
    status, _, document = node.answer("GET", f"/ucxi/v1/{what}?address={quote(address, safe='')}")
    assert status == 200, document
    return document


def record(document: Any) -> Decision:
    """Verified by its own bytes, not by the node's word."""
    return Decision.decode(RECORD.read(document["record"]).encode())


class DecisionsOfNodes(NodeCase):
    def setUp(self) -> None:
        need_bubblewrap()
        super().setUp()

    def mesh(self) -> tuple[Node, Node, Node]:
        first = self.node("first", CHORUS_AGENT_EXPERTISE="none", CHORUS_SANDBOX="bubblewrap").start()
        settings = {"CHORUS_SANDBOX": "bubblewrap"}
        worker = self.joining(first, "worker", CHORUS_AGENT_EXPERTISE="work", **settings).launch()
        reader = self.joining(first, "reader", **settings).launch()
        nodes = (first, worker.wait(), reader.wait())
        self.together(*nodes)
        for node in nodes:
            until(f"a role of {node.name}", lambda node=node: node.get("/ucxi/v1/status")["role"] == "developer")
            until(f"servers at {node.name}", lambda node=node: node.get("/ucxi/v1/status")["servers"] == 3)
        return nodes

    @threaded
    def test_the_executing_node_is_killed_for_good(self) -> None:
        first, worker, reader = self.mesh()
        task = first.submit(
            title="Make a file",
            commands=["echo made > /workspace/output/a.txt; echo said"],
            artifacts=["*"],
            required={"expertise": ["work"]},
        )
        ended = first.ended(task)
        self.assertEqual((ended["state"], ended["agent"]), ("completed", worker.peer_id), ended)
        named = until(
            "a safe decision",
            lambda: found if (found := first.task(task)["decision"])["state"] == "safe" else None,
        )
        self.assertEqual(named["holders"], 3)
        author = worker.peer_id
        worker.kill()

        until("the announcement", lambda: reader.get("/ucxi/v1/search?text=file")["decisions"])
        decision = record(ask(reader, "resolve", named["address"]))
        self.assertEqual((decision.content_hash, decision.peer_id, decision.task), (named["hash"], author, task))
        self.assertTrue(decision.outcome.success)
        history = ask(reader, "history", named["address"])
        versions = [
            ClaimedVersion(each["seq"], each["content"], RECORD.read(each["record"]).encode())
            for each in history["versions"]
        ]
        self.assertTrue(verify_chain(named["address"], versions).clean)
        envelope = ask(reader, "provenance", named["address"])
        self.assertEqual(
            [str(signer) for signer in ProvenanceEnvelope.decode(json.dumps(envelope).encode()).check(decision)],
            [reader.peer_id],
        )
        statement = json.loads(base64.b64decode(envelope["payload"]))
        self.assertEqual({each["name"] for each in statement["subject"]}, {"a.txt", "stdout"})
        for artifact in decision.artifacts:
            plain = reader.blob(artifact.sha256)
            self.assertEqual((sha256(plain), len(plain)), (artifact.sha256, artifact.size))
            with reader.request("GET", f"/ucxi/v1/blobs/{artifact.stored}") as answer:
                self.assertEqual(hashlib.sha256(answer.read()).hexdigest(), artifact.stored)

    @threaded
    def test_a_person_s_decision_goes_from_node_to_node(self) -> None:
        first, _, reader = self.mesh()
        draft = {"kind": "design", "summary": "use yamux", "task": "streams"}
        for number in (1, 2):
            status, _, placed = first.answer(
                "POST", "/ucxi/v1/decisions", json.dumps(draft).encode(), **{"Content-Type": "application/json"}
            )
            self.assertEqual((status, placed["seq"]), (201, number), placed)

        def newest() -> int:
            status, _, document = reader.answer("GET", f"/ucxi/v1/resolve?address={quote(placed['address'], safe='')}")
            return int(document["seq"]) if status == 200 else 0

        until("both versions", lambda: newest() == 2)
        self.assertEqual(record(ask(reader, "resolve", f"{placed['address']}/*~")).seq, 1)
