"""The connection without its socket: negotiation of streams, time, the end."""

from __future__ import annotations

from chorus.errors import ChorusError, PeerError
from chorus.protocols import multistream
from chorus.protocols.connection.core import Truncated
from chorus.protocols.connection.limits import ConnectionLimits, LingerTimeout, NegotiationTimeout, ReadStalled
from chorus.protocols.multistream import MultistreamError
from chorus.protocols.noise.handshake import NoiseError
from chorus.protocols.stream import ProtocolNotSupported, StreamClosed, StreamReset
from chorus.protocols.yamux.frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    INITIAL_WINDOW,
    PING,
    SYN,
    WINDOW_UPDATE,
    SessionEnded,
    YamuxError,
    YamuxLimits,
)
from tests.protocols.connection_support import ECHO, CorePair, CoreRecorder, Echo, core, drain, forged, open_stream
from tests.protocols.yamux_support import Recorder, frame, frames
from tests.support import PureTestCase


class Streams(PureTestCase):
    def test_one_flight_for_a_request(self) -> None:
        pair = CorePair()
        stream = open_stream(pair)
        stream.write(b"question")
        stream.write_eof()
        flight = drain(pair.dialer)
        pair.listener.receive_data(flight, 0.0)
        self.assertEqual(pair.listener_events.receivers[0].data, b"question")
        pair.dialer.receive_data(drain(pair.listener), 0.0)
        self.assertEqual((stream.receiver.data, stream.receiver.closed), (b"question", []))
        pair.pump()
        self.assertEqual(stream.receiver.closed, [None])
        self.assertEqual((pair.dialer.yamux.streams, pair.listener.yamux.streams), ({}, {}))
        self.assertEqual((len(pair.dialer._negotiating), len(pair.listener._negotiating)), (0, 0))

    def test_cut_anywhere(self) -> None:
        for cut in (1, 3, 19):
            pair = CorePair(cut=cut)
            stream = open_stream(pair)
            stream.write(b"question")
            stream.write_eof()
            pair.pump()
            self.assertEqual((stream.receiver.data, stream.receiver.closed), (b"question", [None]))

    def test_offer_and_data_in_one_frame_or_byte_by_byte(self) -> None:
        """What a lazy peer may send: header, proposal and data in one Data frame, or in many."""
        offer = multistream.lazy_offer(ECHO) + b"data"
        whole = [frame(DATA, SYN, 1, len(offer), offer)]
        pieces = [frame(WINDOW_UPDATE, SYN, 1, 0)] + [frame(DATA, 0, 1, 1, offer[i : i + 1]) for i in range(len(offer))]
        for plaintexts in (whole, pieces):
            pair = CorePair()
            pair.listener.receive_data(forged(pair, *plaintexts), 0.0)
            self.assertEqual(pair.listener_events.receivers[0].data, b"data")
            self.assertEqual(pair.listener_events.receivers[0].stream.protocol, ECHO)

    def test_second_stream_of_a_known_protocol(self) -> None:
        pair = CorePair()
        for _ in range(3):
            stream = open_stream(pair)
            stream.write(b"again")
            pair.pump()
            self.assertEqual(stream.receiver.data, b"again")
        self.assertEqual(list(pair.listener.known_offers.values()), [ECHO])
        pair.listener_events.protocols.clear()
        stream = open_stream(pair)
        pair.pump()
        self.assertIsInstance(stream.receiver.closed[0], ProtocolNotSupported)

    def test_known_offers_are_bounded(self) -> None:
        names = [f"/test/{number}" for number in range(100)]
        pair = CorePair()
        pair.listener_events.protocols.update(names)
        for name in names:
            open_stream(pair, name).write_eof()
            pair.pump()
        self.assertEqual(len(pair.listener.known_offers), 64)

    def test_refused_lazily(self) -> None:
        pair = CorePair()
        stream = open_stream(pair, "/nobody/speaks/this")
        stream.write(b"too soon")
        pair.pump()
        (error,) = stream.receiver.closed
        self.assertIsInstance(error, ProtocolNotSupported)
        self.assertEqual((pair.dialer.yamux.streams, pair.listener.yamux.streams), ({}, {}))
        self.assertEqual(pair.listener_events.opened, [])
        self.assertRaises(StreamClosed, stream.write, b"x")

    def test_fin_waits_for_the_answer(self) -> None:
        """js-libp2p 3.3 loses what came before a FIN that reaches it in its negotiation."""
        for end in ("write_eof", "close"):
            pair = CorePair()
            stream = pair.dialer.open_stream(ECHO, 0.0)
            receiver = Recorder()
            stream.set_receiver(receiver)
            stream.write(b"question")
            getattr(stream, end)()
            self.assertRaises(StreamClosed, stream.write, b"more")
            flight = drain(pair.dialer)
            pair.listener.receive_data(flight, 0.0)
            self.assertEqual(pair.listener_events.receivers[0].eofs, 0)
            self.assertEqual(receiver.closed, [])
            pair.pump()
            self.assertEqual(pair.listener_events.receivers[0].eofs, 1)
            self.assertEqual(receiver.data, b"question" if end == "write_eof" else b"")
            self.assertEqual((receiver.closed, pair.dialer.yamux.streams), ([None], {}))

    def test_refused_after_it_was_closed(self) -> None:
        pair = CorePair()
        stream = pair.dialer.open_stream("/nobody/speaks/this", 0.0)
        receiver = Recorder()
        stream.set_receiver(receiver)
        stream.write(b"one way")
        stream.close()
        stream.close()
        pair.pump()
        self.assertIsInstance(receiver.closed[0], ProtocolNotSupported)
        self.assertEqual((len(receiver.closed), pair.dialer.yamux.streams), (1, {}))

    def test_closed_before_the_answer_with_bytes_queued(self) -> None:
        pair = CorePair()
        stream = pair.dialer.open_stream(ECHO, 0.0)
        receiver = Recorder()
        stream.set_receiver(receiver)
        stream.write(bytes(3 * INITIAL_WINDOW))
        stream.close()
        pair.pump()
        self.assertEqual(receiver.closed, [None])
        self.assertEqual(len(pair.listener_events.receivers[0].data), 3 * INITIAL_WINDOW)
        self.assertEqual((pair.dialer.yamux.streams, len(pair.dialer._lingering)), ({}, 0))

    def test_several_candidates(self) -> None:
        pair = CorePair()
        outcomes: list[object] = []
        stream = pair.dialer.propose_stream(["/a", "/b", ECHO], outcomes.append, 0.0)
        pair.pump()
        self.assertEqual((outcomes, stream.protocol), ([stream], ECHO))
        receiver = Recorder()
        stream.set_receiver(receiver)
        stream.write(b"hello")
        pair.pump()
        self.assertEqual(receiver.data, b"hello")

    def test_several_candidates_all_refused_or_cut(self) -> None:
        pair = CorePair()
        outcomes: list[object] = []
        pair.dialer.propose_stream(["/a", "/b"], outcomes.append, 0.0)
        pair.pump()
        pair.dialer.propose_stream(["/a", "/b"], outcomes.append, 0.0)
        pair.dialer.close()
        self.assertIsInstance(outcomes[0], ProtocolNotSupported)
        self.assertIsInstance(outcomes[1], SessionEnded)
        self.assertEqual(len(outcomes), 2)
        self.assertRaises(ValueError, multistream.MultistreamDialer, [f"/{n}" for n in range(17)])

    def test_what_came_before_the_receiver(self) -> None:
        class Greeter(Recorder):
            def __init__(self, stream) -> None:
                super().__init__()
                stream.write(b"greeting")
                stream.write_eof()

        pair = CorePair(secure=False)
        pair.listener_events.serve = Greeter
        pair.pump()
        outcomes: list[object] = []
        streams = [
            pair.dialer.open_stream(ECHO, 0.0),
            pair.dialer.propose_stream(["/a", ECHO], outcomes.append, 0.0),
        ]
        pair.pump()
        for stream in streams:
            receiver = Recorder()
            stream.set_receiver(receiver)
            self.assertEqual((receiver.data, receiver.eofs, receiver.closed), (b"greeting", 1, []))
            stream.write_eof()
            self.assertEqual(receiver.closed, [None])

    def test_pauses_before_the_protocol_is_agreed(self) -> None:
        pair = CorePair()
        stream = open_stream(pair)
        stream.pause_reading()
        stream.write(b"question")
        pair.pump()
        self.assertEqual((stream.receiver.data, pair.dialer.yamux.held), (b"", 8))
        stream.resume_reading()
        self.assertEqual((stream.receiver.data, pair.dialer.yamux.held), (b"question", 0))
        other = open_stream(pair)
        other.pause_reading()
        other.resume_reading()
        other.write(b"question")
        pair.pump()
        self.assertEqual(other.receiver.data, b"question")

    def test_back_pressure_before_the_protocol_is_agreed(self) -> None:
        pair = CorePair()
        stream = pair.dialer.open_stream(ECHO, 0.0)
        stream.write(bytes(3 * INITIAL_WINDOW))
        receiver = Recorder()
        stream.set_receiver(receiver)
        self.assertEqual(receiver.writing, ["pause"])
        pair.pump()
        self.assertEqual(receiver.writing, ["pause", "resume"])
        self.assertEqual(len(receiver.data), 3 * INITIAL_WINDOW)

    def test_an_answer_that_is_none(self) -> None:
        pair = CorePair()
        stream = open_stream(pair)
        drain(pair.dialer)
        bad = pair.listener.result.session.seal([frame(DATA, ACK, 1, 5, b"hello")])
        pair.dialer.receive_data(bad, 0.0)
        self.assertIsInstance(stream.receiver.closed[0], MultistreamError)
        self.assertEqual(pair.dialer_events.counters["multistream_error"], 1)
        self.assertFalse(pair.dialer.closed)

    def test_closed_instead_of_answered(self) -> None:
        pair = CorePair()
        stream = open_stream(pair)
        drain(pair.dialer)
        pair.dialer.receive_data(pair.listener.result.session.seal([frame(WINDOW_UPDATE, FIN | ACK, 1, 0)]), 0.0)
        self.assertIsInstance(stream.receiver.closed[0], MultistreamError)
        self.assertEqual(pair.dialer.yamux.streams, {})

    def test_bad_offers_reset_their_stream_alone(self) -> None:
        good = multistream.lazy_offer(ECHO)
        for bad in (
            b"\x00" * 20,
            b"\xff" * 20,
            multistream.HEADER + b"\x80\x00",
            b"\x13/multistream/2.0.0\n",
        ):
            pair = CorePair()
            pair.listener.receive_data(
                forged(pair, frame(DATA, SYN, 1, len(bad), bad) + frame(DATA, SYN, 3, len(good), good)), 0.0
            )
            self.assertEqual([stream.stream_id for stream in pair.listener_events.opened], [3])
            self.assertEqual(pair.listener_events.counters["multistream_error"], 1)
            self.assertEqual(list(pair.listener.yamux.streams), [3])

    def test_a_stream_closed_before_its_offer(self) -> None:
        pair = CorePair()
        pair.listener.receive_data(forged(pair, frame(WINDOW_UPDATE, SYN | FIN, 1, 0)), 0.0)
        self.assertEqual((pair.listener.yamux.streams, len(pair.listener._negotiating)), ({}, 0))

    def test_nobody_receives(self) -> None:
        pair = CorePair()
        pair.listener_events.stream_opened = lambda stream: None
        stream = open_stream(pair)
        pair.pump()
        self.assertIsInstance(stream.receiver.closed[0], StreamReset)
        self.assertIn("nobody receives", str(pair.listener_events.failures[0]))

    def test_a_failing_opener(self) -> None:
        def fail(stream: object) -> None:
            raise RuntimeError("a bug")

        pair = CorePair()
        pair.listener_events.stream_opened = fail
        stream = open_stream(pair)
        pair.pump()
        self.assertIsInstance(stream.receiver.closed[0], StreamReset)
        self.assertEqual((len(pair.listener_events.failures), pair.listener.yamux.streams), (1, {}))

    def test_reset_while_it_opens(self) -> None:
        """A limit of the host: the stream is reset in `stream_opened`, and needs no receiver."""
        pair = CorePair()
        pair.listener_events.stream_opened = lambda stream: stream.reset()
        stream = open_stream(pair)
        stream.write(b"x")
        pair.pump()
        self.assertIsInstance(stream.receiver.closed[0], StreamReset)
        self.assertEqual((pair.listener_events.failures, pair.listener.yamux.streams), ([], {}))

    def test_py_1414_no_leak_after_100000_streams(self) -> None:
        pair = CorePair()
        for _ in range(500):
            streams = [open_stream(pair) for _ in range(200)]
            for stream in streams:
                stream.write(b"x")
                stream.close()
            pair.pump()
            pair.listener_events.opened.clear()
            pair.listener_events.receivers.clear()
            pair.flights.clear()
        for side in (pair.dialer, pair.listener):
            self.assertEqual((side.yamux.streams, len(side._negotiating), len(side._lingering)), ({}, 0, 0))
            self.assertEqual((side.yamux.held, side.yamux.queued, side.yamux._unaccepted), (0, 0, 0))
        self.assertEqual([stream.receiver.closed for stream in streams], [[None]] * 200)


class Time(PureTestCase):
    def test_negotiation_timeout(self) -> None:
        pair = CorePair()
        stream = open_stream(pair)
        pair.listener.receive_data(forged(pair, frame(WINDOW_UPDATE, SYN, 1, 0)), 5.0)
        drain(pair.dialer)
        self.assertEqual((pair.dialer.next_timer(), pair.listener.next_timer()), (10.0, 10.0))
        pair.dialer.handle_timer(10.0)
        self.assertIsInstance(stream.receiver.closed[0], NegotiationTimeout)
        pair.listener.handle_timer(10.0)
        self.assertEqual((pair.listener.next_timer(), len(pair.listener.yamux.streams)), (15.0, 1))
        pair.listener.handle_timer(15.0)
        self.assertEqual(pair.listener.yamux.streams, {})
        self.assertEqual(pair.listener_events.counters["negotiation_timeout"], 1)
        self.assertFalse(pair.listener.closed)

    def test_agreed_streams_have_no_time_limit(self) -> None:
        pair = CorePair()
        stream = open_stream(pair)
        pair.pump()
        for now in (10.0, 20.0):
            pair.dialer.handle_timer(now)
        self.assertEqual(stream.receiver.closed, [])

    def test_linger(self) -> None:
        pair = CorePair()
        stream = open_stream(pair)
        pair.pump()
        pair.listener_events.opened[0].pause_reading()
        stream.write(bytes(2 * INITIAL_WINDOW))
        stream.close()
        pair.pump()
        self.assertEqual(stream.receiver.closed, [])
        pair.now = 10.0
        pair.dialer.receive_data(pair.listener.result.session.seal([frame(PING, ACK, 0, 9)]), 10.0)
        pair.dialer.handle_timer(30.0)
        self.assertIsInstance(stream.receiver.closed[0], LingerTimeout)
        self.assertEqual((pair.dialer.yamux.streams, pair.dialer.yamux.queued), ({}, 0))

    def test_reading_stalled(self) -> None:
        pair = CorePair(limits=ConnectionLimits(yamux=YamuxLimits(receive_budget=200_000)))
        stream = open_stream(pair)
        pair.pump()
        peer = pair.listener_events.opened[0]
        peer.pause_reading()
        stream.write(bytes(100_001))
        pair.pump()
        self.assertTrue(pair.listener.yamux.budgets.overfull)
        pair.listener.reading_paused(1.0)
        self.assertEqual(pair.listener.next_timer(), 10.0)
        pair.listener.handle_timer(10.0)
        self.assertEqual(pair.listener.next_timer(), 31.0)
        self.assertRaises(ReadStalled, pair.listener.handle_timer, 31.0)

    def test_reading_resumed(self) -> None:
        pair = CorePair(limits=ConnectionLimits(yamux=YamuxLimits(receive_budget=200_000)))
        stream = open_stream(pair)
        pair.pump()
        peer = pair.listener_events.opened[0]
        peer.pause_reading()
        stream.write(bytes(100_001))
        pair.pump()
        pair.listener.reading_paused(1.0)
        peer.resume_reading()
        self.assertEqual(pair.listener_events.read_agains, 1)
        pair.listener.reading_resumed(29.0)
        pair.listener.handle_timer(31.0)
        self.assertEqual(pair.listener.next_timer(), 59.0)


class Ending(PureTestCase):
    def test_go_away_is_the_last_word(self) -> None:
        pair = CorePair()
        stream = open_stream(pair)
        pair.pump()
        pair.dialer.close()
        pair.dialer.close()
        self.assertIsInstance(stream.receiver.closed[0], SessionEnded)
        self.assertEqual(len(stream.receiver.closed), 1)
        (plaintext,) = pair.listener.result.session.open(drain(pair.dialer))
        self.assertEqual(frames(plaintext), [(GO_AWAY, 0, 0, 0, b"")])
        self.assertRaises(SessionEnded, pair.dialer.open_stream, ECHO, 0.0)

    def test_closing_with_an_error(self) -> None:
        pair = CorePair()
        stream = open_stream(pair)
        pair.pump()
        cause = NoiseError("bad")
        pair.dialer.close(cause)
        self.assertIs(stream.receiver.closed[0].__cause__, cause)
        (plaintext,) = pair.listener.result.session.open(drain(pair.dialer))
        self.assertEqual(frames(plaintext), [(GO_AWAY, 0, 0, 1, b"")])

    def test_the_peer_goes_away_then_closes(self) -> None:
        pair = CorePair()
        stream = open_stream(pair)
        pair.pump()
        pair.listener.close()
        pair.pump()
        self.assertEqual(pair.dialer_events.gone, [0])
        self.assertRaises(SessionEnded, pair.dialer.open_stream, ECHO, 0.0)
        self.assertIsNone(pair.dialer.receive_eof())
        self.assertIsInstance(stream.receiver.closed[0], SessionEnded)

    def test_truncated_with_an_open_stream(self) -> None:
        pair = CorePair()
        stream = open_stream(pair)
        stream.write(b"x")
        pair.pump()
        self.assertIsInstance(pair.dialer.receive_eof(), Truncated)
        self.assertIsInstance(stream.receiver.closed[0], Truncated)

    def test_an_idle_connection_may_end(self) -> None:
        pair = CorePair()
        stream = open_stream(pair)
        stream.write_eof()
        pair.pump()
        self.assertEqual(stream.receiver.closed, [None])
        self.assertIsNone(pair.dialer.receive_eof())

    def test_truncated_in_a_frame(self) -> None:
        for cut in (1, 2, 20):
            pair = CorePair()
            pair.dialer.receive_data(pair.listener.result.session.seal([frame(PING, SYN, 0, 0)])[:cut], 0.0)
            self.assertIsInstance(pair.dialer.receive_eof(), Truncated)
        pair = CorePair()
        pair.dialer.receive_data(pair.listener.result.session.seal([frame(PING, SYN, 0, 0)[:7]]), 0.0)
        self.assertIsInstance(pair.dialer.receive_eof(), Truncated)

    def test_truncated_in_the_handshake(self) -> None:
        self.assertIsInstance(core(True)[0].receive_eof(), Truncated)

    def test_a_frame_that_does_not_authenticate(self) -> None:
        pair = CorePair()
        stream = open_stream(pair)
        sealed = bytearray(drain(pair.dialer))
        sealed[-1] ^= 1
        self.assertRaises(NoiseError, pair.listener.receive_data, bytes(sealed), 0.0)
        self.assertEqual(pair.listener_events.opened, [])
        self.assertFalse(stream.ended)

    def test_the_muxer_is_told_of_a_violation(self) -> None:
        pair = CorePair()
        with self.assertRaises(YamuxError) as caught:
            pair.listener.receive_data(forged(pair, frame(9, 0, 1, 0)), 0.0)
        pair.listener.close(caught.exception)
        pair.pump()
        self.assertEqual(pair.dialer_events.gone, [1])

    def test_nothing_is_processed_after_the_end(self) -> None:
        pair = CorePair()
        pair.listener.close()
        pair.listener.receive_data(forged(pair, frame(9, 0, 1, 0)), 0.0)
        pair.listener.handle_timer(1000.0)
        self.assertEqual(pair.listener.next_timer(), float("inf"))


class RecordedSession(PureTestCase):
    """spec/security.md 3.1: one good session, both roles; cut, split, repeated, flipped."""

    def record(self) -> dict[str, list[bytes]]:
        """The flights of a handshake, an echo of 40 bytes, a refusal, a ping, a close; the same bytes each time."""
        pair = CorePair(deterministic=True)
        self.act(pair)
        flights: dict[str, list[bytes]] = {"dialer": [], "listener": []}
        for sender, data in pair.flights:
            flights[sender].append(data)
        return flights

    def act(self, pair: CorePair) -> Recorder:
        stream = open_stream(pair)
        stream.write(bytes(range(40)))
        pair.pump()
        stream.write_eof()
        open_stream(pair, "/refused")
        pair.dialer.measure_rtt(lambda _: None, 0.0)
        pair.pump()
        return stream.receiver

    def replay(self, role: str, data: bytes, cut: int) -> tuple[ChorusError | None, CoreRecorder, object]:
        """One side alone, fed what the other had sent; for the dialer, its part is acted as it becomes possible."""
        side, events = core(role == "dialer", deterministic=True)
        error: ChorusError | None = None
        try:
            for start in range(0, len(data), cut):
                side.receive_data(data[start : start + cut], 0.0)
                drain(side)
        except ChorusError as caught:
            error = caught
            side.close(caught)
        drain(side)
        return error, events, side

    def check_gone(self, side, events: CoreRecorder) -> None:
        session = side.yamux
        if session is not None:
            self.assertEqual((session.streams, session.held, session.queued, session.output._waiting), ({}, 0, 0, {}))
            self.assertEqual((len(side._negotiating), len(side._lingering)), (0, 0))
        for receiver in events.receivers:
            self.assertEqual(len(receiver.closed), 1)
        self.assertEqual(events.failures, [])

    def test_the_recording_repeats(self) -> None:
        self.assertEqual(self.record(), self.record())

    def test_any_delivery(self) -> None:
        data = b"".join(self.record()["dialer"])
        for cut in (len(data), 1, 2, 3, 5, 17, 64, 129):
            error, events, _ = self.replay("listener", data, cut)
            self.assertIsNone(error)
            (receiver,) = events.receivers
            self.assertEqual((receiver.data, receiver.eofs, receiver.closed), (bytes(range(40)), 1, [None]))

    def test_cut_at_each_byte(self) -> None:
        flights = self.record()
        sent = b"".join(flights["dialer"])
        for end in range(len(sent)):
            error, events, side = self.replay("listener", sent[:end], 64)
            self.assertIsNone(error)
            outcome = side.receive_eof()
            if side.yamux is None or side.result.session.partial:
                self.assertIsInstance(outcome, Truncated)
            self.check_gone(side, events)

    def test_dialer_cut_at_each_byte(self) -> None:
        """The dialer's side with its own streams open: each hears exactly one end."""
        flights = self.record()["listener"]
        total = sum(map(len, flights))
        for end in range(total):
            pair = CorePair(deterministic=True, secure=False)
            drain(pair.dialer)
            left, receivers = end, []
            outcomes: list[object] = []
            for flight in flights:
                pair.dialer.receive_data(flight[:left], 0.0)
                left -= len(flight[:left])
                if pair.dialer.yamux is not None and not receivers:
                    stream = open_stream(pair)
                    stream.write(bytes(range(40)))
                    receivers.append(stream.receiver)
                    pair.dialer.propose_stream(["/x", ECHO], outcomes.append, 0.0)
                    pair.dialer.measure_rtt(outcomes.append, 0.0)
                drain(pair.dialer)
            pair.dialer.receive_eof()
            if receivers:
                self.assertEqual(len(outcomes), 2)
            self.check_gone(pair.dialer, pair.dialer_events)

    def test_flipped_bits(self) -> None:
        """Each bit of the first 256 bytes: an error at once or a truncation in the end, never anything else."""
        flights = self.record()
        for role, sender in (("listener", "dialer"), ("dialer", "listener")):
            data = b"".join(flights[sender])
            for position in range(256 * 8):
                flipped = bytearray(data)
                flipped[position // 8] ^= 1 << position % 8
                error, events, side = self.replay(role, bytes(flipped), 300)
                if error is not None:
                    self.assertIsInstance(error, PeerError)
                else:
                    self.assertIsInstance(side.receive_eof(), Truncated, position)
                self.check_gone(side, events)

    def test_frames_dropped_repeated_and_swapped(self) -> None:
        """Of the sealed frames after the handshake: the nonce gives each of these away."""
        flights = self.record()["dialer"]
        handshake, sealed = b"".join(flights[:2]), flights[2:]
        self.assertGreaterEqual(len(sealed), 2)
        orders = [sealed[1:], [sealed[0], sealed[0], *sealed[1:]], [sealed[1], sealed[0], *sealed[2:]]]
        for order in orders:
            error, events, side = self.replay("listener", handshake + b"".join(order), 10_000)
            self.assertIsInstance(error, NoiseError)
            self.check_gone(side, events)

    def test_plaintext_frames_mutated(self) -> None:
        """The same below the cipher, where a member could do it: yamux frames dropped, repeated, swapped, flipped."""
        offer = multistream.lazy_offer(ECHO)
        good = [
            frame(WINDOW_UPDATE, SYN, 1, 0),
            frame(DATA, 0, 1, len(offer), offer),
            frame(DATA, 0, 1, 5, b"hello"),
            frame(WINDOW_UPDATE, FIN, 1, 0),
            frame(PING, SYN, 0, 1),
        ]
        mutants = [good[:i] + good[i + 1 :] for i in range(5)]
        mutants += [good[: i + 1] + good[i:] for i in range(5)]
        mutants += [[*good[:i], good[i + 1], good[i], *good[i + 2 :]] for i in range(4)]
        for number, one in enumerate(good):
            for bit in range(len(one) * 8):
                flipped = bytearray(one)
                flipped[bit // 8] ^= 1 << bit % 8
                mutants.append([*good[:number], bytes(flipped), *good[number + 1 :]])
        for mutant in mutants:
            pair = CorePair(deterministic=True)
            try:
                pair.listener.receive_data(forged(pair, *mutant), 0.0)
            except PeerError as error:
                pair.listener.close(error)
            pair.listener.receive_eof()
            self.check_gone(pair.listener, pair.listener_events)


class Bystander(PureTestCase):
    def test_cve_2026_73568_others_go_on(self) -> None:
        """A length bomb on one connection ends it at once; another is untouched."""
        attacked, other = CorePair(), CorePair()
        stream = open_stream(other)
        bomb = forged(attacked, frame(DATA, SYN, 1, 2**32 - 1))
        self.assertRaises(YamuxError, attacked.listener.receive_data, bomb, 0.0)
        stream.write(b"ping")
        other.pump()
        self.assertEqual(stream.receiver.data, b"ping")

    def test_echo_server_of_a_peer_that_never_reads(self) -> None:
        """The queue of an echo whose peer never reads is bounded by the peer's window and back-pressure."""

        class PoliteEcho(Echo):
            def pause_writing(self) -> None:
                super().pause_writing()
                self.stream.pause_reading()

            def resume_writing(self) -> None:
                super().resume_writing()
                self.stream.resume_reading()

        pair = CorePair(secure=False)
        pair.listener_events.serve = PoliteEcho
        pair.pump()
        stream = open_stream(pair)
        stream.pause_reading()
        for _ in range(40):
            stream.write(bytes(65536))
            pair.pump()
        listener = pair.listener.yamux
        self.assertLessEqual(listener.queued + listener.held, 4 * 1024 * 1024)
        stream.resume_reading()
        pair.pump()
        self.assertEqual(len(stream.receiver.data), 40 * 65536)
        self.assertEqual((listener.queued, listener.held), (0, 0))
