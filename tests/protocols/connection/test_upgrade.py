"""From bytes to a connection with a multiplexer: flights, early muxers, refusals, the time it may take."""

from __future__ import annotations

from chorus.errors import PeerError
from chorus.protocols import multistream
from chorus.protocols.connection.limits import HandshakeTimeout
from chorus.protocols.multistream import MultistreamError
from chorus.protocols.noise.handshake import NoiseError, PeerIdMismatch
from chorus.protocols.yamux.frames import DATA, SYN, WINDOW_UPDATE, SessionEnded
from tests.protocols.connection_support import DIALER, ECHO, LISTENER, CorePair, core, drain, open_stream
from tests.protocols.yamux_support import frame
from tests.support import PureTestCase

MESSAGE_3 = 170
"""Bytes of the dialer's third flight without an early muxer, before its proposal of one."""
EARLY = [(True, True), (True, False), (False, True), (False, False)]


class NoiseTwin:
    """Seals as the dialer of a pair would from its first transport frame on (its own was thrown away)."""

    def __init__(self, dialer) -> None:
        self._session = dialer.result.session
        self._session.send_nonce = 0

    def seal(self, *plaintexts: list[bytes]) -> bytes:
        return b"".join(self._session.seal(parts) for parts in plaintexts)


class SetUp(PureTestCase):
    def test_every_mixture_of_early_muxers_cut_anywhere(self) -> None:
        for early in EARLY:
            for cut in (None, 1, 2, 7, 61):
                pair = CorePair(early=early, cut=cut)
                dialer, listener = pair.dialer.result, pair.listener.result
                self.assertEqual((dialer.peer_id, listener.peer_id), (LISTENER.peer_id, DIALER.peer_id))
                self.assertEqual(dialer.handshake_hash, listener.handshake_hash)
                self.assertEqual(dialer.muxer, "/yamux/1.0.0" if all(early) else None)
                stream = open_stream(pair)
                stream.write(b"hello")
                pair.pump()
                self.assertEqual(stream.receiver.data, b"hello")

    def test_three_flights_to_the_first_stream(self) -> None:
        pair = CorePair(secure=False)
        first = drain(pair.dialer)
        self.assertEqual(first[:27], multistream.lazy_offer("/noise")[:27])
        self.assertEqual(len(first), 28 + 34, "message 1 comes with the proposal")
        pair.listener.receive_data(first, 0.0)
        second = drain(pair.listener)
        pair.dialer.receive_data(second, 0.0)
        stream = open_stream(pair)
        stream.write(b"hello")
        pair.listener.receive_data(drain(pair.dialer), 0.0)
        self.assertEqual(pair.listener_events.receivers[0].data, b"hello")

    def test_a_dialer_that_waits_for_each_answer(self) -> None:
        """The listener takes the order of spec/wire.md 17 too, where message 1 comes after the echo."""
        listener, _ = core(False)
        dialer, _ = core(True)
        first = drain(dialer)
        listener.receive_data(first[:20], 0.0)
        self.assertEqual(drain(listener), multistream.HEADER)
        listener.receive_data(first[20:28], 0.0)
        self.assertEqual(drain(listener), multistream.encode_message("/noise"))
        listener.receive_data(first[28:], 0.0)
        self.assertEqual(len(drain(listener)) > 96, True)

    def test_no_noise(self) -> None:
        dialer, _ = core(True)
        drain(dialer)
        refusal = multistream.HEADER + multistream.encode_message("na")
        self.assertRaises(MultistreamError, dialer.receive_data, refusal, 0.0)

    def test_another_proposal_after_a_refusal(self) -> None:
        listener, _ = core(False)
        dialer, _ = core(True)
        listener.receive_data(multistream.lazy_offer("/tls/1.0.0"), 0.0)
        self.assertEqual(drain(listener), multistream.HEADER + multistream.encode_message("na"))
        listener.receive_data(drain(dialer)[20:], 0.0)
        self.assertEqual(drain(listener)[:8], multistream.encode_message("/noise"))

    def test_garbage(self) -> None:
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", bytes(100), b"\xff" * 100):
            for initiator in (True, False):
                side, events = core(initiator)
                self.assertRaises(PeerError, side.receive_data, garbage, 0.0)
                side.close(NoiseError("x"))
                self.assertIsNone(events.result)

    def test_wrong_peer(self) -> None:
        pair = CorePair(secure=False, expected_peer=DIALER.peer_id)
        self.assertRaises(NoiseError, pair.pump)
        self.assertEqual((pair.dialer_events.result, pair.dialer.yamux), (None, None))
        pair = CorePair(secure=False, expected_peer=None)
        pair.pump()
        self.assertEqual(pair.dialer.result.peer_id, LISTENER.peer_id)

    def test_wrong_peer_is_told_apart(self) -> None:
        from chorus.identity import Identity

        pair = CorePair(secure=False, expected_peer=Identity.from_seed(bytes(32)).peer_id)
        self.assertRaises(PeerIdMismatch, pair.pump)

    def test_py_1345_nothing_before_the_peer_is_known(self) -> None:
        """No stream and no event before the handshake has ended, whatever the peer sends in it."""
        pair = CorePair(secure=False)
        self.assertRaises(SessionEnded, pair.dialer.open_stream, ECHO, 0.0)
        pair.listener.receive_data(drain(pair.dialer), 0.0)
        self.assertIsNone(pair.listener_events.result)
        self.assertRaises(NoiseError, pair.listener.receive_data, frame(WINDOW_UPDATE, SYN, 1, 0) * 100, 0.0)
        self.assertEqual((pair.listener_events.result, pair.listener_events.opened), (None, []))

    def test_handshake_timeout(self) -> None:
        for flights in range(3):
            pair = CorePair(secure=False)
            sides = [(pair.dialer, pair.listener), (pair.listener, pair.dialer)]
            for flight in range(flights):
                sender, receiver = sides[flight % 2]
                receiver.receive_data(drain(sender), 9.0)
            waiting = pair.dialer if flights < 2 else pair.listener
            self.assertEqual(waiting.next_timer(), 10.0)
            waiting.handle_timer(9.99)
            self.assertRaises(HandshakeTimeout, waiting.handle_timer, 10.0)

    def test_slow_loris(self) -> None:
        """One byte a second does not move the limit."""
        listener, _ = core(False)
        first = drain(core(True)[0])
        for second in range(10):
            listener.receive_data(first[second : second + 1], float(second))
            listener.handle_timer(float(second))
        self.assertRaises(HandshakeTimeout, listener.handle_timer, 10.0)

    def test_muxer_negotiation_counts_for_the_handshake(self) -> None:
        pair = CorePair(secure=False, early=(False, False))
        pair.listener.receive_data(drain(pair.dialer), 0.0)
        pair.dialer.receive_data(drain(pair.listener), 0.0)
        self.assertIsNone(pair.dialer.yamux)
        self.assertRaises(HandshakeTimeout, pair.dialer.handle_timer, 10.0)

    def test_muxer_refused(self) -> None:
        pair = CorePair(secure=False, early=(False, False))
        pair.listener.receive_data(drain(pair.dialer), 0.0)
        pair.dialer.receive_data(drain(pair.listener), 0.0)
        pair.listener.receive_data(drain(pair.dialer)[:MESSAGE_3], 0.0)
        seal = pair.listener.result.session.seal
        refusal = seal([multistream.HEADER + multistream.encode_message("na")])
        self.assertRaises(MultistreamError, pair.dialer.receive_data, refusal, 0.0)

    def test_frames_in_the_flight_of_the_muxer(self) -> None:
        """Whatever follows the muxer's name belongs to the muxer, in the same plaintext or the next."""
        for apart in (False, True):
            pair = CorePair(secure=False, early=(False, False))
            pair.listener.receive_data(drain(pair.dialer), 0.0)
            pair.dialer.receive_data(drain(pair.listener), 0.0)
            pair.listener.receive_data(drain(pair.dialer)[:MESSAGE_3], 0.0)
            offer = multistream.lazy_offer("/yamux/1.0.0")
            first = frame(DATA, SYN, 1, 60, (multistream.lazy_offer(ECHO) + b"x" * 60)[:60])
            session = NoiseTwin(pair.dialer)
            sealed = session.seal([offer], [first]) if apart else session.seal([offer + first])
            pair.listener.receive_data(sealed, 0.0)
            self.assertEqual(len(pair.listener_events.opened), 1)
