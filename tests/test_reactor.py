"""The reactor of production, in processes of its own (trial runs on another)."""

from __future__ import annotations

import subprocess
import sys
import textwrap

from tests.support import ProcessTestCase


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False
    )


class ReactorTests(ProcessTestCase):
    def test_wall_clock_jump_moves_no_timer(self) -> None:
        """`time.time` jumps a day ahead and a day back: a timer of 50 ms fires, one of an hour does not."""
        result = run(
            """
            import time
            from chorus import reactor as choice
            choice.install()
            from twisted.internet import reactor
            wall = time.time
            early = []
            reactor.callLater(3600, early.append, "fired")
            def jump(by):
                time.time = lambda: wall() + by
            reactor.callLater(0.01, jump, 86400)
            reactor.callLater(0.02, jump, -86400)
            reactor.callLater(0.05, reactor.stop)
            reactor.run()
            assert not early, early
            before = time.clock_gettime(time.CLOCK_BOOTTIME)
            assert before <= reactor.seconds() <= time.clock_gettime(time.CLOCK_BOOTTIME)
            print("ok")
            """
        )
        self.assertEqual((result.returncode, result.stdout), (0, "ok\n"), result.stderr)

    def test_install_is_idempotent(self) -> None:
        result = run(
            """
            from chorus import reactor as choice
            choice.install()
            choice.install()
            from twisted.internet import reactor
            print(type(reactor).__name__)
            """
        )
        self.assertIn(result.stdout, {"BootClockReactor\n", "UvloopReactor\n"}, result.stderr)

    def test_a_reset_behind_data_is_noticed(self) -> None:
        """The peer's data and its reset wait together: the data arrives, then the loss, on uvloop too."""
        result = run(
            """
            import socket, struct
            from chorus import reactor as choice
            choice.install()
            from twisted.internet import reactor
            from twisted.internet.protocol import Factory, Protocol

            class Server(Protocol):
                def connectionMade(self):
                    self.got = b""
                    self.transport.pauseProducing()
                    reactor.callLater(0.1, self.transport.resumeProducing)
                def dataReceived(self, data):
                    self.got += data
                def connectionLost(self, reason):
                    print(self.got.decode(), reason.type.__name__)
                    reactor.stop()

            port = reactor.listenTCP(0, Factory.forProtocol(Server), interface="127.0.0.1")
            client = socket.create_connection(("127.0.0.1", port.getHost().port))
            client.sendall(b"data")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            reactor.callLater(0.05, client.close)
            reactor.callLater(50, lambda: (print("never noticed"), reactor.stop()))
            reactor.run()
            """
        )
        self.assertEqual((result.returncode, result.stdout), (0, "data ConnectionLost\n"), result.stderr)

    def test_foreign_reactor_is_refused(self) -> None:
        result = run(
            """
            from twisted.internet import selectreactor
            selectreactor.install()
            from chorus import reactor as choice
            try:
                choice.install()
            except choice.WrongReactor as error:
                print(error)
            """
        )
        self.assertIn("run twistd without --reactor", result.stdout)
