"""Decision records: exact members, one spelling, one author."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import attrs
from hypothesis import given
from hypothesis import strategies as st

from chorus import strictjson
from chorus.errors import ChorusError, LimitExceeded
from chorus.ucxl.documents import RecordError
from chorus.ucxl.record import (
    MAX_FILES,
    MAX_ITEMS,
    MAX_RECORD,
    MAX_ROWS,
    Decision,
    DecisionArtifact,
    DecisionInput,
    DecisionLimits,
    DecisionOutcome,
    DecisionRun,
)
from tests.support import PureTestCase
from tests.ucxl.samples import ALICE, BOB, HASH, NOW, chain, decision, draft

FULL: dict[str, Any] = {
    "path": "docs/a%20b",
    "rationale": "Because.",
    "confidence": 800,
    "inputs": (DecisionInput(name="input", sha256=HASH), DecisionInput(name="image", uri="docker://x")),
    "alternatives": ("Coffee: too late in the day.",),
    "modified_files": ("a/b.py",),
    "artifacts": (DecisionArtifact(name="out", sha256=HASH, size=3, stored="cd" * 32, key="AGE-SECRET-KEY-1QQQQ"),),
    "outcome": DecisionOutcome(success=False, exit_code=3, reason="exit"),
    "supersedes": f"ucxl://a:r@p:t/={HASH}",
    "run": DecisionRun(
        commands=("true",),
        started=NOW - 1,
        ended=NOW,
        sandbox="docker",
        image="python@sha256:" + HASH,
        limits=DecisionLimits(cpu=1.5, memory_mb=1024, pids=256, disk_mb=10, timeout_s=60.0, output_mb=16),
    ),
}


def forged(record: Decision, **members: object) -> bytes:
    """With members changed or (None) taken away, in canonical form, the signature as it was."""
    body = json.loads(record.encode())
    body.update(members)
    return strictjson.canonical({name: item for name, item in body.items() if item is not None})


class DecisionTests(PureTestCase):
    def test_round_trip(self) -> None:
        for record in (decision(), decision(**FULL)):
            again = Decision.decode(record.encode())
            self.assertEqual(again, record)
            self.assertEqual(again.content_hash, record.content_hash)

    def test_the_content_hash_leaves_the_signature_out(self) -> None:
        record = decision()
        body = json.loads(record.encode())
        del body["signature"]
        self.assertEqual(record.content_hash, draft().content_hash)
        self.assertEqual(record.content_hash, hashlib.sha256(strictjson.canonical(body)).hexdigest())

    def test_members_are_those_of_the_specification(self) -> None:
        self.assertEqual(
            set(json.loads(decision(**FULL, seq=2, prev=HASH).encode())),
            {
                *("v", "address", "agent", "peer_id", "role", "project", "task", "path", "seq", "prev", "created"),
                *("kind", "summary", "rationale", "confidence", "inputs", "alternatives", "modified_files"),
                *("artifacts", "outcome", "supersedes", "run", "signature"),
            },
        )

    def test_a_changed_member_is_refused(self) -> None:
        record = decision(**FULL)
        for change in (
            {"summary": "Coffee."},
            {"seq": 2, "prev": HASH},
            {"created": NOW + 1},
            {"confidence": 0},
            {"artifacts": []},
            {"signature": "A" * 86 + "=="},
            {"signature": None},
        ):
            with self.subTest(change=change):
                self.assertRaises(RecordError, Decision.decode, forged(record, **change))

    def test_another_author_is_refused(self) -> None:
        record = decision()
        bob = str(BOB.peer_id)
        for change in (
            {"peer_id": bob},
            {"peer_id": bob, "agent": bob},
            {"peer_id": bob, "agent": bob, "address": record.address.replace(str(ALICE.peer_id), bob)},
        ):
            self.assertRaises(RecordError, Decision.decode, forged(record, **change))
        self.assertRaises(RecordError, draft().signed, BOB)

    def test_members_must_be_those_of_the_address(self) -> None:
        record = decision()
        for change in ({"role": "admin"}, {"project": "x"}, {"task": "x"}, {"path": "x"}):
            self.assertRaises(RecordError, attrs.evolve(record, **change).signed, ALICE)
        for address in (f"{record.address}/*^", f"{record.address}/", "ucxl://any:r@p:t", "ucxl://a:r@p:t/.."):
            self.assertRaises(RecordError, attrs.evolve(record, address=address).signed, ALICE)

    def test_prev_belongs_to_all_but_the_first(self) -> None:
        self.assertRaises(RecordError, draft(seq=1, prev=HASH).signed, ALICE)
        self.assertIsNone(decision(seq=2).prev, "what came before it was never published")
        self.assertRaises(RecordError, draft(seq=0).signed, ALICE)
        self.assertEqual([each.seq for each in chain(3)], [1, 2, 3])

    def test_only_one_spelling(self) -> None:
        record = decision()
        body = json.loads(record.encode())
        for other in (
            json.dumps(body).encode(),
            record.encode() + b"\n",
            forged(record, rationale=None),
            strictjson.canonical({**body, "supersedes": None}),
            strictjson.canonical({**body, "more": 1}),
            record.encode().replace(b'"seq":1', b'"seq":1.0'),
            forged(record, v=2),
        ):
            self.assertRaises(RecordError, Decision.decode, other)

    def test_too_large(self) -> None:
        self.assertRaises(LimitExceeded, Decision.decode, b" " * (MAX_RECORD + 1))
        files = tuple("x" * 8000 for _ in range(300))
        self.assertRaises(LimitExceeded, draft(modified_files=files).signed, ALICE)

    def test_rows(self) -> None:
        """What has the most rows is read; brackets alone are refused before anything is made of them."""
        inputs = tuple(DecisionInput(name=str(number)) for number in range(MAX_ITEMS))
        artifacts = FULL["artifacts"] * MAX_FILES
        full = decision(**{**FULL, "inputs": inputs, "artifacts": artifacts})
        self.assertEqual(Decision.decode(full.encode()), full)
        rows = b'{"alternatives":[' + b"[]," * (MAX_ROWS - 1) + b"0]}"
        with self.assertRaisesRegex(RecordError, "arrays and objects"):
            Decision.decode(rows)

    def test_keys_of_other_kinds_are_refused(self) -> None:
        peer = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"
        self.assertRaises(RecordError, draft(agent=peer, peer_id=peer).signed, ALICE)

    @given(st.binary(max_size=200))
    def test_any_bytes_are_refused_by_a_typed_error(self, data: bytes) -> None:
        self.assertRaises(ChorusError, Decision.decode, data)

    @given(st.integers(0, 10**6), st.integers(0, 255))
    def test_any_changed_byte_is_refused(self, at: int, byte: int) -> None:
        data = bytearray(RECORD)
        at %= len(data)
        if data[at] == byte:
            return
        data[at] = byte
        self.assertRaises(ChorusError, Decision.decode, bytes(data))


RECORD = decision(**FULL).encode()
