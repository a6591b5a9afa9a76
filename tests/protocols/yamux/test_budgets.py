"""Memory of a yamux session: received, queued, windows grown."""

from __future__ import annotations

from chorus.errors import LimitExceeded
from chorus.protocols.yamux import budgets
from chorus.protocols.yamux.frames import DATA, INITIAL_WINDOW, SendQueueFull, YamuxLimits
from tests.protocols.yamux_support import Pair, frame
from tests.support import PureTestCase


class Counts(PureTestCase):
    """What is within a budget, to the byte."""

    def budgets(self, **limits: int) -> budgets.Budgets:
        self.again = 0

        def read_again() -> None:
            self.again += 1

        return budgets.Budgets(YamuxLimits(**limits), read_again)

    def test_half_of_the_received(self) -> None:
        made = self.budgets(receive_budget=1000)
        made.hold(500)
        self.assertFalse(made.overfull)
        made.hold(2)
        self.assertTrue(made.overfull)
        made.starved = True
        made.release(1)
        self.assertEqual((made.starved, self.again, made.held), (True, 0, 501))
        made.release(1)
        made.release(1)
        self.assertEqual((made.starved, self.again, made.held), (False, 1, 499))

    def test_growth(self) -> None:
        made = self.budgets(max_receive_window=INITIAL_WINDOW + 100, growth_budget=200)
        grown = INITIAL_WINDOW + 100
        self.assertEqual([made.grow_window(INITIAL_WINDOW) for _ in range(3)], [100, 100, 0])
        self.assertEqual(made.grow_window(grown), 0, "as large as it gets")
        made.give_back_window(INITIAL_WINDOW)
        self.assertEqual(made.grow_window(INITIAL_WINDOW), 0)
        made.give_back_window(grown)
        self.assertEqual([made.grow_window(INITIAL_WINDOW) for _ in range(2)], [100, 0])


class Budgets(PureTestCase):
    def test_growth_is_budgeted_and_given_back(self) -> None:
        limits = YamuxLimits(max_receive_window=2 * INITIAL_WINDOW, growth_budget=INITIAL_WINDOW)
        pair = Pair(limits)
        first, first_peer = pair.open()
        second, second_peer = pair.open()
        for stream in (first, second):
            stream.write(bytes(INITIAL_WINDOW))
            pair.pump()
        self.assertEqual((first_peer.window_size, second_peer.window_size), (2 * INITIAL_WINDOW, INITIAL_WINDOW))
        first.reset()
        second.write(bytes(INITIAL_WINDOW))
        pair.pump()
        self.assertEqual(second_peer.window_size, 2 * INITIAL_WINDOW)

    def test_receive_budget(self) -> None:
        limits = YamuxLimits(receive_budget=INITIAL_WINDOW + 100)
        pair = Pair(limits)
        peers = [pair.open()[1] for _ in range(2)]
        for peer in peers:
            peer.pause_reading()
        pair.listener.receive_data([frame(DATA, 0, 1, INITIAL_WINDOW, bytes(INITIAL_WINDOW))], 0.0)
        pair.listener.receive_data([frame(DATA, 0, 3, 100, bytes(100))], 0.0)
        with self.assertRaises(LimitExceeded) as caught:
            pair.listener.receive_data([frame(DATA, 0, 3, 1, b"x")], 0.0)
        self.assertEqual(caught.exception.limit, "yamux_receive_buffer")

    def test_send_budget(self) -> None:
        pair = Pair(YamuxLimits(send_budget=3 * INITIAL_WINDOW))
        stream, peer = pair.open()
        other, other_peer = pair.open()
        peer.pause_reading()
        for _ in range(4):
            stream.write(bytes(INITIAL_WINDOW))
            pair.pump()
        self.assertEqual(stream.receiver.closed, [])
        stream.write(b"x")
        self.assertIsInstance(stream.receiver.closed[0], SendQueueFull)
        self.assertEqual(pair.dialer.queued, 0)
        other.write(b"fine")
        pair.pump()
        self.assertEqual(other_peer.receiver.data, b"fine")
        self.assertEqual(len(peer.receiver.closed), 1)
