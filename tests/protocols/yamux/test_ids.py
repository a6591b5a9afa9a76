"""Stream ids of a yamux session: parity, order, gaps, the last one."""

from __future__ import annotations

from chorus.protocols.yamux.frames import RST, SYN, WINDOW_UPDATE, StreamLimitReached, YamuxError
from tests.protocols.yamux_support import Pair, frame, session
from tests.support import PureTestCase


class Ids(PureTestCase):
    def test_parity_belongs_to_the_dialer(self) -> None:
        pair = Pair()
        self.assertEqual([pair.dialer.open_stream().stream_id for _ in range(3)], [1, 3, 5])
        self.assertEqual([pair.listener.open_stream().stream_id for _ in range(3)], [2, 4, 6])

    def test_an_id_is_used_once(self) -> None:
        listener, _events = session(False)
        listener.receive_data([frame(WINDOW_UPDATE, SYN, 1, 0), frame(WINDOW_UPDATE, RST, 1, 0)], 0.0)
        self.assertEqual(listener.streams, {})
        self.assertRaises(YamuxError, listener.receive_data, [frame(WINDOW_UPDATE, SYN, 1, 0)], 0.0)

    def test_concurrent_opens_may_overtake_each_other(self) -> None:
        """go-yamux takes an id and sends its SYN in two steps."""
        listener, events = session(False)
        listener.receive_data([frame(WINDOW_UPDATE, SYN, stream_id, 0) for stream_id in (5, 1, 3, 7)], 0.0)
        self.assertEqual([stream.stream_id for stream in events.arrived], [5, 1, 3, 7])
        self.assertRaises(YamuxError, listener.receive_data, [frame(WINDOW_UPDATE, SYN | RST, 3, 0)] * 2, 0.0)

    def test_a_huge_jump_costs_nothing(self) -> None:
        listener, _events = session(False)
        listener.receive_data([frame(WINDOW_UPDATE, SYN, 2**32 - 1, 0)], 0.0)
        self.assertEqual(len(listener._ids._gaps), 256)
        self.assertRaises(YamuxError, listener.receive_data, [frame(WINDOW_UPDATE, SYN, 1, 0)], 0.0)

    def test_ids_end(self) -> None:
        dialer, _ = session(True)
        dialer._ids._next = 2**32 - 1
        dialer.open_stream()
        self.assertRaises(StreamLimitReached, dialer.open_stream)
