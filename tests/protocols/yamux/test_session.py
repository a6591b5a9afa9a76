"""The yamux session: published frames, flow control, half-closes, accounts."""

from __future__ import annotations

from collections.abc import Callable

from chorus.errors import ChorusError, LimitExceeded
from chorus.protocols.stream import StreamClosed, StreamReset
from chorus.protocols.yamux.frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    INITIAL_WINDOW,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    SessionEnded,
    StreamLimitReached,
    YamuxError,
    YamuxLimits,
    YamuxStreamError,
)
from chorus.protocols.yamux.stream import YamuxStream
from tests.protocols.yamux_support import Pair, Recorder, drain, frame, frames, session
from tests.support import PureTestCase, vectors

VECTORS = vectors("yamux-frames.json")


def published(kind: str, name: str) -> bytes:
    return bytes.fromhex(next(row["hex"] for row in VECTORS[kind] if row["name"].startswith(name)))


class Acts(Recorder):
    """Does something when its stream has ended."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.act = act

    def stream_closed(self, error: ChorusError | None) -> None:
        super().stream_closed(error)
        self.act()


class ValidFrames(PureTestCase):
    """Every row of `valid`, in its place of a conversation: made by us where we send it, taken where we receive it."""

    def test_open_and_accept(self) -> None:
        dialer, _ = session(True)
        stream = dialer.open_stream()
        dialer.output.announce(stream)
        opening = drain(dialer)
        self.assertEqual(opening, published("valid", "open stream 1"))
        listener, events = session(False)
        listener.receive_data([opening], 0.0)
        self.assertEqual([arrived.stream_id for arrived in events.arrived], [1])
        answer = drain(listener)
        self.assertEqual(answer, published("valid", "accept stream 1"))
        self.assertTrue(stream.unacknowledged)
        dialer.receive_data([answer], 0.0)
        self.assertFalse(stream.unacknowledged)

    def test_data_with_syn(self) -> None:
        dialer, _ = session(True)
        dialer.open_stream().write(b"hello")
        sent = drain(dialer)
        self.assertEqual(sent, published("valid", "data on stream 1, SYN"))
        listener, events = session(False)
        listener.receive_data([sent], 0.0)
        self.assertEqual(events.arrived[0].receiver.data, b"hello")

    def test_half_closes(self) -> None:
        for name in ("half close of stream 1: window update FIN", "half close of stream 1: empty data FIN"):
            listener, events = session(False)
            listener.receive_data([published("valid", "open stream 1"), published("valid", name)], 0.0)
            (stream,) = events.arrived
            self.assertEqual((stream.receiver.eofs, stream.receiver.closed), (1, []))
            stream.write(b"still open")
            stream.write_eof()
            self.assertEqual(stream.receiver.closed, [None])
            self.assertEqual(listener.streams, {})

    def test_half_close_sent(self) -> None:
        dialer, _ = session(True)
        stream = dialer.open_stream()
        dialer.output.announce(stream)
        drain(dialer)
        stream.write_eof()
        self.assertEqual(drain(dialer), published("valid", "half close of stream 1: window update FIN"))

    def test_reset(self) -> None:
        pair = Pair()
        stream, peer = pair.open()
        peer.session.receive_data([published("valid", "reset stream 1")], 0.0)
        (error,) = peer.receiver.closed
        self.assertIsInstance(error, StreamReset)
        self.assertTrue(error.remote)
        self.assertEqual(drain(peer.session), b"", "a reset is not answered")
        stream.reset()
        self.assertEqual(drain(stream.session), published("valid", "reset stream 1"))
        (error,) = stream.receiver.closed
        self.assertFalse(error.remote)

    def test_ping(self) -> None:
        dialer, _ = session(True)
        dialer.ping(7)
        request = drain(dialer)
        self.assertEqual(request, published("valid", "ping request value 7"))
        listener, events = session(False)
        listener.receive_data([request], 0.0)
        answer = drain(listener)
        self.assertEqual(answer, published("valid", "ping response value 7"))
        listener.receive_data([answer], 0.0)
        self.assertEqual(events.pongs, [7])

    def test_go_away(self) -> None:
        for code, name in enumerate(("go away normal", "go away protocol error", "go away internal error")):
            pair = Pair()
            stream, peer = pair.open()
            pair.dialer.go_away(code)
            pair.dialer.go_away(code)
            sent = drain(pair.dialer)
            self.assertEqual(sent, published("valid", name))
            pair.listener.receive_data([sent], 0.0)
            self.assertEqual(pair.listener_events.gone, [code])
            self.assertRaises(SessionEnded, pair.listener.open_stream)
            peer.write(b"streams that live go on")
            pair.pump()
            self.assertEqual(stream.receiver.data, b"streams that live go on")
            self.assertRaises(SessionEnded, pair.dialer.open_stream)

    def test_window_update(self) -> None:
        dialer, _ = session(True)
        dialer.open_stream()
        stream = dialer.open_stream()
        dialer.receive_data([published("valid", "window update +256 KiB on stream 3")], 0.0)
        self.assertEqual(stream.send_window, 2 * INITIAL_WINDOW)

    def test_every_row_is_used(self) -> None:
        with open(__file__) as source:
            text = source.read()
        for kind in ("valid", "invalid"):
            for row in VECTORS[kind]:
                used = any(row["name"].startswith(name) and f'"{name}' in text for name in _prefixes(row["name"]))
                self.assertTrue(used, row["name"])


def _prefixes(name: str) -> list[str]:
    return [name[:size] for size in range(6, len(name) + 1)]


class InvalidFrames(PureTestCase):
    """Every row of `invalid`, against a listener with stream 1 open unless the row opens it."""

    def open_listener(self):
        listener, events = session(False)
        listener.receive_data([published("valid", "open stream 1")], 0.0)
        drain(listener)
        return listener, events

    def refuse(self, listener, data: bytes) -> ChorusError:
        return self.assertRaises(YamuxError, listener.receive_data, [data], 0.0)

    def test_version(self) -> None:
        self.refuse(self.open_listener()[0], published("invalid", "version 1"))

    def test_type(self) -> None:
        self.refuse(self.open_listener()[0], published("invalid", "type 4"))

    def test_syn_with_id_0(self) -> None:
        self.refuse(self.open_listener()[0], published("invalid", "SYN with stream id 0"))

    def test_wrong_parity(self) -> None:
        dialer, events = session(True)
        self.refuse(dialer, published("invalid", "client receives SYN on odd id"))
        self.assertEqual(events.arrived, [])

    def test_duplicate_syn(self) -> None:
        listener, events = session(False)
        self.refuse(listener, published("invalid", "duplicate SYN on an open stream"))
        self.assertEqual(len(events.arrived), 1)

    def test_ping_with_stream_id(self) -> None:
        listener, _ = self.open_listener()
        self.refuse(listener, published("invalid", "ping with stream id 1"))

    def test_cve_2026_73568_length_bomb(self) -> None:
        """py-libp2p up to 0.7.0 waited for 4 GiB of body: here the header alone is an error, at once."""
        listener, events = self.open_listener()
        self.refuse(listener, published("invalid", "data length 0xffffffff on an open stream"))
        self.assertEqual(events.arrived[0].receiver.data, b"")
        listener, _ = session(False)
        self.refuse(listener, published("invalid", "data length 0xffffffff on an open stream"))

    def test_one_byte_over_the_window(self) -> None:
        row = published("invalid", "data header announcing one byte more than the window")
        self.refuse(self.open_listener()[0], row)
        listener, events = self.open_listener()
        self.refuse(listener, row + bytes(262145))
        self.assertEqual(events.arrived[0].receiver.data, b"")

    def test_cve_2026_31814_window_overflow(self) -> None:
        row = published("invalid", "window delta 0xffffffff twice")
        listener, events = self.open_listener()
        self.refuse(listener, row)
        self.assertEqual(events.arrived[0].send_window, INITIAL_WINDOW)

    def test_largest_window(self) -> None:
        listener, events = self.open_listener()
        listener.receive_data([frame(WINDOW_UPDATE, 0, 1, 2**32 - 1 - INITIAL_WINDOW)], 0.0)
        self.assertEqual(events.arrived[0].send_window, 2**32 - 1)
        self.refuse(listener, frame(WINDOW_UPDATE, 0, 1, 1))

    def test_all_flags_together(self) -> None:
        listener, events = session(False)
        listener.receive_data([published("invalid", "SYN+ACK+RST+FIN together")], 0.0)
        self.assertEqual((events.arrived, listener.streams), ([], {}))
        self.assertEqual(drain(listener), b"")

    def test_undefined_flags(self) -> None:
        listener, events = self.open_listener()
        listener.receive_data([published("invalid", "undefined flag bits 0xfff0")], 0.0)
        self.assertEqual(events.arrived[0].receiver.closed, [])

    def test_cve_2026_32314_syn_with_a_large_body(self) -> None:
        """rust-yamux before 0.13.10 registered the stream before it checked the body."""
        row = published("invalid", "Data|SYN announcing a body of 262145 bytes")
        for body in (b"", bytes(262145)):
            listener, events = session(False)
            error = self.refuse(listener, row + body)
            self.assertEqual((listener.streams, events.arrived), ({}, []))
            listener.close(error, 1)

    def test_py_1312_window_update_has_no_body(self) -> None:
        listener, events = session(False)
        listener.receive_data([published("invalid", "WindowUpdate|SYN with delta 10")], 0.0)
        self.assertEqual(events.arrived[0].send_window, INITIAL_WINDOW + 10)
        self.assertIn((PING, ACK, 0, 7, b""), frames(drain(listener)))

    def test_truncated_header(self) -> None:
        listener, _ = session(False)
        self.assertFalse(listener.incomplete)
        listener.receive_data([published("invalid", "truncated header, then end of stream")], 0.0)
        self.assertTrue(listener.incomplete)

    def test_truncated_body(self) -> None:
        listener, _ = self.open_listener()
        listener.receive_data([frame(DATA, 0, 1, 10, b"12345")], 0.0)
        self.assertTrue(listener.incomplete)
        listener.receive_data([b"67890"], 0.0)
        self.assertFalse(listener.incomplete)

    def test_session_frames_with_stream_id_and_stream_frames_without(self) -> None:
        for bad in (frame(GO_AWAY, 0, 1, 0), frame(DATA, 0, 0, 0), frame(WINDOW_UPDATE, 0, 0, 0)):
            self.refuse(self.open_listener()[0], bad)


class FlowControl(PureTestCase):
    def test_a_window_and_no_more(self) -> None:
        pair = Pair()
        stream, peer = pair.open()
        peer.pause_reading()
        stream.write(bytes(INITIAL_WINDOW - 10))
        stream.write(bytes(1000))
        stream.write_eof()
        self.assertEqual(pair.pump(), INITIAL_WINDOW + 2 * 12)
        self.assertEqual(stream.queued, 990)
        self.assertEqual(pair.listener.held, INITIAL_WINDOW)
        self.assertEqual(peer.receiver.eofs, 0)
        peer.resume_reading()
        self.assertEqual(pair.listener.held, 0)
        pair.pump()
        self.assertEqual(len(peer.receiver.data), INITIAL_WINDOW + 990)
        self.assertEqual((stream.queued, pair.dialer.queued, peer.receiver.eofs), (0, 0, 1))

    def test_credit_comes_at_half_a_window_with_the_growth(self) -> None:
        pair = Pair()
        stream, peer = pair.open()
        stream.write(bytes(INITIAL_WINDOW // 2 - 1))
        pair.pump()
        self.assertEqual(stream.send_window, INITIAL_WINDOW // 2 + 1)
        stream.write(b"x")
        pair.listener.receive_data([drain(pair.dialer)], 0.0)
        limits = pair.listener.limits
        growth = limits.max_receive_window - INITIAL_WINDOW
        self.assertEqual(frames(drain(pair.listener)), [(WINDOW_UPDATE, 0, 1, INITIAL_WINDOW // 2 + growth, b"")])
        self.assertEqual(peer.receive_window, limits.max_receive_window)

    def test_no_credit_while_paused(self) -> None:
        pair = Pair()
        stream, peer = pair.open()

        class PausesItself(Recorder):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                peer.pause_reading()

        peer.set_receiver(PausesItself())
        stream.write(bytes(INITIAL_WINDOW))
        pair.pump()
        self.assertEqual((stream.send_window, len(peer.receiver.data)), (0, INITIAL_WINDOW))
        peer.resume_reading()
        pair.pump()
        self.assertGreaterEqual(stream.send_window, INITIAL_WINDOW)

    def test_writers_hear_of_a_full_queue_and_of_its_end(self) -> None:
        pair = Pair()
        stream, peer = pair.open()
        high = pair.dialer.limits.write_high_water
        peer.pause_reading()
        stream.write(bytes(INITIAL_WINDOW))
        stream.write(bytes(high))
        self.assertEqual(stream.receiver.writing, [])
        stream.write(b"x")
        stream.write(b"x")
        self.assertEqual(stream.receiver.writing, ["pause"])
        pair.pump()
        self.assertEqual(stream.receiver.writing, ["pause"])
        peer.resume_reading()
        pair.pump()
        self.assertEqual(stream.receiver.writing, ["pause", "resume"])
        self.assertEqual(len(peer.receiver.data), INITIAL_WINDOW + high + 2)


class Closing(PureTestCase):
    def test_both_directions(self) -> None:
        pair = Pair()
        stream, peer = pair.open()
        stream.write(b"question")
        stream.write_eof()
        stream.write_eof()
        pair.pump()
        self.assertEqual((peer.receiver.data, peer.receiver.eofs, peer.receiver.closed), (b"question", 1, []))
        peer.write(b"answer")
        peer.write_eof()
        pair.pump()
        self.assertEqual((stream.receiver.data, stream.receiver.eofs), (b"answer", 1))
        self.assertEqual((stream.receiver.closed, peer.receiver.closed), ([None], [None]))
        self.assertEqual((pair.dialer.streams, pair.listener.streams), ({}, {}))
        self.assertRaises(StreamClosed, stream.write, b"more")

    def test_eof_waits_for_the_queue(self) -> None:
        pair = Pair()
        stream, peer = pair.open()
        peer.pause_reading()
        stream.write(bytes(INITIAL_WINDOW + 1))
        stream.write_eof()
        self.assertRaises(StreamClosed, stream.write, b"x")
        pair.pump()
        self.assertFalse(peer.fin_received)
        peer.resume_reading()
        pair.pump()
        self.assertEqual((len(peer.receiver.data), peer.receiver.eofs), (INITIAL_WINDOW + 1, 1))

    def test_close_drops_what_comes(self) -> None:
        pair = Pair()
        stream, peer = pair.open()
        stream.write(b"last words")
        stream.close()
        stream.close()
        self.assertEqual(stream.receiver.closed, [None])
        self.assertEqual(pair.dialer.streams, {})
        peer.write(b"too late")
        pair.pump()
        self.assertEqual((stream.receiver.data, peer.receiver.data), (b"", b"last words"))
        self.assertEqual(peer.receiver.eofs, 1)
        peer.close()
        pair.pump()
        self.assertEqual((peer.receiver.closed, pair.listener.streams), ([None], {}))

    def test_close_with_a_queue(self) -> None:
        pair = Pair()
        stream, peer = pair.open()
        peer.pause_reading()
        stream.write(bytes(INITIAL_WINDOW + 5))
        stream.close()
        pair.pump()
        self.assertEqual(stream.receiver.closed, [])
        peer.resume_reading()
        pair.pump()
        self.assertEqual(stream.receiver.closed, [None])
        self.assertEqual((len(peer.receiver.data), peer.receiver.eofs), (INITIAL_WINDOW + 5, 1))
        self.assertEqual(pair.dialer.streams, {})

    def test_what_came_before_the_receiver(self) -> None:
        pair = Pair(receive=False)
        stream, peer = pair.open()
        stream.write(b"early")
        stream.write_eof()
        peer.write_eof()
        pair.pump()
        self.assertEqual(pair.listener.streams, {})
        receiver = Recorder()
        peer.set_receiver(receiver)
        self.assertEqual((receiver.data, receiver.eofs, receiver.closed), (b"early", 1, [None]))
        self.assertEqual(pair.listener.held, 0)

    def test_a_reset_before_the_receiver(self) -> None:
        pair = Pair(receive=False)
        stream, peer = pair.open()
        stream.write(b"early")
        stream.write_eof()
        stream.reset()
        pair.pump()
        receiver = Recorder()
        peer.set_receiver(receiver)
        self.assertEqual((receiver.data, receiver.eofs, len(receiver.closed)), (b"", 0, 1))
        self.assertIsInstance(receiver.closed[0], StreamReset)

    def test_ended_but_unread(self) -> None:
        """Both FINs are exchanged while the reader pauses: it still gets everything, in order, once."""
        pair = Pair()
        stream, peer = pair.open()
        peer.pause_reading()
        stream.write(b"one")
        stream.write_eof()
        pair.pump()
        peer.write_eof()
        pair.pump()
        receiver = peer.receiver
        self.assertEqual((pair.listener.streams, receiver.closed, pair.listener.held), ({}, [], 3))
        peer.resume_reading()
        self.assertEqual((receiver.data, receiver.eofs, receiver.closed), (b"one", 1, [None]))
        self.assertEqual(pair.listener.held, 0)

    def test_a_reader_that_pauses_inside_a_piece_gets_the_rest_before_the_end(self) -> None:
        """Several pieces wait, and the peer's FIN behind them; each look at one of them is the last for a while."""

        class OneAtATime(Recorder):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                peer.pause_reading()

        pair = Pair(receive=False)
        stream, peer = pair.open()
        for piece in (b"one", b"two", b"six"):
            stream.write(piece)
            pair.pump()
        stream.write_eof()
        pair.pump()
        reader = OneAtATime()
        peer.set_receiver(reader)
        seen = [bytes(reader.data)]
        while not reader.eofs:
            peer.resume_reading()
            seen.append(bytes(reader.data))
        self.assertEqual(seen, [b"one", b"onetwo", b"onetwosix", b"onetwosix"])
        peer.write_eof()
        self.assertEqual((reader.eofs, pair.listener.held), (1, 0))

    def test_a_paused_reader_hears_of_the_end_when_it_reads_on(self) -> None:
        pair = Pair()
        stream, peer = pair.open()
        peer.pause_reading()
        stream.write_eof()
        pair.pump()
        self.assertEqual(peer.receiver.eofs, 0)
        peer.resume_reading()
        self.assertEqual(peer.receiver.eofs, 1)
        peer.resume_reading()
        self.assertEqual(peer.receiver.eofs, 1)

    def test_an_end_that_came_before_the_receiver_is_kept(self) -> None:
        """With bytes before it and without, and while our own direction is still open."""
        for early in (b"", b"early"):
            pair = Pair(receive=False)
            stream, peer = pair.open()
            if early:
                stream.write(early)
            stream.write_eof()
            pair.pump()
            receiver = Recorder()
            peer.set_receiver(receiver)
            self.assertEqual((receiver.data, receiver.eofs, receiver.closed), (early, 1, []))
            peer.write(b"answer")
            peer.write_eof()
            pair.pump()
            self.assertEqual((receiver.eofs, receiver.closed), (1, [None]))

    def test_ended_unread_and_reset(self) -> None:
        pair = Pair()
        stream, peer = pair.open()
        peer.pause_reading()
        stream.write(b"one")
        stream.write_eof()
        pair.pump()
        peer.write_eof()
        peer.reset()
        self.assertEqual(len(peer.receiver.closed), 1)
        self.assertEqual((pair.listener.held, peer.receiver.data), (0, b""))

    def test_data_after_fin(self) -> None:
        pair = Pair()
        _, peer = pair.open()
        _, bystander = pair.open()
        pair.listener.receive_data([frame(DATA, FIN, 1, 2, b"ok"), frame(DATA, 0, 1, 3, b"bad")], 0.0)
        self.assertIsInstance(peer.receiver.closed[0], YamuxStreamError)
        self.assertIn((WINDOW_UPDATE, RST, 1, 0, b""), frames(drain(pair.listener)))
        pair.listener.receive_data([frame(DATA, 0, 3, 2, b"ok")], 0.0)
        self.assertEqual((peer.receiver.data, bystander.receiver.data), (b"ok", b"ok"))

    def test_late_frames_are_drained(self) -> None:
        pair = Pair()
        stream, peer = pair.open()
        other, other_peer = pair.open()
        stream.write(bytes(100_000))
        stream.write_eof()
        peer.reset()
        other.write(b"next")
        pair.pump()
        self.assertEqual((peer.receiver.data, other_peer.receiver.data), (b"", b"next"))
        self.assertEqual(list(pair.dialer.streams), [3])

    def test_a_reset_in_the_middle_of_a_body(self) -> None:
        pair = Pair()
        _, peer = pair.open()
        _, bystander = pair.open()
        pair.listener.receive_data([frame(DATA, FIN, 1, 10, b"12345")], 0.0)
        peer.reset()
        pair.listener.receive_data([b"67890" + frame(DATA, 0, 3, 2, b"ok")], 0.0)
        self.assertEqual((peer.receiver.data, peer.receiver.eofs), (b"12345", 0))
        self.assertEqual(bystander.receiver.data, b"ok")

    def test_an_error_code_in_a_reset_is_no_window(self) -> None:
        pair = Pair()
        stream, _ = pair.open()
        pair.dialer.receive_data([frame(WINDOW_UPDATE, RST, 1, 2**32 - 1)], 0.0)
        self.assertEqual(len(stream.receiver.closed), 1)

    def test_a_failing_receiver_resets_its_stream_alone(self) -> None:
        class Bad(Recorder):
            def data_received(self, data: bytes) -> None:
                raise RuntimeError("a bug")

        pair = Pair()
        stream, peer = pair.open()
        _, bystander = pair.open()
        peer.set_receiver(Bad())
        pair.listener.receive_data([frame(DATA, 0, 1, 1, b"x") + frame(DATA, 0, 3, 1, b"y")], 0.0)
        self.assertEqual([str(error) for error in pair.listener_events.failures], ["a bug"])
        self.assertEqual(len(peer.receiver.closed), 1)
        self.assertEqual(bystander.receiver.data, b"y")
        pair.pump()
        self.assertIsInstance(stream.receiver.closed[0], StreamReset)

    def test_receivers_failing_elsewhere(self) -> None:
        for method in ("eof_received", "stream_closed", "pause_writing", "resume_writing"):
            pair = Pair()
            stream, peer = pair.open()

            def fail(*_: object) -> None:
                raise RuntimeError("a bug")

            setattr(stream.receiver, method, fail)
            stream.write(bytes(3 * INITIAL_WINDOW))
            peer.write_eof()
            pair.pump()
            if not stream.ended:
                stream.write_eof()
                pair.pump()
            self.assertEqual(len(pair.dialer_events.failures), 1, method)
            self.assertTrue(stream.ended)
            self.assertEqual((pair.dialer.streams, pair.dialer.queued), ({}, 0))

    def test_the_session_ends(self) -> None:
        pair = Pair()
        streams = [pair.open()[0] for _ in range(3)]
        streams[0].write(bytes(2 * INITIAL_WINDOW))
        error = SessionEnded("gone")
        pair.dialer.close(error, 0)
        pair.dialer.close(SessionEnded("again"), 0)
        for stream in streams:
            self.assertEqual(stream.receiver.closed, [error])
            self.assertRaises(StreamClosed, stream.write, b"x")
        self.assertEqual((pair.dialer.streams, pair.dialer.queued), ({}, 0))
        self.assertEqual(frames(drain(pair.dialer))[-1], (GO_AWAY, 0, 0, 0, b""))
        pair.dialer.receive_data([b"anything"], 0.0)

    def test_nothing_follows_the_last_go_away(self) -> None:
        """Whatever a receiver does with another stream, live or closed by the peer, when its own has ended."""
        error = SessionEnded("gone")

        def write_much(stream: YamuxStream) -> None:
            stream.write(bytes(3 * INITIAL_WINDOW))

        def write_and_end(stream: YamuxStream) -> None:
            stream.write(b"more")
            stream.write_eof()

        def write_and_close(stream: YamuxStream) -> None:
            stream.write(b"more")
            stream.close()

        for act in (write_much, write_and_end, write_and_close, YamuxStream.close, YamuxStream.reset):
            for half_closed in (False, True):
                pair = Pair()
                first = pair.open()[0]
                others = [pair.open() for _ in range(2)]
                for _, far in others:
                    if half_closed:
                        far.write_eof()
                pair.pump()
                for near, _ in others:
                    near.write(b"written last")
                resume = pair.dialer.output.resume
                receiver = Acts(lambda act=act, others=others, resume=resume: [(resume(), act(n)) for n, _ in others])
                first.set_receiver(receiver)
                pair.dialer.close(error, 0)
                sent = frames(drain(pair.dialer))
                self.assertEqual([each[0] for each in sent].count(GO_AWAY), 1)
                self.assertEqual(sent[-1], (GO_AWAY, 0, 0, 0, b""), act)
                self.assertEqual([each[4] for each in sent[:-1]], [b"written last"] * 2)
                self.assertEqual(receiver.closed, [error])
                if act is not YamuxStream.reset:
                    for near, _ in others:
                        self.assertEqual(near.receiver.closed, [error], "it did not end well: nothing of it was sent")
                self.assertEqual((pair.dialer.queued, pair.dialer.streams), (0, {}))

    def test_closed_in_a_callback(self) -> None:
        class Ends(Recorder):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                pair.listener.close(SessionEnded("enough"))

        pair = Pair()
        _, peer = pair.open()
        receiver = Ends()
        peer.set_receiver(receiver)
        pair.listener.receive_data([frame(DATA, 0, 1, 1, b"x") * 2, b"\xff" * 12], 0.0)
        self.assertEqual((receiver.data, len(receiver.closed)), (b"x", 1))


class Limits(PureTestCase):
    """spec/security.md 1.4; every named limit."""

    def exceeded(self, name: str, listener, data: bytes, now: float = 0.0) -> None:
        error = self.assertRaises(LimitExceeded, listener.receive_data, [data], now)
        self.assertEqual(error.limit, name)

    def test_cve_2022_23486_max_streams_inbound(self) -> None:
        listener, events = session(False, YamuxLimits(max_streams=3))
        opens = b"".join(frame(WINDOW_UPDATE, SYN, stream_id, 0) for stream_id in (1, 3, 5, 7))
        listener.receive_data([opens], 0.0)
        self.assertEqual(len(events.arrived), 3)
        self.assertIn((WINDOW_UPDATE, RST, 7, 0, b""), frames(drain(listener)))
        listener.receive_data([frame(DATA, 0, 7, 4, b"late") + frame(DATA, 0, 1, 1, b"x")], 0.0)
        self.assertEqual(events.arrived[0].receiver.data, b"x")

    def test_max_streams_outbound(self) -> None:
        dialer, _ = session(True, YamuxLimits(max_streams=2))
        dialer.open_stream()
        dialer.open_stream()
        self.assertRaises(StreamLimitReached, dialer.open_stream)

    def test_max_unaccepted(self) -> None:
        listener, events = session(False, YamuxLimits(max_unaccepted=2))
        listener._events.stream_arrived = events.arrived.append
        listener.receive_data([b"".join(frame(WINDOW_UPDATE, SYN, i, 0) for i in (1, 3, 5))], 0.0)
        self.assertEqual(len(events.arrived), 2)
        self.assertEqual(frames(drain(listener))[0], (WINDOW_UPDATE, RST, 5, 0, b""))
        listener.accept(events.arrived[0])
        listener.accept(events.arrived[0])
        listener.receive_data([b"".join(frame(WINDOW_UPDATE, SYN, i, 0) for i in (7, 9))], 0.0)
        self.assertEqual(len(events.arrived), 3)
        for stream in events.arrived:
            stream.reset()
        self.assertEqual(listener._unaccepted, 0)

    def test_max_unacknowledged(self) -> None:
        dialer, _ = session(True, YamuxLimits(max_unacknowledged=2))
        first = dialer.open_stream()
        second = dialer.open_stream()
        self.assertRaises(StreamLimitReached, dialer.open_stream)
        dialer.receive_data([frame(WINDOW_UPDATE, ACK, 1, 0)], 0.0)
        third = dialer.open_stream()
        self.assertRaises(StreamLimitReached, dialer.open_stream)
        third.reset()
        dialer.receive_data([frame(DATA, 0, 3, 1, b"x")], 0.0)
        self.assertEqual((dialer._unacknowledged, first.ended, second.ended), (0, False, False))

    def test_cve_2023_44487_rapid_reset(self) -> None:
        listener, events = session(False)
        flood = b"".join(
            frame(WINDOW_UPDATE, SYN, 2 * i + 1, 0) + frame(WINDOW_UPDATE, RST, 2 * i + 1, 0) for i in range(10_000)
        )
        self.exceeded("yamux_resets", listener, flood)
        self.assertEqual(len(events.arrived), 201)
        listener, events = session(False)
        self.exceeded("yamux_resets", listener, b"".join(frame(DATA, SYN | RST, 2 * i + 1, 0) for i in range(201)))
        self.assertEqual(events.arrived, [])

    def test_slow_resets_are_legal(self) -> None:
        listener, _ = session(False)
        for i in range(1000):
            listener.receive_data([frame(WINDOW_UPDATE, SYN | RST, 2 * i + 1, 0)], i * 0.051)
        self.assertEqual((listener.streams, drain(listener)), ({}, b""))
        # The session goes on: the next stream is taken.
        listener.receive_data([frame(WINDOW_UPDATE, SYN, 2001, 0)], 51.0)
        self.assertEqual(list(listener.streams), [2001])

    def test_max_refusals(self) -> None:
        listener, events = session(False, YamuxLimits(max_streams=1, max_refusals=50, max_control=10**6))
        opens = b"".join(frame(WINDOW_UPDATE, SYN, 2 * i + 1, 0) for i in range(52))
        self.exceeded("yamux_refusals", listener, opens)
        self.assertEqual(len(events.arrived), 1)

    def test_max_pings(self) -> None:
        listener, _ = session(False)
        listener.receive_data([frame(PING, SYN, 0, 1) * 1000], 0.0)
        self.assertEqual(len(frames(drain(listener))), 1000)
        self.exceeded("yamux_pings", listener, frame(PING, SYN, 0, 1))
        listener, _ = session(False)
        listener.receive_data([frame(PING, SYN, 0, 1) * 1000], 0.0)
        listener.receive_data([frame(PING, SYN, 0, 1) * 1000], 10.0)

    def test_max_useless(self) -> None:
        for useless in (frame(DATA, 0, 1, 0), frame(WINDOW_UPDATE, 0, 1, 0), frame(PING, 0, 0, 0)):
            listener, _ = session(False)
            listener.receive_data([frame(WINDOW_UPDATE, SYN, 1, 0), useless * 1000], 0.0)
            self.exceeded("yamux_useless_frames", listener, useless)

    def test_one_go_away_is_enough(self) -> None:
        listener, events = session(False)
        listener.receive_data([frame(GO_AWAY, 0, 0, 0) * 1001], 0.0)
        self.exceeded("yamux_useless_frames", listener, frame(GO_AWAY, 0, 0, 0))
        self.assertEqual(len(events.gone), 1001)

    def test_opens_are_bounded_within_one_read(self) -> None:
        """Streams that are opened and closed at once: the limit of answers holds before the read is all processed."""
        listener, events = session(False)
        flood = b"".join(frame(WINDOW_UPDATE, SYN | FIN, 2 * i + 1, 0) for i in range(20_000))
        listener._events.stream_arrived = lambda stream: (events.arrived.append(stream), stream.close())
        self.exceeded("yamux_control_queue", listener, flood)
        self.assertLess(len(events.arrived), 6000)

    def test_empty_data_is_not_the_end(self) -> None:
        pair = Pair()
        _, peer = pair.open()
        pair.listener.receive_data([frame(DATA, 0, 1, 0), frame(DATA, 0, 1, 2, b"ok")], 0.0)
        self.assertEqual((peer.receiver.data, peer.receiver.eofs), (b"ok", 0))

    def test_cve_2024_32984_a_peer_that_never_reads(self) -> None:
        """Pings and opens whose answers nobody takes: the control queue is bounded."""
        listener, _ = session(False, YamuxLimits(max_pings=10**9))
        listener.output.pause()
        with self.assertRaises(LimitExceeded) as caught:
            for i in range(10_000):
                listener.receive_data([frame(PING, SYN, 0, i)], 0.0)
        self.assertEqual(caught.exception.limit, "yamux_control_queue")
        self.assertLessEqual(sum(map(len, listener.output._out)), 64 * 1024 + 12)

    def test_unknown_frame_of_a_gibibyte_is_not_buffered(self) -> None:
        """CVE-2026-57497 in a multiplexer's terms: refused when longer than any window, else skipped as it comes."""
        listener, _ = session(False)
        self.assertRaises(YamuxError, listener.receive_data, [frame(DATA, 0, 1, 2**30)], 0.0)
        listener, _ = session(False)
        listener.receive_data([frame(DATA, 0, 1, 2**19)], 0.0)
        for _ in range(8):
            listener.receive_data([bytes(65536)], 0.0)
            self.assertEqual((listener.held, listener._partial), (0, b""))
        listener.receive_data([frame(PING, SYN, 0, 5)], 0.0)
        self.assertEqual(frames(drain(listener)), [(PING, ACK, 0, 5, b"")])

    def test_cve_2026_21438_no_leak_after_100000_streams(self) -> None:
        pair = Pair()
        for _ in range(1000):
            streams = []
            for _ in range(100):
                stream = pair.dialer.open_stream()
                stream.set_receiver(Recorder())
                stream.write(b"x")
                stream.write_eof()
                streams.append(stream)
            pair.pump()
            for peer in pair.listener_events.arrived:
                peer.write_eof()
            pair.pump()
            pair.listener_events.arrived.clear()
            pair.listener_events.ended.clear()
            pair.dialer_events.ended.clear()
        self.assertTrue(all(stream.receiver.closed == [None] for stream in streams))
        for side in (pair.dialer, pair.listener):
            self.assertEqual(
                (side.streams, side.output._waiting, side._arrived, list(side._ids._gaps)), ({}, {}, [], [])
            )
            self.assertEqual((side._unaccepted, side._unacknowledged, side.budgets._growth), (0, 0, 0))
            self.assertEqual((side.queued, side.held), (0, 0))
