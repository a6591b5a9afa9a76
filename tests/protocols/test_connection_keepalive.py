"""Signs of life and round trips of a connection."""

from __future__ import annotations

from chorus.protocols.connection_limits import KeepaliveTimeout
from chorus.protocols.yamux_frames import PING, SYN, SessionEnded, StreamLimitReached
from tests.protocols.connection_support import CorePair, drain
from tests.protocols.yamux_support import frame
from tests.support import PureTestCase


class Keepalive(PureTestCase):
    def test_keepalive(self) -> None:
        pair = CorePair()
        pair.dialer.handle_timer(10.0)
        self.assertEqual(pair.dialer.next_timer(), 30.0)
        pair.dialer.handle_timer(30.0)
        self.assertEqual(pair.dialer.next_timer(), 40.0)
        pair.now = 31.0
        pair.pump()
        pair.dialer.handle_timer(40.0)
        self.assertEqual(pair.dialer.next_timer(), 61.0)
        pair.dialer.handle_timer(61.0)
        pair.dialer.handle_timer(70.9)
        self.assertRaises(KeepaliveTimeout, pair.dialer.handle_timer, 71.0)

    def test_any_byte_keeps_alive(self) -> None:
        pair = CorePair()
        pair.dialer.handle_timer(10.0)
        for now in (25.0, 50.0, 75.0):
            pair.dialer.receive_data(pair.listener.result.session.seal([frame(PING, SYN, 0, 0)]), now)
            pair.dialer.handle_timer(now + 29)
            self.assertEqual(pair.dialer.next_timer(), now + 30)
        drain(pair.dialer)

    def test_measured_round_trip(self) -> None:
        pair = CorePair()
        answers: list[object] = []
        pair.dialer.measure_rtt(answers.append, 1.0)
        pair.now = 1.25
        pair.pump()
        self.assertEqual(answers, [0.25])
        for _ in range(16):
            pair.dialer.measure_rtt(answers.append, 2.0)
        self.assertRaises(StreamLimitReached, pair.dialer.measure_rtt, answers.append, 2.0)
        pair.dialer.close()
        self.assertEqual(len(answers), 17)
        self.assertIsInstance(answers[-1], SessionEnded)
        self.assertRaises(SessionEnded, pair.dialer.measure_rtt, answers.append, 2.0)
