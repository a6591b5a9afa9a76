from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from chorus.identity import Identity
from chorus.protocols.noise.handshake import PeerIdMismatch, SelfDial
from chorus.simulation.security import PlainHandshake, SeededNoise, plain
from tests.support import PureTestCase

A, B = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))
MUXERS = ("/yamux/1.0.0",)


class Plain(PureTestCase):
    def pair(self, **options: object) -> tuple[PlainHandshake, PlainHandshake]:
        rng = random.Random(1)
        return (
            PlainHandshake(A, rng, initiator=True, muxers=MUXERS, **options),  # type: ignore[arg-type]
            PlainHandshake(B, rng, initiator=False, muxers=MUXERS),
        )

    @given(st.integers(1, 60))
    def test_both_know_each_other_however_the_bytes_come(self, size: int) -> None:
        dialer, listener = self.pair()
        hello = dialer.data_to_send()
        for start in range(0, len(hello), size):
            listener.receive_data(hello[start : start + size])
        answer = listener.data_to_send() + b"more"
        for start in range(0, len(answer), size):
            if dialer.result is None:
                dialer.receive_data(answer[start : start + size])
        assert dialer.result is not None and listener.result is not None
        self.assertEqual((dialer.result.peer_id, listener.result.peer_id), (B.peer_id, A.peer_id))
        self.assertEqual(dialer.result.handshake_hash, listener.result.handshake_hash)
        self.assertEqual(dialer.result.muxer, MUXERS[0])
        self.assertTrue(b"more".startswith(dialer.result.leftover))

    def test_another_peer_and_oneself_are_refused_as_in_noise(self) -> None:
        dialer, listener = self.pair(expected_peer=A.peer_id)
        listener.receive_data(dialer.data_to_send())
        self.assertRaises(PeerIdMismatch, dialer.receive_data, listener.data_to_send())
        mirror = PlainHandshake(A, random.Random(2), initiator=False)
        self.assertRaises(SelfDial, mirror.receive_data, self.pair()[0].data_to_send())

    def test_hashes_differ_between_connections(self) -> None:
        make = plain(random.Random(1))
        hashes = set()
        for _ in range(2):
            dialer, listener = make(A, initiator=True), make(B, initiator=False)
            listener.receive_data(dialer.data_to_send())
            assert listener.result is not None
            hashes.add(listener.result.handshake_hash)
        self.assertEqual(len(hashes), 2)


class Seeded(PureTestCase):
    def messages(self, seed: int) -> bytes:
        dialer = SeededNoise(A, random.Random(seed))(A, initiator=True)
        listener = SeededNoise(B, random.Random(seed + 1))(B, initiator=False)
        said = dialer.data_to_send()
        listener.receive_data(said)
        answer = listener.data_to_send()
        dialer.receive_data(answer)
        last = dialer.data_to_send()
        listener.receive_data(last)
        assert listener.result is not None and dialer.result is not None
        return said + answer + last + dialer.result.session.seal([b"hello"])

    def test_one_seed_is_one_handshake_byte_by_byte(self) -> None:
        self.assertEqual(self.messages(1), self.messages(1))
        self.assertNotEqual(self.messages(1), self.messages(3))
