"""Signs of life and round trips of a connection."""

from __future__ import annotations

from chorus.protocols.connection.limits import KeepaliveTimeout, PingLimitReached, PingTimeout
from chorus.protocols.yamux.frames import GO_AWAY, PING, SYN, SessionEnded
from tests.protocols.connection_support import CorePair, drain
from tests.protocols.yamux_support import frame, frames
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
        self.assertRaises(PingLimitReached, pair.dialer.measure_rtt, answers.append, 2.0)
        pair.dialer.close()
        self.assertEqual(len(answers), 17)
        self.assertIsInstance(answers[-1], SessionEnded)
        self.assertRaises(SessionEnded, pair.dialer.measure_rtt, answers.append, 2.0)

    def test_a_peer_that_answers_no_ping_and_says_other_things(self) -> None:
        """Each measurement fails in its time, and the next ones are made all the same."""
        pair = CorePair()
        answers: list[object] = []
        for second in range(100):
            now = float(second)
            pair.dialer.measure_rtt(answers.append, now)
            pair.dialer.receive_data(pair.listener.result.session.seal([frame(PING, SYN, 0, 0)]), now)
            drain(pair.dialer)
            pair.dialer.handle_timer(now + 0.5)
            self.assertLessEqual(pair.dialer.next_timer(), now + 10)
        self.assertEqual(len(answers), 90)
        self.assertEqual({type(each) for each in answers}, {PingTimeout})
        self.assertEqual(len(pair.dialer._keepalive._pings), 10)

    def test_the_timer_comes_in_time_for_a_ping(self) -> None:
        pair = CorePair()
        pair.dialer.handle_timer(10.0)
        sooner = pair.dialer_events.sooner
        answers: list[object] = []
        pair.dialer.measure_rtt(answers.append, 11.0)
        self.assertEqual((pair.dialer.next_timer(), pair.dialer_events.sooner), (21.0, sooner + 1))
        pair.dialer.handle_timer(20.9)
        self.assertEqual((answers, pair.dialer.next_timer()), ([], 21.0))
        pair.dialer.handle_timer(21.0)
        self.assertIsInstance(answers[0], PingTimeout)
        self.assertEqual(pair.dialer.next_timer(), 30.0)
        pair.now = 22.0
        pair.pump()
        self.assertEqual(len(answers), 1, "an answer that comes too late is for nobody")

    def test_a_socket_that_is_not_read_is_not_the_peers_silence(self) -> None:
        pair = CorePair()
        answers: list[object] = []
        pair.dialer.measure_rtt(answers.append, 1.0)
        pair.dialer.reading_paused(2.0)
        pair.dialer.handle_timer(11.0)
        pair.dialer.handle_timer(20.0)
        self.assertEqual((answers, pair.dialer.next_timer()), ([], 32.0))
        pair.dialer.reading_resumed(21.0)
        self.assertEqual(pair.dialer.next_timer(), 31.0)
        pair.now = 22.0
        pair.pump()
        self.assertEqual(answers, [21.0])

    def test_closed_by_who_waited(self) -> None:
        pair = CorePair()
        pair.dialer.measure_rtt(lambda _: pair.dialer.close(), 25.0)
        pair.listener.result.session.open(drain(pair.dialer))
        pair.dialer.handle_timer(35.0)
        (plaintext,) = pair.listener.result.session.open(drain(pair.dialer))
        self.assertEqual(frames(plaintext), [(GO_AWAY, 0, 0, 0, b"")], "and no ping of the keepalive behind it")
        self.assertEqual(pair.dialer.next_timer(), float("inf"))
