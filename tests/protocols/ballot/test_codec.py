"""Messages of the election as bytes: each comes back as it was, and no other bytes are taken for one."""

from __future__ import annotations

import contextlib

import attrs
from hypothesis import given
from hypothesis import strategies as st

from chorus.errors import LimitExceeded, PeerError
from chorus.protocols.ballot.codec import (
    MAX_FRAME,
    MAX_NUMBER,
    MAX_SHOWN_ROSTERS,
    MAX_SIGNATURE,
    BadElectionMessage,
    decode,
    decode_office,
    encode,
    encode_office,
)
from chorus.protocols.ballot.messages import (
    ElectionMessage,
    Grant,
    Heartbeat,
    LogPosition,
    OfficeCertificate,
    PreVote,
    PreVoteReply,
    RequestVote,
    TransferNow,
    Vote,
)
from chorus.protocols.ballot.roster import MAX_ROSTER, MAX_VOTERS
from chorus.protocols.ballot.score import MAX_SCORE
from tests.support import PureTestCase

SIGNATURE = b"s" * MAX_SIGNATURE
SHA256 = b"h" * 32
TRANSFER = TransferNow(3, 7, "admin", "target", SIGNATURE)
OFFICE = OfficeCertificate(3, 7, "admin", SHA256, (("admin", SIGNATURE), ("other", SIGNATURE)))
HEARTBEAT = Heartbeat(7, 3, SHA256, 12, 2**61, OFFICE, (b"roster", b"another"), TRANSFER)
MESSAGES: tuple[ElectionMessage, ...] = (
    PreVote(8, b"roster", LogPosition(7, 90), 850, TRANSFER),
    PreVote(1, b"roster", LogPosition(), 0),
    *(PreVoteReply(8, 7, answer) for answer in ("yes", "no", "wait")),
    RequestVote(8, b"roster", LogPosition(7, 90), TRANSFER),
    Vote(8, 8, True, SIGNATURE),
    Vote(8, 9, False),
    HEARTBEAT,
    Heartbeat(7, 3, SHA256, 12, 5),
    Grant(7, 12, 2**61, True, 1000, SIGNATURE),
    Grant(9, 12, 5, False, 0),
    TRANSFER,
)


class Bytes(PureTestCase):
    def test_each_comes_back(self) -> None:
        for message in MESSAGES:
            self.assertEqual(decode(encode(message)), message)
        self.assertEqual(decode_office(encode_office(OFFICE)), OFFICE)

    def test_a_message_that_is_cut_off_is_refused_or_another(self) -> None:
        for message in MESSAGES:
            encoded = encode(message)
            for end in range(len(encoded)):
                with contextlib.suppress(PeerError):
                    self.assertNotEqual(decode(encoded[:end]), message)

    @given(st.binary(max_size=400))
    def test_any_bytes_are_a_message_or_a_refusal(self, data: bytes) -> None:
        for read in (decode, decode_office):
            with contextlib.suppress(PeerError):
                read(data)

    def test_a_message_without_a_kind(self) -> None:
        self.assertRaises(BadElectionMessage, decode, b"")

    def test_an_unknown_answer(self) -> None:
        encoded = encode(PreVoteReply(8, 7, "wait"))
        self.assertEqual(encoded[-1], 2)
        self.assertRaises(BadElectionMessage, decode, encoded[:-1] + b"\3")


class Limits(PureTestCase):
    def refused(self, message: ElectionMessage) -> None:
        self.assertRaises(LimitExceeded, decode, encode(message))

    def test_a_frame(self) -> None:
        self.assertRaises(LimitExceeded, decode, bytes(MAX_FRAME + 1))
        self.assertRaises(LimitExceeded, decode_office, bytes(MAX_FRAME + 1))
        largest = attrs.evolve(
            HEARTBEAT,
            certificate=attrs.evolve(OFFICE, votes=tuple(("p" * 60, SIGNATURE) for _ in range(MAX_VOTERS))),
            rosters=(b"r" * MAX_ROSTER,) * MAX_SHOWN_ROSTERS,
        )
        self.assertLess(len(encode(largest)), MAX_FRAME)

    def test_numbers(self) -> None:
        self.assertEqual(decode(encode(Vote(MAX_NUMBER, 0, False))), Vote(MAX_NUMBER, 0, False))
        self.refused(Vote(MAX_NUMBER + 1, 0, False))
        self.refused(attrs.evolve(HEARTBEAT, nonce=MAX_NUMBER + 1))
        self.refused(PreVote(1, b"", LogPosition(1, MAX_NUMBER + 1), 0))
        self.refused(attrs.evolve(TRANSFER, epoch=MAX_NUMBER + 1))

    def test_scores(self) -> None:
        self.refused(Grant(1, 1, 1, False, MAX_SCORE + 1))
        self.refused(PreVote(1, b"", LogPosition(), MAX_SCORE + 1))

    def test_votes_rosters_and_signatures(self) -> None:
        votes = tuple((str(number), SIGNATURE) for number in range(MAX_VOTERS + 1))
        self.refused(attrs.evolve(HEARTBEAT, certificate=attrs.evolve(OFFICE, votes=votes)))
        self.refused(attrs.evolve(HEARTBEAT, rosters=(b"r",) * (MAX_SHOWN_ROSTERS + 1)))
        self.refused(RequestVote(1, b"r" * (MAX_ROSTER + 1), LogPosition()))
        self.refused(Vote(1, 1, True, SIGNATURE + b"s"))

    def test_hashes_and_peers(self) -> None:
        for wrong in (b"", b"h" * 31, b"h" * 33):
            heartbeat = attrs.evolve(HEARTBEAT, roster_sha256=wrong)
            self.assertRaises(BadElectionMessage, decode, encode(heartbeat))
        for wrong in ("", "p" * 257):
            self.assertRaises(BadElectionMessage, decode, encode(attrs.evolve(TRANSFER, target=wrong)))
