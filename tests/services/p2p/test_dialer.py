"""The dialer on a reactor in memory: order, limits and time, without sockets."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet import defer
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from chorus.errors import LimitExceeded, PeerError
from chorus.identity import Identity, PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.dialing import DIAL_TIMEOUT, STAGGER, Backoffs, DialError
from chorus.protocols.limits import ConnectionCounts, HostLimits, Place
from chorus.services.p2p.dialer import DialAbandoned, DialAttempt, PeerDialer
from chorus.services.p2p.link import Link, TransportCounters
from chorus.services.p2p.names import RESOLVE_TIMEOUT
from tests.support import PureTestCase

US, THEM, OTHER = (Identity.from_seed(bytes([n]) * 32).peer_id for n in range(3))
ADDRESSES = [Multiaddr.tcp(f"8.8.8.{n}", 4001) for n in range(1, 60)]


class FakeConnection:
    inbound = False

    def __init__(self) -> None:
        self.closed_with: Any = None
        self.closed = False

    def close(self, error: Any = None) -> None:
        self.closed = True
        self.closed_with = error


class FakeResolver:
    def __init__(self, answers: dict[str, list[str]]) -> None:
        self.answers = answers
        self.silent: list[Any] = []

    def resolveHostName(self, receiver: Any, name: str, *rest: Any) -> None:
        receiver.resolutionBegan(None)
        if name not in self.answers:
            self.silent.append(receiver)
            return
        for host in self.answers[name]:
            receiver.addressResolved(IPv4Address("TCP", host, 0))
        receiver.resolutionComplete()


class DialerCase(PureTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        names = {
            "one.example": ["8.8.8.1", "8.8.8.2"],
            "none.example": [],
            "ours.example": ["10.0.0.1", "8.8.8.8"],
        }
        self.reactor.nameResolver = FakeResolver(names)
        self.addCleanup(lambda: self.assertEqual([c for c in self.reactor.getDelayedCalls() if c.active()], []))
        self.use(HostLimits())
        self.waiting: set[PeerId] = set()

    def use(self, limits: HostLimits) -> None:
        self.counts = ConnectionCounts(limits)
        self.counters = TransportCounters()
        self.dialer = PeerDialer(self.reactor, self, limits, Backoffs(random.Random(1)), self.counters)

    # Dials

    peer_id = US

    def enter(self, address: Multiaddr) -> Place:
        return self.counts.enter(address, inbound=False)

    def leave(self, place: Place) -> None:
        self.counts.leave(place)

    def outbound(self, address: Multiaddr, expected: PeerId | None, place: Place) -> Link:
        return Link(FakeConnection(), place, address)

    def settling(self, peer: PeerId) -> bool:
        return peer in self.waiting

    # What the network does

    def attempts(self) -> list[DialAttempt]:
        return [call[2] for call in self.reactor.tcpClients]

    def tried(self) -> list[str]:
        return [call[0] for call in self.reactor.tcpClients]

    def refuse(self, number: int) -> None:
        connector = self.reactor.connectors[number]
        self.attempts()[number].clientConnectionFailed(connector, Failure(ConnectionRefusedError()))

    def connect(self, number: int) -> Link:
        attempt = self.attempts()[number]
        attempt.buildProtocol(IPv4Address("TCP", "8.8.8.8", 1))
        return attempt.link

    def secure(self, link: Link) -> None:
        link.peer = THEM
        self.dialer.secured(link)

    def admit(self, link: Link) -> None:
        link.admitted_at = 1.0
        self.dialer.admitted(link, link.connection)

    def lose(self, link: Link, error: Any = None) -> None:
        self.counts.leave(link.place)
        self.dialer.closed(link, error)


class Dialling(DialerCase):
    def test_the_next_address_is_tried_beside_a_silent_one_and_at_once_after_a_refusal(self) -> None:
        dialling = self.dialer.dial(THEM, ADDRESSES[:4])
        self.assertEqual(self.tried(), ["8.8.8.1"])
        self.reactor.advance(STAGGER)
        self.assertEqual(len(self.tried()), 2)
        self.refuse(0)
        self.assertEqual(len(self.tried()), 2)
        self.refuse(1)
        self.assertEqual(len(self.tried()), 3)
        self.assertEqual(self.reactor.tcpClients[0][3], DIAL_TIMEOUT)
        link = self.connect(2)
        self.secure(link)
        self.assertNoResult(dialling)
        self.reactor.advance(10)
        self.assertEqual(len(self.tried()), 3)
        self.admit(link)
        self.assertIs(self.successResultOf(dialling), link.connection)
        self.assertEqual((self.counters.dialled, self.counters.connected), (3, 1))
        self.assertEqual(self.counters.failed, {"refused": 2})

    def test_the_first_to_be_secured_ends_the_others(self) -> None:
        dialling = self.dialer.dial(THEM, ADDRESSES[:3])
        self.reactor.advance(STAGGER)
        self.reactor.advance(STAGGER)
        slow, link = self.connect(0), self.connect(1)
        self.secure(link)
        self.assertIsInstance(slow.connection.closed_with, DialAbandoned)
        self.assertEqual(self.reactor.connectors[2].stoppedConnecting, True)
        self.dialer.not_connected(self.attempts()[2], Failure(ConnectionRefusedError()))
        self.lose(slow, DialAbandoned("x"))
        self.admit(link)
        self.successResultOf(dialling)
        self.assertEqual(self.counters.failed, {})
        self.assertEqual(self.counts.outbound, 1)

    def test_max_dials_per_peer(self) -> None:
        self.use(HostLimits(max_dials_per_peer=3))
        dialling = self.dialer.dial(THEM, ADDRESSES[:10])
        for _ in range(20):
            self.reactor.advance(STAGGER)
        self.assertEqual(len(self.tried()), 3)
        self.refuse(0)
        self.reactor.advance(STAGGER)
        self.assertEqual(len(self.tried()), 4)
        dialling.cancel()
        self.failureResultOf(dialling)

    def test_max_dials(self) -> None:
        self.use(HostLimits(max_dials=2))
        peers = [PeerId(b"\x12\x20" + bytes([n]) * 32) for n in range(5)]
        dialling = [self.dialer.dial(peer, [ADDRESSES[n]]) for n, peer in enumerate(peers)]
        self.assertEqual(len(self.tried()), 2)
        for number in range(5):
            self.refuse(number)
            self.reactor.advance(0)
            self.assertEqual(len(self.tried()), min(5, number + 3))
            self.failureResultOf(dialling[number], DialError)

    def test_max_outbound_connections(self) -> None:
        self.use(HostLimits(max_outbound_connections=1))
        first = self.dialer.dial(THEM, ADDRESSES[:1])
        error = self.failureResultOf(self.dialer.dial(OTHER, ADDRESSES[1:2]), DialError)
        self.assertIn("outbound_connections", str(error.value))
        self.refuse(0)
        self.failureResultOf(first, DialError)
        self.assertEqual(self.counts.outbound, 0)

    def test_an_address_that_names_another_peer_is_not_tried(self) -> None:
        error = self.failureResultOf(self.dialer.dial(THEM, [ADDRESSES[0].with_peer(OTHER)]), DialError)
        self.assertIn("another peer", str(error.value))
        self.assertEqual(self.tried(), [])

    def test_addresses_of_several_unnamed_peers(self) -> None:
        dialling = self.dialer.dial(None, [ADDRESSES[0].with_peer(THEM), ADDRESSES[1].with_peer(OTHER)])
        self.assertEqual(self.attempts()[0].expected, THEM)
        self.refuse(0)
        self.assertEqual(self.attempts()[1].expected, OTHER)
        link = self.connect(1)
        link.peer = OTHER
        self.dialer.secured(link)
        self.admit(link)
        self.assertIs(self.successResultOf(dialling), link.connection)

    def test_self_dial_is_refused_before_the_socket(self) -> None:
        self.failureResultOf(self.dialer.dial(None, [ADDRESSES[0].with_peer(US)]), DialError)
        self.assertEqual((self.tried(), self.counters.failed), ([], {"self_dial": 1}))

    def test_a_connection_that_settles_is_waited_for(self) -> None:
        self.waiting.add(THEM)
        dialling = self.dialer.dial(THEM, ADDRESSES[:1])
        self.assertEqual(self.tried(), [])
        inbound = Link(FakeConnection(), self.counts.enter(ADDRESSES[5], inbound=True))
        inbound.peer = THEM
        self.waiting.clear()
        self.lose(inbound, PeerError("not admitted"))
        self.assertEqual(self.tried(), ["8.8.8.1"])
        inbound = Link(FakeConnection(), self.counts.enter(ADDRESSES[5], inbound=True))
        inbound.peer = THEM
        self.admit(inbound)
        self.assertIs(self.successResultOf(dialling), inbound.connection)
        self.assertTrue(self.reactor.connectors[0].stoppedConnecting)

    def simultaneous(self) -> tuple[defer.Deferred, Link, Link]:
        """A dial whose own connection is authenticated when the peer's is admitted."""
        dialling = self.dialer.dial(THEM, ADDRESSES[:1])
        own = self.connect(0)
        self.secure(own)
        inbound = Link(FakeConnection(), self.counts.enter(ADDRESSES[5], inbound=True))
        inbound.peer = THEM
        self.admit(inbound)
        self.assertNoResult(dialling)
        self.assertFalse(own.connection.closed)
        return dialling, own, inbound

    def test_of_simultaneous_dials_the_one_that_stays_is_the_result(self) -> None:
        dialling, own, _ = self.simultaneous()
        self.admit(own)
        self.assertIs(self.successResultOf(dialling), own.connection)

    def test_of_simultaneous_dials_the_other_one_stays(self) -> None:
        dialling, own, inbound = self.simultaneous()
        self.lose(own)
        self.assertIs(self.successResultOf(dialling), inbound.connection)

    def test_of_simultaneous_dials_neither_stays(self) -> None:
        dialling, own, inbound = self.simultaneous()
        inbound.connection.close()
        self.lose(inbound)
        self.assertNoResult(dialling)
        self.lose(own)
        self.failureResultOf(dialling, DialError)

    def test_failed_admission_fails_the_dial(self) -> None:
        dialling = self.dialer.dial(THEM, ADDRESSES[:1])
        link = self.connect(0)
        self.secure(link)
        self.lose(link, LimitExceeded("connections_per_peer", 9, 8))
        error = self.failureResultOf(dialling, DialError)
        self.assertIn("connections_per_peer", str(error.value))
        self.assertEqual(self.counters.failed, {"limit_exceeded.connections_per_peer": 1})

    def test_nobody_waits_any_more(self) -> None:
        one, two = self.dialer.dial(THEM, ADDRESSES[:2]), self.dialer.dial(THEM, ADDRESSES[:2])
        one.cancel()
        self.failureResultOf(one, defer.CancelledError)
        self.assertFalse(self.reactor.connectors[0].stoppedConnecting)
        two.cancel()
        self.failureResultOf(two, defer.CancelledError)
        self.assertTrue(self.reactor.connectors[0].stoppedConnecting)

    def test_more_addresses_for_a_dial_under_way(self) -> None:
        one, two = self.dialer.dial(THEM, ADDRESSES[:1]), self.dialer.dial(THEM, ADDRESSES[:2])
        self.refuse(0)
        self.assertEqual(self.tried(), ["8.8.8.1", "8.8.8.2"])
        self.refuse(1)
        self.failureResultOf(one, DialError)
        self.failureResultOf(two, DialError)

    def test_stopping(self) -> None:
        one, two = self.dialer.dial(THEM, ADDRESSES[:3]), self.dialer.dial(None, ADDRESSES[3:6])
        self.dialer.stop()
        self.failureResultOf(one, DialAbandoned)
        self.failureResultOf(two, DialAbandoned)


class Names(DialerCase):
    def test_all_addresses_of_a_name_are_tried(self) -> None:
        dialling = self.dialer.dial(THEM, [Multiaddr.parse("/dns4/one.example/tcp/9")])
        self.refuse(0)
        self.refuse(1)
        self.failureResultOf(dialling, DialError)
        self.assertEqual(self.tried(), ["8.8.8.1", "8.8.8.2"])

    def test_a_name_without_addresses(self) -> None:
        error = self.failureResultOf(self.dialer.dial(THEM, [Multiaddr.parse("/dns/none.example/tcp/9")]), DialError)
        self.assertIn("cannot be resolved", str(error.value))
        self.assertEqual(self.counters.failed, {"unknown_name": 1})

    def test_a_silent_resolver(self) -> None:
        dialling = self.dialer.dial(THEM, [Multiaddr.parse("/dns/silent.example/tcp/9")])
        self.reactor.advance(RESOLVE_TIMEOUT - 0.1)
        self.assertNoResult(dialling)
        self.reactor.advance(0.2)
        self.failureResultOf(dialling, DialError)
        self.reactor.nameResolver.silent[0].resolutionComplete()

    def test_a_public_peers_name_does_not_lead_into_our_network(self) -> None:
        name = Multiaddr.parse("/dns/ours.example/tcp/9")
        told = self.dialer.dial(THEM, [], [name], public=True)
        self.assertEqual(self.tried(), ["8.8.8.8"])
        self.refuse(0)
        self.failureResultOf(told, DialError)
        self.assertEqual(self.counters.failed, {"private_name": 1, "refused": 1})
        configured = self.dialer.dial(OTHER, [name])
        self.assertEqual(self.tried()[1], "10.0.0.1")
        configured.cancel()
        self.failureResultOf(configured, defer.CancelledError)
