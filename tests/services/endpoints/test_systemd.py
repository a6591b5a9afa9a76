"""What systemd is told, and when (sd_notify(3))."""

from __future__ import annotations

import os

from twisted.internet.task import Clock

from chorus.services.endpoints.systemd import AGAIN_S, EXTEND_S, MAX_STATUS, STATUS_S, Notifier, Supervision
from tests.support import PureTestCase


class SupervisionTests(PureTestCase):
    def test_what_the_manager_sets_is_read_and_removed(self) -> None:
        environ = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7", "HOME": "/root"}
        self.assertEqual(Supervision.take(environ, 7), Supervision("/run/n", 30.0))
        self.assertEqual(environ, {"HOME": "/root"})

    def test_table(self) -> None:
        for environ, expected in (
            ({}, Supervision()),
            ({"NOTIFY_SOCKET": ""}, Supervision()),
            ({"NOTIFY_SOCKET": "relative"}, Supervision()),
            ({"NOTIFY_SOCKET": "vsock:2:1"}, Supervision()),
            ({"NOTIFY_SOCKET": "@abstract"}, Supervision("@abstract")),
            ({"WATCHDOG_USEC": "1000000"}, Supervision()),
            ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1000000"}, Supervision("/n", 1.0)),
            ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "8"}, Supervision("/n")),
            ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "0"}, Supervision("/n")),
            ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "-1"}, Supervision("/n")),
            ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "soon"}, Supervision("/n")),
            ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "٣"}, Supervision("/n")),
        ):
            with self.subTest(environ=environ):
                self.assertEqual(Supervision.take(dict(environ), 7), expected)


class NotifierTests(PureTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.sent: list[str] = []
        self.full = ""
        self.line = "a1: peers: 0; tasks: 0 of 3"

    def notifier(self, supervision: Supervision, transmit: object = None) -> Notifier:
        def record(address: str, message: str) -> None:
            self.sent.append(message)

        made = Notifier(supervision, self.clock, lambda: self.line, transmit or record)  # type: ignore[arg-type]
        self.addCleanup(made.end)
        return made

    def test_nothing_is_sent_where_nobody_listens(self) -> None:
        notifier = self.notifier(Supervision())
        for step in (notifier.begin, notifier.ready, notifier.stopping):
            step()
            self.clock.advance(STATUS_S)
        notifier.failed("no")
        self.assertEqual(self.sent, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_long_start_asks_for_more_time_until_it_is_ready(self) -> None:
        notifier = self.notifier(Supervision("/n"))
        notifier.begin()
        self.clock.pump([STATUS_S] * 3)
        extension = f"EXTEND_TIMEOUT_USEC={EXTEND_S * 1e6:.0f}\nSTATUS=starting"
        self.assertEqual(self.sent, [extension] * 4)
        self.assertLess(STATUS_S, EXTEND_S)
        notifier.ready()
        self.assertEqual(self.sent[4:], [f"READY=1\nMAINPID={os.getpid()}\nSTATUS={self.line}"])
        self.clock.pump([STATUS_S] * 3)
        self.assertEqual(self.sent[5:], [])

    def test_a_status_line_is_sent_when_it_changes(self) -> None:
        notifier = self.notifier(Supervision("/n"))
        notifier.ready()
        del self.sent[:]
        self.line = "a1: peers: 1"
        self.clock.advance(STATUS_S)
        self.assertEqual(self.sent, ["STATUS=a1: peers: 1"])

    def test_the_watchdog_is_fed_each_third_of_its_time_from_start_to_end(self) -> None:
        notifier = self.notifier(Supervision("/n", 30.0))
        notifier.begin()
        notifier.ready()
        notifier.stopping()
        del self.sent[:]
        self.clock.pump([10.0] * 6)
        self.assertEqual(self.sent, ["WATCHDOG=1"] * 6)
        notifier.end()
        self.clock.advance(100.0)
        self.assertEqual(len(self.sent), 6)

    def test_a_failed_start_and_a_stop_are_told(self) -> None:
        notifier = self.notifier(Supervision("/n"))
        notifier.failed("CHORUS_JOIN: wrong\nREADY=1 " + "x" * 1000)
        (line,) = self.sent
        self.assertNotIn("\n", line)
        self.assertEqual(len(line), len("STATUS=") + MAX_STATUS)
        notifier.stopping()
        self.assertEqual(self.sent[1], "STOPPING=1\nSTATUS=stopping")

    def test_a_manager_that_does_not_listen_stops_nothing(self) -> None:
        def refuse(address: str, message: str) -> None:
            self.sent.append(message)
            raise ConnectionRefusedError(111, "Connection refused")

        notifier = self.notifier(Supervision("/n", 3.0), refuse)
        notifier.begin()
        notifier.ready()
        del self.sent[:]
        self.clock.advance(1.0)
        self.assertIn("WATCHDOG=1", self.sent)
        notifier.stopping()

    def test_what_was_lost_of_the_end_of_a_start_is_said_until_it_was_sent(self) -> None:
        lost: list[str] = []

        def full(address: str, message: str) -> None:
            """A socket that takes no READY for a while."""
            if self.full and self.full in message:
                lost.append(message)
                raise BlockingIOError(11, "Resource temporarily unavailable")
            self.sent.append(message)

        self.full = "READY=1"
        notifier = self.notifier(Supervision("/n"), full)
        notifier.begin()
        notifier.ready()
        self.clock.pump([AGAIN_S] * 60)
        self.assertEqual(len(lost), 61)
        extensions = [message for message in self.sent if message.startswith("EXTEND_TIMEOUT_USEC=")]
        self.assertEqual(len(extensions), 7, "more time is asked for meanwhile")
        del self.sent[:]
        self.full = ""
        self.line = "a1: peers: 9"
        self.clock.pump([AGAIN_S] * 60)
        self.assertEqual(self.sent, [f"READY=1\nMAINPID={os.getpid()}\nSTATUS=a1: peers: 9"], "once, with what is true")

    def test_neither_after_a_stop_nor_after_a_failure(self) -> None:
        def refuse(address: str, message: str) -> None:
            self.sent.append(message)
            raise BlockingIOError(11, "Resource temporarily unavailable")

        for name in ("stopping", "end", "failed"):
            notifier = self.notifier(Supervision("/n"), refuse)
            notifier.begin()
            notifier.ready()
            getattr(notifier, name)(*(("no",) if name == "failed" else ()))
            del self.sent[:]
            self.clock.pump([AGAIN_S] * 60)
            self.assertEqual(self.sent, [], name)

    def test_a_status_line_that_was_lost_is_said_again(self) -> None:
        lost = [1]

        def once(address: str, message: str) -> None:
            if "peers: 1" in message and lost:
                lost.pop()
                raise BlockingIOError(11, "Resource temporarily unavailable")
            self.sent.append(message)

        notifier = self.notifier(Supervision("/n"), once)
        notifier.ready()
        del self.sent[:]
        self.line = "a1: peers: 1"
        self.clock.pump([STATUS_S] * 3)
        self.assertEqual(self.sent, ["STATUS=a1: peers: 1"])
