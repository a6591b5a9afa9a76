from __future__ import annotations

import os
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.protocols.noise.aead import ChaCha20Poly1305, SodiumChaCha20Poly1305
from chorus.protocols.noise.session import MAX_PLAINTEXT, NoiseSession
from chorus.protocols.noise.xx import NONCE_END, NoiseError, NonceExhausted
from tests.support import PureTestCase

CIPHERS = (ChaCha20Poly1305, SodiumChaCha20Poly1305)


def sessions(cipher: type = ChaCha20Poly1305) -> tuple[NoiseSession, NoiseSession]:
    first, second = os.urandom(32), os.urandom(32)
    return NoiseSession(cipher(first), cipher(second)), NoiseSession(cipher(second), cipher(first))


class SealTests(PureTestCase):
    def test_nothing(self) -> None:
        sender, _ = sessions()
        self.assertEqual(sender.seal([]), b"")
        self.assertEqual(sender.seal([b"", b""]), b"")
        self.assertEqual(sender.send_nonce, 0)

    def test_parts_are_joined_into_one_frame(self) -> None:
        sender, receiver = sessions()
        frame = sender.seal([b"a", bytearray(b"b"), memoryview(b"c")])
        self.assertEqual(len(frame), 2 + 3 + 16)
        self.assertEqual(receiver.open(frame), [b"abc"])

    def test_cut_at_the_largest_frame(self) -> None:
        for cipher in CIPHERS:
            sender, receiver = sessions(cipher)
            for size, sizes in (
                (MAX_PLAINTEXT, [MAX_PLAINTEXT]),
                (MAX_PLAINTEXT + 1, [MAX_PLAINTEXT, 1]),
                (2 * MAX_PLAINTEXT, [MAX_PLAINTEXT] * 2),
            ):
                data = os.urandom(size)
                frames = sender.seal([data[:100], data[100:]])
                self.assertEqual(frames[:2], b"\xff\xff")
                opened = receiver.open(frames)
                self.assertEqual([len(part) for part in opened], sizes)
                self.assertEqual(b"".join(opened), data)

    def test_cve_2021_4239_nonce_does_not_wrap(self) -> None:
        sender, receiver = sessions()
        sender.send_nonce = receiver.receive_nonce = NONCE_END - 1
        frame = sender.seal([b"last"])
        for data in (b"x", bytes(MAX_PLAINTEXT + 1)):
            with self.assertRaises(NonceExhausted):
                sender.seal([data])
        self.assertEqual(receiver.open(frame), [b"last"])
        for _ in range(2):
            with self.assertRaises(NonceExhausted):
                receiver.open(frame)

    def test_several_frames_need_several_nonces(self) -> None:
        sender, _ = sessions()
        sender.send_nonce = NONCE_END - 1
        with self.assertRaises(NonceExhausted):
            sender.seal([bytes(MAX_PLAINTEXT + 1)])


class OpenTests(PureTestCase):
    def test_trap_20_empty_plaintext_is_no_end(self) -> None:
        key = os.urandom(32)
        receiver = NoiseSession(ChaCha20Poly1305(key), ChaCha20Poly1305(key))
        sealed = [
            ChaCha20Poly1305(key).encrypt(bytes(4) + bytes([n]) + bytes(7), text, None)
            for n, text in enumerate((b"", b"x"))
        ]
        frames = b"".join(len(frame).to_bytes(2, "big") + frame for frame in sealed)
        self.assertEqual(receiver.open(frames), [b"x"])
        self.assertEqual(receiver.receive_nonce, 2)

    def test_short_frames(self) -> None:
        for length in range(16):
            _, receiver = sessions()
            with self.assertRaises(NoiseError):
                receiver.open(length.to_bytes(2, "big"))

    def test_rustsec_2024_0011_failure_moves_no_nonce_and_is_final(self) -> None:
        for cipher in CIPHERS:
            sender, receiver = sessions(cipher)
            good = sender.seal([b"good"])
            with self.assertRaises(NoiseError):
                receiver.open(b"\x00\x14" + bytes(20))
            self.assertEqual(receiver.receive_nonce, 0)
            with self.assertRaises(NoiseError):
                receiver.open(good)

    def test_each_flipped_bit_is_refused(self) -> None:
        for bit in range(16, (2 + 16 + 4) * 8):
            sender, receiver = sessions()
            frame = bytearray(sender.seal([b"text"]))
            frame[bit // 8] ^= 1 << bit % 8
            with self.assertRaises(NoiseError):
                receiver.open(bytes(frame))

    def test_swapped_doubled_and_dropped_frames(self) -> None:
        for order in ((1, 0), (0, 0), (0, 2)):
            sender, receiver = sessions()
            frames = [sender.seal([bytes([n])]) for n in range(3)]
            with self.assertRaises(NoiseError):
                receiver.open(b"".join(frames[n] for n in order))

    def test_directions_have_their_own_keys(self) -> None:
        sender, _ = sessions()
        with self.assertRaises(NoiseError):
            sender.open(sender.seal([b"reflected"]))

    def test_partial_tells_truncation(self) -> None:
        sender, receiver = sessions()
        frame = sender.seal([b"text"])
        for cut in range(1, len(frame)):
            self.assertEqual(receiver.open(frame[cut - 1 : cut]), [])
            self.assertTrue(receiver.partial)
        self.assertEqual(receiver.open(frame[-1:]), [b"text"])
        self.assertFalse(receiver.partial)

    def test_split_at_every_byte(self) -> None:
        whole = b"one" * 10, b"two"
        sender, _ = sessions()
        for cut in range(1, 70):
            sender, receiver = sessions()
            data = b"".join(sender.seal([part]) for part in whole)
            self.assertEqual(receiver.open(data[:cut]) + receiver.open(data[cut:]), list(whole))
            self.assertFalse(receiver.partial)

    def test_nothing_received(self) -> None:
        sender, receiver = sessions()
        frame = sender.seal([b"text"])
        self.assertEqual(receiver.open(b""), [])
        self.assertFalse(receiver.partial)
        receiver.open(frame[:5])
        self.assertEqual(receiver.open(b""), [])
        self.assertEqual(receiver.open(frame[5:]), [b"text"])

    def test_bytewise_arrival_holds_bytes_not_objects(self) -> None:
        sender, receiver = sessions()
        frame = sender.seal([os.urandom(MAX_PLAINTEXT)])
        tracemalloc.start()
        try:
            for position in range(0, len(frame) - 1, 3):
                receiver.open(frame[position : min(position + 3, len(frame) - 1)])
            held, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(held, 2 * len(frame))
        self.assertLess(peak, 3 * len(frame))
        self.assertEqual(len(receiver.open(frame[-1:])[0]), MAX_PLAINTEXT)

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(st.integers(1, 5000), min_size=1, max_size=12),
        st.lists(st.integers(1, 4000), min_size=1, max_size=40),
        st.sampled_from(CIPHERS),
    )
    def test_any_segmentation(self, sizes: list[int], cuts: list[int], cipher: type) -> None:
        sender, receiver = sessions(cipher)
        texts = [os.urandom(size) for size in sizes]
        stream = b"".join(sender.seal([text]) for text in texts)
        received: list[bytes] = []
        position = turn = 0
        while position < len(stream):
            step = cuts[turn % len(cuts)]
            received += receiver.open(stream[position : position + step])
            position += step
            turn += 1
        self.assertEqual(received, texts)
        self.assertFalse(receiver.partial)

    @settings(max_examples=100, deadline=None)
    @given(st.binary(min_size=18, max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        _, receiver = sessions()
        try:
            self.assertEqual(receiver.open(data), [])
        except NoiseError:
            return
        self.assertTrue(receiver.partial)
