"""py-libp2p on the other end of the wire: connect, identify and ping, each side dialling, in real processes.

`CHORUS_TEST_PY_LIBP2P` names a python that has `libp2p==0.8.1`.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from twisted.internet import error, reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest, TestCase

from chorus.identity import Identity, PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols import identify, ping
from chorus.services.p2p import OpenAdmission, P2PService

SCRIPT = Path(__file__).with_name("py_libp2p_peer.py")
VARIABLE = "CHORUS_TEST_PY_LIBP2P"


def foreign_python() -> str:
    path = os.environ.get(VARIABLE, "")
    if not path:
        raise SkipTest(f"{VARIABLE} is not set: it names a python that has libp2p==0.8.1")
    if not os.access(path, os.X_OK):
        raise SkipTest(f"{VARIABLE}={path} is not an executable python")
    return path


class ForeignPeer(ProcessProtocol):
    """The process; one line to it is answered by one line from it."""

    def __init__(self) -> None:
        self._buffer = b""
        self._errors = b""
        self._answers: list[Deferred[dict[str, Any]]] = []
        self.ended: Deferred[None] = Deferred()
        self.ready = self._answer()

    def _answer(self) -> Deferred[dict[str, Any]]:
        answer: Deferred[dict[str, Any]] = Deferred()
        self._answers.append(answer)
        return answer

    def ask(self, *words: object) -> Deferred[dict[str, Any]]:
        self.transport.write((" ".join(map(str, words)) + "\n").encode())
        return self._answer().addCallback(self._checked)

    def _checked(self, answer: dict[str, Any]) -> dict[str, Any]:
        if not answer["ok"]:
            raise AssertionError(f"py-libp2p: {answer['error']}\n{self._errors.decode()[-2000:]}")
        return answer

    def outReceived(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._answers.pop(0).callback(json.loads(line))

    def errReceived(self, data: bytes) -> None:
        self._errors = (self._errors + data)[-10000:]

    def processEnded(self, reason: Any) -> None:
        for answer in self._answers:
            answer.errback(AssertionError(f"py-libp2p ended: {self._errors.decode()[-2000:]}"))
        self._answers.clear()
        self.ended.callback(None)

    async def stop(self) -> None:
        self.transport.closeStdin()
        kill = reactor.callLater(3, self._kill)
        await self.ended
        if kill.active():
            kill.cancel()

    def _kill(self) -> None:
        with contextlib.suppress(error.ProcessExitedAlready):
            self.transport.signalProcess("KILL")


class PyLibp2p(TestCase):
    timeout = 60

    async def setUp(self) -> None:
        python = foreign_python()
        self.host = P2PService(reactor, Identity.generate(), admission=OpenAdmission(), open_mode=True)
        self.host.startService()
        self.addCleanup(self.host.stopService)
        self.foreign = ForeignPeer()
        reactor.spawnProcess(self.foreign, python, [python, str(SCRIPT)], env=os.environ)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.foreign.stop()))
        ready = await self.foreign.ready
        self.foreign_address = Multiaddr.parse(ready["addr"])
        self.foreign_id = PeerId.parse(ready["peer_id"])
        self.joined: list[PeerId] = []
        self.left: list[PeerId] = []
        self.host.watch_peers(lambda c: self.joined.append(c.peer_id), lambda c: self.left.append(c.peer_id))

    async def until(self, condition: Any) -> None:
        while not condition():
            await deferLater(reactor, 0.01)

    async def check_both_ways(self) -> None:
        """Both sides have identified each other, and each can ping the other."""
        await self.until(lambda: self.joined)
        self.assertEqual(self.joined, [self.foreign_id])
        self.assertIn(ping.PROTOCOL, self.host.protocols_of(self.foreign_id))
        self.assertIn("py-libp2p", self.host.agent_version_of(self.foreign_id))
        self.assertIn(self.foreign_address.without_peer(), self.host.peers.addresses(self.foreign_id, 0))

        heard = await self.foreign.ask("identified", self.host.peer_id)
        self.assertLessEqual({identify.PROTOCOL, ping.PROTOCOL}, set(heard["protocols"]))
        self.assertIn(str(self.host.bound_addresses()[0]), [a.split("/p2p/")[0] for a in heard["addresses"]])
        self.assertTrue(heard["key_matches"])

        for _ in range(5):
            self.assertLess(await self.host.ping(self.foreign_id), 10)
        self.assertEqual(len((await self.foreign.ask("ping", self.host.peer_id))["ms"]), 3)
        await self.foreign.ask("pong", self.host.peer_id, 200)
        self.assertEqual(self.host.counters.peer_errors, {})
        self.assertEqual(self.host.counters.identify_failed, {})
        self.assertEqual(self.left, [])

    async def test_we_dial(self) -> None:
        connection = await self.host.dial(self.foreign_id, [self.foreign_address])
        self.assertFalse(connection.inbound)
        await self.check_both_ways()

    async def test_they_dial(self) -> None:
        address = self.host.bound_addresses()[0].with_peer(self.host.peer_id)
        await self.foreign.ask("connect", address)
        await self.until(self.host.connections)
        self.assertTrue(self.host.connections()[0].inbound)
        await self.check_both_ways()

    async def test_they_refuse_to_be_somebody_else(self) -> None:
        stranger = Identity.generate().peer_id
        await self.assertFailure(self.host.dial(stranger, [self.foreign_address.without_peer()]), Exception)
        self.assertEqual(self.host.counters.tcp.failed["peer_id_mismatch"], 1)

    async def test_they_end_and_we_notice(self) -> None:
        await self.host.dial(self.foreign_id, [self.foreign_address])
        await self.until(lambda: self.joined)
        self.foreign.transport.closeStdin()
        await self.until(lambda: self.left)
        self.assertEqual(self.host.connections(), [])
