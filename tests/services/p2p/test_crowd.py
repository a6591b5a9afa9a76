"""Strangers on the P2P port, on real sockets: a member finds its way in all the same."""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import LoopingCall
from twisted.internet.tcp import Server
from twisted.python.monkey import MonkeyPatcher

from chorus.protocols import multistream
from chorus.protocols.limits import HostLimits
from chorus.protocols.stream import Connection
from chorus.services.p2p.host import P2PService
from tests.services.p2p.test_host import Secret
from tests.services.p2p_support import HostCase

CROWD = 100


class Stranger(Protocol):
    """Connects and is silent, or sends a byte of its offer at a time."""

    def __init__(self) -> None:
        self.closed: Deferred[None] = Deferred()

    def connectionLost(self, reason: Any = None) -> None:
        self.closed.callback(None)


class CrowdCase(HostCase):
    timeout = 60

    def member(self, **how: Any) -> P2PService:
        return self.host(admission=Secret(b"w"), **how)

    async def strangers(self, host: P2PService, number: int = CROWD) -> list[Stranger]:
        port = host.bound_addresses()[0].tcp_endpoint()[1]
        found: list[Stranger] = []
        while len(found) < number:
            endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
            some = [connectProtocol(endpoint, Stranger()) for _ in range(min(20, number - len(found)))]
            found += await gatherResults(some)
        for stranger in found:
            self.addCleanup(self.leave, stranger)
        return found

    def leave(self, stranger: Stranger) -> Deferred[None]:
        if not stranger.closed.called:
            stranger.transport.abortConnection()
        return stranger.closed

    def trickle(self, strangers: list[Stranger]) -> None:
        """Each says the beginning of a good offer, a byte at a time."""
        said = multistream.HEADER + multistream.encode_message("/noise")
        position = iter(range(len(said)))

        def more() -> None:
            number = next(position, None)
            if number is None:
                loop.stop()
                return
            for stranger in strangers:
                if not stranger.closed.called:
                    stranger.transport.write(said[number : number + 1])

        loop = LoopingCall(more)
        loop.start(0.01)
        self.addCleanup(lambda: loop.stop() if loop.running else None)

    async def joins(self, host: P2PService) -> None:
        other = self.member()
        await self.dial(other, host)
        await self.until(lambda: host.connection(other.peer_id) is not None)


class Crowd(CrowdCase):
    async def test_a_member_joins_beside_silent_strangers(self) -> None:
        host = self.member()
        await self.strangers(host)
        await self.joins(host)
        self.assertGreaterEqual(host.counters.refused["handshakes"], CROWD - 64)
        self.assertLessEqual(host._counts.handshakes, 64)
        self.assertEqual(host._counts.inbound, 1)

    async def test_a_member_joins_beside_those_who_trickle(self) -> None:
        host = self.member()
        self.trickle(await self.strangers(host))
        for _ in range(3):
            await self.joins(host)

    async def test_a_member_joins_beside_strangers_with_a_good_handshake(self) -> None:
        """They prove who they are, but not that they belong here."""

        class Waiting(Secret):
            def dialer(self, connection: Connection) -> Deferred[None]:
                return Deferred(lambda _: None)

        host = self.member()
        for _ in range(60):
            self.host(admission=Waiting(b"w")).dial(host.peer_id, host.bound_addresses()).addErrback(lambda _: None)
        await self.until(lambda: host.counters.secured >= 60)
        await self.joins(host)

    async def test_members_that_are_in_stay(self) -> None:
        host = self.member()
        await self.joins(host)
        before = host.connections()
        await self.strangers(host, 200)
        await self.joins(host)
        self.assertTrue(set(before) <= set(host.connections()))

    async def test_what_makes_room_is_closed(self) -> None:
        host = self.member(limits=HostLimits(max_handshakes=2))
        strangers = await self.strangers(host, 5)
        await gatherResults([stranger.closed for stranger in strangers[:3]])
        self.assertEqual(host._counts.handshakes, 2)
        self.assertEqual(host.counters.closed, {"limit_exceeded.handshakes": 3})


class Accepting(CrowdCase):
    async def test_a_refused_accept_holds_no_place_and_stops_nothing(self) -> None:
        """epoll has a quota a user, which a task of the same user may use up."""
        host = self.member()
        add, refused = reactor.addReader, []

        def add_reader(reader: Any) -> None:
            if type(reader) is Server:
                refused.append(reader)
                raise OSError(errno.ENOSPC, "No space left on device")
            add(reader)

        patcher = MonkeyPatcher((reactor, "addReader", add_reader))
        patcher.patch()
        self.addCleanup(patcher.restore)
        await self.strangers(host, 5)
        await self.until(lambda: len(refused) == 5)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 5)
        refused.clear()
        self.assertEqual((host._links, host._counts.handshakes, host.counters.accepted), ({}, 0, 0))
        patcher.restore()
        await self.joins(host)
        await host.stopService()
