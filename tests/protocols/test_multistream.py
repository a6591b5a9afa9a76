from __future__ import annotations

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.errors import LimitExceeded
from chorus.protocols.multistream import (
    HEADER,
    MAX_PROPOSALS,
    MAX_TOKEN,
    MultistreamDialer,
    MultistreamError,
    MultistreamListener,
    encode_message,
    lazy_offer,
)
from tests.support import PureTestCase

NOISE = "/noise"
YAMUX = "/yamux/1.0.0"


def exchange(dialer: MultistreamDialer, listener: MultistreamListener, step: int = 1 << 20) -> None:
    """Carry bytes both ways, at most `step` at a time, until nothing is left to carry."""
    outward = dialer.data_to_send()
    while outward:
        for start in range(0, len(outward), step):
            listener.receive_data(outward[start : start + step])
        inward = listener.data_to_send()
        for start in range(0, len(inward), step):
            dialer.receive_data(inward[start : start + step])
        outward = dialer.data_to_send()


class EncodingTests(PureTestCase):
    def test_bytes_of_the_specification(self) -> None:
        for text, encoded in (
            ("/multistream/1.0.0", "132f6d756c746973747265616d2f312e302e300a"),
            (NOISE, "072f6e6f6973650a"),
            (YAMUX, "0d2f79616d75782f312e302e300a"),
            ("na", "036e610a"),
            ("ls", "036c730a"),
        ):
            self.assertEqual(encode_message(text).hex(), encoded)
        self.assertEqual(lazy_offer(NOISE), HEADER + encode_message(NOISE))

    def test_what_cannot_be_sent(self) -> None:
        for text in ("/a\nb", "/" + "x" * MAX_TOKEN):
            with self.assertRaises(ValueError):
                encode_message(text)
        for count in (0, MAX_PROPOSALS + 1):
            with self.assertRaises(ValueError):
                MultistreamDialer([NOISE] * count)


class NegotiationTests(PureTestCase):
    def test_first_proposal(self) -> None:
        dialer, listener = MultistreamDialer([NOISE]), MultistreamListener(lambda name: name == NOISE)
        exchange(dialer, listener)
        self.assertEqual((dialer.selected, listener.selected, dialer.failed), (NOISE, NOISE, False))

    def test_one_flight_each_way(self) -> None:
        dialer, listener = MultistreamDialer([NOISE]), MultistreamListener(lambda name: True)
        offer = dialer.data_to_send()
        self.assertEqual(offer, lazy_offer(NOISE))
        listener.receive_data(offer)
        self.assertEqual(listener.data_to_send(), lazy_offer(NOISE))
        self.assertEqual(listener.data_to_send(), b"")

    def test_header_is_answered_before_a_proposal(self) -> None:
        listener = MultistreamListener(lambda name: True)
        listener.receive_data(HEADER)
        self.assertEqual(listener.data_to_send(), HEADER)
        listener.receive_data(encode_message(NOISE))
        self.assertEqual(listener.data_to_send(), encode_message(NOISE))

    def test_second_proposal(self) -> None:
        dialer, listener = MultistreamDialer(["/a", "/b"]), MultistreamListener(lambda name: name == "/b")
        exchange(dialer, listener)
        self.assertEqual((dialer.selected, listener.selected), ("/b", "/b"))

    def test_all_refused(self) -> None:
        dialer, listener = MultistreamDialer(["/a", "/b"]), MultistreamListener(lambda name: False)
        exchange(dialer, listener)
        self.assertTrue(dialer.failed)
        self.assertIsNone(dialer.selected)
        self.assertIsNone(listener.selected)

    def test_deprecated_simultaneous_connect_and_ls_are_refused(self) -> None:
        listener = MultistreamListener(lambda name: True if name == NOISE else name == "ls")
        listener.receive_data(HEADER + encode_message("/libp2p/simultaneous-connect") + encode_message("ls"))
        self.assertEqual(listener.data_to_send(), HEADER + encode_message("na") * 2)
        listener.receive_data(encode_message(NOISE))
        self.assertEqual(listener.selected, NOISE)

    def test_matching_is_exact(self) -> None:
        listener = MultistreamListener({NOISE}.__contains__)
        listener.receive_data(HEADER + b"".join(map(encode_message, ("/Noise", "/noise/", "/noise ", "noise", ""))))
        self.assertIsNone(listener.selected)

    def test_trap_1_leftover_of_a_lazy_dialer(self) -> None:
        listener = MultistreamListener(lambda name: True)
        listener.receive_data(lazy_offer(NOISE) + b"application data")
        self.assertEqual(listener.leftover, b"application data")
        dialer = MultistreamDialer([NOISE])
        dialer.receive_data(lazy_offer(NOISE) + b"\x00\x01")
        self.assertEqual(dialer.leftover, b"\x00\x01")

    def test_no_leftover_while_it_lasts(self) -> None:
        listener = MultistreamListener(lambda name: True)
        listener.receive_data(HEADER + b"\x07/noi")
        self.assertEqual(listener.leftover, b"")

    def test_leftover_after_failure(self) -> None:
        dialer = MultistreamDialer(["/a"])
        dialer.receive_data(HEADER + encode_message("na") + b"rest")
        self.assertTrue(dialer.failed)
        self.assertEqual(dialer.leftover, b"rest")

    def test_split_at_every_byte(self) -> None:
        whole = HEADER + encode_message("/a") + encode_message("/b") + b"rest"
        for cut in range(len(whole) + 1):
            listener = MultistreamListener(lambda name: name == "/b")
            for piece in (whole[:cut], whole[cut:]):
                if listener.selected is None:
                    listener.receive_data(piece)
                    after = b""
                else:
                    after = piece
            self.assertEqual(listener.selected, "/b")
            self.assertEqual(listener.leftover + after, b"rest")
            self.assertEqual(listener.data_to_send(), HEADER + encode_message("na") + encode_message("/b"))

    def test_byte_by_byte(self) -> None:
        dialer, listener = MultistreamDialer(["/a", "/b"]), MultistreamListener(lambda name: name == "/b")
        exchange(dialer, listener, step=1)
        self.assertEqual((dialer.selected, listener.selected), ("/b", "/b"))


class RefusalTests(PureTestCase):
    def test_garbage_is_refused_at_its_first_wrong_byte(self) -> None:
        for data in (
            b"GET / HTTP/1.1\r\n",
            b"\x13/multistreaM",
            b"\x13x",
            b"SSH-2.0-x\r\n",
            b"\x00",
            b"\x16\x03\x01",
            b"\x01\n",
        ):
            for peer in (MultistreamDialer([NOISE]), MultistreamListener(lambda name: True)):
                with self.assertRaises(MultistreamError, msg=data):
                    peer.receive_data(data)

    def test_limit_max_token(self) -> None:
        longest = "/" + "x" * (MAX_TOKEN - 2)
        listener = MultistreamListener(lambda name: False)
        listener.receive_data(HEADER + encode_message(longest))
        for length in (b"\x81\x08", b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x80\x00"):
            with self.assertRaises(MultistreamError, msg=length):
                MultistreamListener(lambda name: False).receive_data(HEADER + length)

    def test_limit_max_proposals(self) -> None:
        listener = MultistreamListener(lambda name: False)
        listener.receive_data(HEADER + encode_message("/x") * MAX_PROPOSALS)
        with self.assertRaises(LimitExceeded):
            listener.receive_data(encode_message("/x"))
        self.assertEqual(listener.data_to_send(), HEADER + encode_message("na") * MAX_PROPOSALS)

    def test_no_allocation_from_the_length(self) -> None:
        tracemalloc.start()
        try:
            with self.assertRaises(MultistreamError):
                MultistreamListener(lambda name: True).receive_data(b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f")
            self.assertLess(tracemalloc.get_traced_memory()[1], 100_000)
        finally:
            tracemalloc.stop()

    def test_malformed_messages(self) -> None:
        for message in (b"\x00", b"\x02/x", b"\x03\xff\xfe\n", b"\x01x"):
            with self.assertRaises(MultistreamError, msg=message):
                MultistreamListener(lambda name: True).receive_data(HEADER + message)

    def test_answer_that_was_not_proposed(self) -> None:
        for answer in ("/b", "ls", "", "/multistream/1.0.0"):
            with self.assertRaises(MultistreamError):
                MultistreamDialer(["/a"]).receive_data(HEADER + encode_message(answer))

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.one_of(st.binary(max_size=30), st.sampled_from([HEADER, lazy_offer(NOISE)])), max_size=6))
    def test_any_bytes(self, pieces: list[bytes]) -> None:
        for peer in (MultistreamDialer([NOISE, YAMUX]), MultistreamListener({NOISE}.__contains__)):
            try:
                for piece in pieces:
                    peer.receive_data(piece)
            except MultistreamError:
                continue
            if peer.selected is not None:
                self.assertTrue(b"".join(pieces).endswith(peer.leftover))
