"""The same bombs through every decoder of bytes from outside (spec/security.md 2.6).

A decoder that is added belongs into these tables: `test_no_other_decoder` finds those that are not.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import chorus
from chorus import messages, strictjson
from chorus.client import api, task_commands, watch
from chorus.client.errors import ClientError
from chorus.errors import ChorusError
from chorus.identity import Identity, PublicKey
from chorus.multiformats import varint
from chorus.protocols import blobs, handover, identify, peers, task_messages
from chorus.protocols.admission import Exchange
from chorus.protocols.ballot import codec as election
from chorus.protocols.ballot.roster import read_roster
from chorus.protocols.envelope import PeerRecord
from chorus.protocols.gossipsub.decode import decode_message, decode_rpc
from chorus.protocols.gossipsub.sign import Verifier
from chorus.protocols.kad import messages as kad
from chorus.protocols.keys import KeyShow
from chorus.protocols.noise.handshake import NoiseError, NoiseHandshake
from chorus.protocols.replication import codec as journal
from chorus.protocols.starts import StartRecord
from chorus.security.membership import Membership
from chorus.security.roles import read_roles
from chorus.services.ucxl.bundle import Publication
from chorus.ucxl.provenance import ProvenanceEnvelope
from chorus.ucxl.record import Decision
from chorus.ucxl.signed import Head, Version
from tests.protocols.noise.test_handshake import PeerWithPayload
from tests.support import PureTestCase

ALICE = Identity.from_seed(b"\1" * 32)
BOB = Identity.from_seed(b"\2" * 32)
HASH = "ab" * 32

Decoder = Callable[[bytes], object]


def noise_payload(payload: bytes) -> None:
    PeerWithPayload(payload).attack(NoiseHandshake(BOB, initiator=False), initiator=True)


def pubsub_message(raw: bytes) -> None:
    Verifier().verify(decode_message(raw))


def kad_peer(raw: bytes) -> None:
    if not kad.decode(b"\x08\x04\x42" + varint.encode(len(raw)) + raw).closer:
        raise ChorusError("a peer that is passed over")


def framed_entry(raw: bytes) -> bytes:
    append = b"\x22" + varint.encode(len(raw)) + raw
    return b"\x0a" + varint.encode(len(append)) + append


PROTOBUF: dict[str, Decoder] = {
    "noise": noise_payload,
    "identity": PublicKey.from_protobuf,
    "envelope": PeerRecord.open,
    "starts": StartRecord.open,
    "identify": lambda raw: identify.parse([raw], ALICE.peer_id),
    "gossip_rpc": decode_rpc,
    "gossip_rpc, a message": pubsub_message,
    "admission": Exchange(bytes(32), False, bytes(32), ALICE.peer_id, BOB.peer_id).check,
    "peers, a question": peers.decode_request,
    "peers, an answer": peers.decode_answer,
    "kad": kad.decode,
    "election": election.decode,
    "election, a certificate": election.decode_office,
    "election, a heartbeat": lambda raw: election.decode(b"\x2a" + varint.encode(len(raw)) + raw),
    "journal": journal.decode,
    "journal, an append": lambda raw: journal.decode(b"\x0a" + varint.encode(len(raw)) + raw),
    "journal, an entry": lambda raw: journal.decode(framed_entry(raw)),
    "kad, a request": kad.decode_request,
    "kad, a peer in it": kad_peer,
    "kad, a record in it": lambda raw: kad.decode(b"\x08\x00\x1a" + varint.encode(len(raw)) + raw),
}
FIRST_FIELD = b"\x0a\x04abcd"
CHEAP = 200
"""In yardsticks: a bomb of a megabyte of brackets takes 40, one whose cost is its square thousands."""


def client_answer(raw: bytes) -> object:
    node = api.NodeApi({}, "http://127.0.0.1:1")
    with mock.patch.object(node, "request") as request:
        request.return_value.__enter__.return_value = io.BytesIO(raw)
        return node.json("GET", "/")


def client_specification(raw: bytes) -> object:
    with mock.patch.object(sys, "stdin", mock.Mock(buffer=io.BytesIO(raw))):
        return task_commands._read_spec("-")


JSON: dict[str, Decoder] = {
    "strictjson": strictjson.loads,
    "messages": lambda raw: messages.decode(raw, ALICE.peer_id),
    "task_messages": task_messages.decode,
    "handover": handover.decode,
    "task_messages, with its kind": lambda raw: task_messages.decode(b"\x00" + raw),
    "blobs, a manifest": lambda raw: blobs.Manifest.decode(raw, HASH, 2**40),
    "blobs, a request": blobs.decode_request,
    "blobs, an answer": blobs.Answer.decode,
    "cluster": Membership.from_json,
    "roster": read_roster,
    "roles": lambda raw: read_roles(raw, bytes(32)),
    "keys, a show": lambda raw: KeyShow.decode(raw, ALICE.peer_id, bytes(32)),
    "ucxl, a decision": Decision.decode,
    "ucxl, an envelope": ProvenanceEnvelope.decode,
    "ucxl, a publication": Publication.decode,
    "ucxl, a head": Head.decode,
    "ucxl, a version": Version.decode,
}
CLIENT: dict[str, Decoder] = {
    "api": client_answer,
    "commands": client_specification,
}
DIGITS = b'{"type":' + b"9" * 1_000_000 + b"}"
DEEP = b"[" * 200_000 + b"]" * 200_000
TABLE = {
    "digits": DIGITS,
    "negative digits": b"[-" + b"1" * 1_000_000 + b"]",
    "digits of a fraction": b"[0." + b"1" * 1_000_000 + b"]",
    "an exponent": b"[1e" + b"9" * 1_000_000 + b"]",
    "nesting": DEEP,
    "nesting of objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "nesting without an end": b"[" * 1_000_000,
    "nesting within the length of a small message": b"[" * 200 + b"]" * 200,
    "a key twice": b'{"type":"a","type":"b"}',
    "a key twice inside": b'{"type":{"a":1,"a":2}}',
    "NaN": b'{"type":NaN}',
    "Infinity": b'{"type":-Infinity}',
    "a float over its range": b'{"type":1e999}',
    "half of a surrogate pair": b'{"type":"\\ud800"}',
    "half of a pair in a key": b'{"\\udfff":1}',
    "a surrogate in UTF-8": b'{"type":"\xed\xa0\x80"}',
    "no UTF-8": b"\xff\xfe{\x00}\x00",
    "a mark of the byte order": b"\xef\xbb\xbf{}",
    "two documents": b"{}{}",
    "nothing": b"",
}


class ProtobufTests(PureTestCase):
    def test_cve_2025_4565_nested_groups(self) -> None:
        for name, decode in PROTOBUF.items():
            for depth in (10, 120, 3_000, 10_000, 100_000):
                for bomb in (
                    b"\x7b" * depth + b"\x7c" * depth,
                    FIRST_FIELD + b"\x7b" * depth,
                    b"\x7c" * depth,
                ):
                    with self.subTest(decoder=name, depth=depth):
                        if name == "noise" and len(bomb) > 7000:
                            continue  # refused by the size of the frame, see test_limits_of_handshake_frames
                        if depth < 100:
                            self.no_crash(decode, bomb)  # an unknown field, passed over
                        else:
                            self.refused(decode, bomb, (ChorusError, NoiseError))

    def test_cve_2025_4565_nested_messages(self) -> None:
        """A message in a message in a message, of the fields that are messages (1 to 4, length-delimited)."""
        for tag in (b"\x0a", b"\x12", b"\x1a", b"\x22"):
            bomb = b""
            for _ in range(2_000):
                size = len(bomb)
                prefix = b""
                while size > 0x7F:
                    prefix += bytes([size & 0x7F | 0x80])
                    size >>= 7
                bomb = tag + prefix + bytes([size]) + bomb
            for name, decode in PROTOBUF.items():
                if name != "noise":
                    with self.subTest(decoder=name, tag=tag):
                        self.no_crash(decode, bomb)

    def refused(self, decode: Decoder, raw: bytes, errors: tuple[type[Exception], ...]) -> None:
        def refused() -> None:
            with self.assertRaises(errors):
                if decode(raw) == [] and decode is peers.decode_answer:
                    raise ChorusError("an answer whose records are none")

        self.assert_cheap(refused, CHEAP)

    def no_crash(self, decode: Decoder, raw: bytes) -> None:
        def survived() -> None:
            with contextlib.suppress(ChorusError):
                decode(raw)

        self.assert_cheap(survived, CHEAP)


class JSONTests(PureTestCase):
    def test_cve_2020_10735_and_the_rest_of_the_table(self) -> None:
        for name, decode in JSON.items():
            for what in TABLE:
                with self.subTest(decoder=name, bomb=what):
                    self.assert_cheap(
                        lambda name=name, decode=decode, what=what: self.refused(name, decode, what), CHEAP
                    )

    def refused(self, name: str, decode: Decoder, what: str) -> None:
        errors = (ChorusError, ValueError) if decode == Membership.from_json else ChorusError
        with self.assertRaises(errors) as caught:
            if name == "strictjson" and what == "nesting within the length of a small message":
                strictjson.loads(TABLE[what], max_depth=64)
            else:
                decode(TABLE[what])
        self.assertNotIsInstance(caught.exception, json.JSONDecodeError)
        self.assertLess(len(str(caught.exception)), 400)

    def test_the_client_says_it_in_one_line(self) -> None:
        """What only this machine's node or user gives the client: no crash, whatever it is."""
        for name, decode in CLIENT.items():
            for what in (
                "digits",
                "nesting",
                "nesting of objects",
                "nesting without an end",
                "two documents",
            ):
                with self.subTest(decoder=name, bomb=what), self.assertRaises(ClientError) as caught:
                    decode(TABLE[what])
                self.assertNotIn("\n", str(caught.exception))
                with self.subTest(bomb=what), self.assertRaises(ValueError):
                    list(watch.parse_events([b"data: " + TABLE[what], b""]))  # `follow` takes it as a broken stream


class CompletenessTests(PureTestCase):
    OURS = {
        "sandbox/bubblewrap/launch.py": "bubblewrap's own report",
        "sandbox/docker/box.py": "a file of this node outside its sandboxes",
        "services/endpoints/ports_file.py": "a file of this node",
        "services/execution/store.py": "this node's database",
        "security/role_changes.py": "sealed by the founder, in a file that it signed",
        "services/keys/files.py": "files of this node, encrypted to it",
        "services/starts.py": "a file of this node",
        "tasks/machine.py": "this node's snapshot",
        "store/decision_texts.py": "this node's database",
        "store/rows.py": "this node's database",
        "strictjson.py": "the decoder itself",
    }
    TABLES = {
        "client/api.py",
        "http/tasks.py",
        "http/ucxi.py",
        "messages/envelope.py",
        "protocols/admission.py",
        "protocols/ballot/codec.py",
        "protocols/ballot/roster.py",
        "protocols/blobs.py",
        "protocols/envelope.py",
        "protocols/gossipsub/decode.py",
        "protocols/handover.py",
        "protocols/identify.py",
        "protocols/kad/messages.py",
        "protocols/keys.py",
        "protocols/noise/handshake.py",
        "protocols/peers.py",
        "protocols/replication/codec.py",
        "protocols/starts.py",
        "protocols/task_messages.py",
        "security/membership.py",
        "security/roles.py",
        "services/cluster.py",
        "services/discovery/memory.py",
        "ucxl/documents.py",
        "ucxl/provenance.py",
    }

    def test_no_other_decoder(self) -> None:
        root = Path(chorus.__file__).parent
        found = set()
        for path in root.rglob("*.py"):
            # The simulation reads what it wrote itself, and no node runs it.
            if not {"proto", "simulation"} & set(path.parts) and re.search(
                r"json\.loads?\(|JSONDecoder\(|\.FromString\(|\.ParseFromString\(|\.MergeFromString\(", path.read_text()
            ):
                found.add(str(path.relative_to(root)))
        self.assertEqual(found, self.TABLES | set(self.OURS))

    def test_no_decoder_that_runs_what_it_reads(self) -> None:
        """No pickle, marshal, shelve, eval or unsafe YAML anywhere in the node."""
        root = Path(chorus.__file__).parent
        for path in root.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names: list[str] = []
                if isinstance(node, ast.Import):
                    names = [alias.name.partition(".")[0] for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [(node.module or "").partition(".")[0]]
                elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    names = [node.func.id]
                bad = {"pickle", "marshal", "shelve", "yaml", "dill", "eval", "exec"} & set(names)
                self.assertEqual(bad, set(), f"{path.relative_to(root)} line {getattr(node, 'lineno', 0)}")
