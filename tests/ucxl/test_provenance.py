"""Provenance: in-toto, SLSA and DSSE as others read them."""

from __future__ import annotations

import base64
import json

from chorus.ucxl.documents import RecordError
from chorus.ucxl.provenance import ProvenanceEnvelope, envelope, pae, statement
from tests.support import PureTestCase
from tests.ucxl.samples import ALICE, BOB, HASH, NOW, decision
from tests.ucxl.test_record import FULL


class StatementTests(PureTestCase):
    def test_a_task(self) -> None:
        record = decision(**FULL)
        found = statement(record)
        self.assertEqual(found["_type"], "https://in-toto.io/Statement/v1")
        self.assertEqual(found["predicateType"], "https://slsa.dev/provenance/v1")
        self.assertEqual(found["subject"], [{"name": "out", "digest": {"sha256": HASH}}])
        itself = f"ucxl://{ALICE.peer_id}:developer@team..tool:t-1/={record.content_hash}/docs/a%20b"
        self.assertEqual(
            found["predicate"],
            {
                "buildDefinition": {
                    "buildType": "urn:chorus:build:task:1",
                    "externalParameters": {"commands": ["true"]},
                    "internalParameters": {
                        "sandbox": "docker",
                        "limits": {
                            **{"cpu": 1.5, "memory_mb": 1024, "pids": 256, "disk_mb": 10},
                            **{"timeout_s": 60.0, "output_mb": 16},
                        },
                    },
                    "resolvedDependencies": [
                        {"name": "input", "digest": {"sha256": HASH}},
                        {"name": "image", "uri": "docker://x"},
                        {"name": "image", "uri": f"docker://python@sha256:{HASH}", "digest": {"sha256": HASH}},
                    ],
                },
                "runDetails": {
                    "builder": {"id": f"urn:chorus:agent:{ALICE.peer_id}"},
                    "metadata": {
                        "invocationId": itself,
                        "startedOn": "2027-01-15T07:59:59Z",
                        "finishedOn": "2027-01-15T08:00:00Z",
                    },
                    "byproducts": [{"name": itself, "digest": {"sha256": record.content_hash}}],
                },
            },
        )
        self.assertNotIn("AGE-SECRET-KEY", json.dumps(found))

    def test_a_decision_without_artifacts_is_its_own_subject(self) -> None:
        record = decision()
        (subject,) = statement(record)["subject"]  # type: ignore[misc]
        self.assertEqual(subject["digest"], {"sha256": record.content_hash})  # type: ignore[index,call-overload]

    def test_a_year_that_cannot_be_written_is_left_out(self) -> None:
        found = statement(decision(created=2**40))
        metadata = found["predicate"]["runDetails"]["metadata"]  # type: ignore[index,call-overload]
        self.assertEqual(list(metadata), ["invocationId"])  # type: ignore[arg-type]
        self.assertEqual(NOW, 1_800_000_000)


class EnvelopeTests(PureTestCase):
    def test_published_example_of_the_encoding(self) -> None:
        """secure-systems-lab/dsse, protocol.md, "Test vectors"."""
        self.assertEqual(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world",
        )

    def test_round_trip_and_check(self) -> None:
        record = decision(**FULL)
        made = envelope(record, BOB)
        again = ProvenanceEnvelope.decode(json.dumps(made.document()).encode())
        self.assertEqual(again, made)
        self.assertEqual(again.check(record), (BOB.peer_id,))
        self.assertRaises(RecordError, again.check, decision())

    def test_another_implementation_verifies_it(self) -> None:
        from securesystemslib.dsse import Envelope
        from securesystemslib.signer import SSlibKey

        made = envelope(decision(**FULL), ALICE)
        theirs = Envelope.from_dict(json.loads(json.dumps(made.document())))
        key = SSlibKey(str(ALICE.peer_id), "ed25519", "ed25519", {"public": ALICE.public_key.data.hex()})
        self.assertEqual(theirs.pae(), pae(made.payload_type, made.payload))
        self.assertEqual(list(theirs.verify([key], 1)), [str(ALICE.peer_id)])

    def test_an_envelope_of_another_implementation_is_verified(self) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from securesystemslib.dsse import Envelope
        from securesystemslib.signer import CryptoSigner, SSlibKey

        key = SSlibKey(str(ALICE.peer_id), "ed25519", "ed25519", {"public": ALICE.public_key.data.hex()})
        theirs = Envelope(b"{}", "application/x", {})
        theirs.sign(CryptoSigner(Ed25519PrivateKey.from_private_bytes(b"\1" * 32), key))
        ours = ProvenanceEnvelope.decode(json.dumps(theirs.to_dict()).encode())
        self.assertEqual(ours.verify(), (ALICE.peer_id,))
        self.assertRaises(RecordError, ours.check, decision())

    def test_forged(self) -> None:
        record = decision()
        good = envelope(record, ALICE).document()
        (signature,) = good["signatures"]  # type: ignore[misc]
        for change in (
            {"payload": base64.b64encode(b"{}").decode()},
            {"payloadType": "text/plain"},
            {"signatures": []},
            {"signatures": [signature] * 17},
            {"signatures": [{**signature, "keyid": str(BOB.peer_id)}]},  # type: ignore[dict-item]
            {"signatures": [{**signature, "keyid": ""}]},  # type: ignore[dict-item]
            {"signatures": [{"keyid": str(ALICE.peer_id)}]},
            {"signatures": [{**signature, "sig": "é"}]},  # type: ignore[dict-item]
            {"signatures": [signature, {**signature, "sig": "AAAA"}]},  # type: ignore[dict-item]
            {"signatures": [3]},
            {"signatures": {"a": 1}},
            {"payload": None},
            {"payload": 3},
        ):
            with self.subTest(change=change):
                data = json.dumps({**good, **change}).encode()
                self.assertRaises(RecordError, lambda data=data: ProvenanceEnvelope.decode(data).check(record))
