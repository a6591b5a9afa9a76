"""What a yamux session sends: bounded drains, turns, slow sockets, announcements."""

from __future__ import annotations

from chorus.protocols.yamux.frames import DATA, INITIAL_WINDOW, PING, SYN, WINDOW_UPDATE, YamuxLimits
from tests.protocols.yamux_support import Pair, Recorder, drain, frames
from tests.support import PureTestCase


class Output(PureTestCase):
    def test_a_drain_is_bounded_and_streams_take_turns(self) -> None:
        pair = Pair()
        streams = [pair.open()[0] for _ in range(3)]
        for stream in streams:
            stream.write(bytes(INITIAL_WINDOW))
        limit = pair.dialer.limits.max_output
        sizes = []
        while parts := pair.dialer.output.data_to_send():
            sizes.append(sum(len(part) for part in parts))
        self.assertTrue(all(size <= limit + 12 * 4 for size in sizes), sizes)
        self.assertEqual(sum(sizes), 3 * (INITIAL_WINDOW + 12))

    def test_a_frame_of_each_stream_in_turn(self) -> None:
        pair = Pair(YamuxLimits(max_frame_body=10, max_output=40))
        streams = [pair.open()[0] for _ in range(3)]
        pair.dialer.output.pause()
        for stream in streams:
            stream.write(bytes(25))
        streams[2].write_eof()
        pair.dialer.output.resume()
        drains = []
        while parts := pair.dialer.output.data_to_send():
            drains.append([(kind, stream_id, size) for kind, _, stream_id, size, _ in frames(b"".join(parts))])
        a, b, c = (stream.stream_id for stream in streams)
        turns = [(a, 10), (b, 10), (c, 10), (a, 10)], [(b, 10), (c, 10), (a, 5), (b, 5), (c, 5)]
        self.assertEqual(
            [[(number, size) for kind, number, size in drain if kind == DATA] for drain in drains], [*turns]
        )
        self.assertEqual(drains[-1][-1], (WINDOW_UPDATE, c, 0), "its FIN comes last")

    def test_a_slow_socket_keeps_data_in_the_streams(self) -> None:
        pair = Pair()
        stream, peer = pair.open()
        pair.dialer.output.pause()
        stream.write(b"later")
        pair.dialer.ping(1)
        self.assertEqual(frames(drain(pair.dialer)), [(PING, SYN, 0, 1, b"")])
        self.assertEqual((stream.queued, stream.send_window), (5, INITIAL_WINDOW))
        pair.dialer.output.resume()
        pair.pump()
        self.assertEqual((peer.receiver.data, stream.queued), (b"later", 0))

    def test_output_is_announced_once_a_drain(self) -> None:
        pair = Pair()
        stream, _ = pair.open()
        before = pair.dialer_events.waiting
        for _ in range(5):
            stream.write(b"x")
        pair.dialer.ping(1)
        self.assertEqual(pair.dialer_events.waiting, before + 1)
        drain(pair.dialer)
        stream.write(b"x")
        self.assertEqual(pair.dialer_events.waiting, before + 2)

    def test_writes_while_receiving_are_not_announced(self) -> None:
        """The owner drains after every `receive_data` anyway."""
        pair = Pair()
        stream, peer = pair.open()

        class Echo(Recorder):
            def data_received(self, data: bytes) -> None:
                peer.write(data)

        peer.set_receiver(Echo())
        before = pair.listener_events.waiting
        stream.write(b"ping")
        pair.pump()
        self.assertEqual((stream.receiver.data, pair.listener_events.waiting), (b"ping", before))
