"""The host: listener, dialer, and every connection between them. Implements `Host` of `protocols/stream.py`.

A connection's life: TCP → Noise and muxer → identify and admission at once → admitted → all other protocols. Until it
is admitted only identify, ping and admission are served on it; in open mode nothing but identify, ping, perf, meshsub
and kad ever is. A pair keeps one connection.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.task import deferLater

from chorus.entropy import RandomBytes, system_random
from chorus.errors import ChorusError, LimitExceeded
from chorus.identity import Identity, PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols import identify, perf, ping
from chorus.protocols.connection.core import Ends
from chorus.protocols.connection.shell import ConnectionProtocol
from chorus.protocols.dialing import Backoffs, DialError, peer_named
from chorus.protocols.identify import Identification
from chorus.protocols.limits import ConnectionCounts
from chorus.protocols.peerstore import PeerStore
from chorus.protocols.stream import Connection, ProtocolOptions, Stream, StreamClosed, StreamOpened
from chorus.services.p2p.dialer import PeerDialer
from chorus.services.p2p.gate import Admission, AdmissionGate
from chorus.services.p2p.identify import IdentifyService, keep
from chorus.services.p2p.inbound import Inbound
from chorus.services.p2p.link import Link, P2PCounters
from chorus.services.p2p.listener import TcpListener, reachable
from chorus.services.p2p.pairs import Pairs
from chorus.services.p2p.ping import PingService
from chorus.services.p2p.reasons import reason
from chorus.services.p2p.serving import ServedProtocols
from chorus.services.p2p.settings import HostSettings
from chorus.services.p2p.starts import LinkStarts
from chorus.services.p2p.system_scope import SystemScope
from chorus.services.p2p.watchers import Watchers
from chorus.services.starts import Starts
from chorus.timer import Periodic

EXPIRE_INTERVAL = 60.0
TICK = 1.0
"""Seconds between looks at what is due."""
SEEK_TTL = 3600.0
"""Seconds that a peer which was dialled stays of interest."""
DRAIN = 1.0
"""Seconds that streams have to end when the node stops, after GoAway."""


class P2PService(Service):
    """`reactor` is IReactorTCP and IReactorTime; `random_bytes` gives nonces; `rng` is chance that need not be secret.
    `starts`: this start of the node, and those of others.
    `startService` raises `CannotListen`. Cancel a Deferred of `dial` to give it up.
    """

    name = "p2p"

    def __init__(
        self,
        reactor: Any,
        identity: Identity,
        *,
        admission: Admission,
        settings: HostSettings | None = None,
        rng: random.Random | None = None,
        random_bytes: RandomBytes = system_random,
        starts: Starts | None = None,
    ) -> None:
        self.settings = settings = settings or HostSettings()
        if settings.open_mode != (admission.protocol == ""):
            raise ValueError("open mode is the only one without admission")
        rng = rng or random.Random()
        self.counters = P2PCounters()
        self.peers = PeerStore()
        self._reactor = reactor
        self._identity = identity
        self._gate = AdmissionGate(reactor, admission, self._admit, self.counters.admission_failed)
        self._counts = ConnectionCounts(settings.limits)
        self._links: dict[Connection, Link] = {}
        self._watchers = Watchers()
        self._pairs = Pairs(
            identity.peer_id,
            self._watchers,
            self.counters,
            counts=self._counts,
            links=self._links,
            connect=partial(self._connection, initiator=True),
        )
        self._scope = SystemScope(settings.limits, self._links)
        self._serving = ServedProtocols(
            reactor,
            self._scope,
            open_mode=settings.open_mode,
            changed=self._protocols_changed,
            refused=self.counters.streams_refused,
        )
        self._ping = PingService(reactor, self._links, open_stream=self.open_stream, rng=rng, random_bytes=random_bytes)
        self._stopping = False
        self._emptied: Deferred[None] | None = None
        self._next_expiry = 0.0
        self._inbound = Inbound(
            counts=self._counts,
            links=self._links,
            counters=self.counters,
            connect=partial(self._connection, expected=None, initiator=False),
        )
        self._listeners = [TcpListener(reactor, each, self._accept, settings.last_port) for each in settings.listen]
        self._dialer = PeerDialer(reactor, self._pairs, settings.limits, Backoffs(rng), self.counters.tcp)
        self._identify = IdentifyService(
            reactor,
            identity,
            self,
            agent_version=settings.agent_version,
            failed=self.counters.identify_failed,
            wall_ns=settings.wall_ns,
        )
        self._starts = LinkStarts(starts, self._links, self._identify.push)
        self._loop = Periodic(reactor, "the host's periodic work", self._tick, lambda: TICK)
        self._register_own()

    def _register_own(self) -> None:
        early = ProtocolOptions(needs_admission=False, max_inbound_per_peer=4)
        self.register(identify.PROTOCOL, self._identify.answer, early)
        self.register(identify.PUSH_PROTOCOL, self._push_opened, early)
        self.register(ping.PROTOCOL, self._ping.answer, ProtocolOptions(False, ping.MAX_INBOUND))
        if self.settings.open_mode:
            self.register(perf.PROTOCOL, _perf_opened, ProtocolOptions(False, perf.MAX_INBOUND))
        else:
            self.register(self._gate.protocol, self._admission_opened, ProtocolOptions(False, 1))

    # Service

    def startService(self) -> None:
        for listener in self._listeners:
            listener.start()
        self._stopping = False
        super().startService()  # type: ignore[no-untyped-call]
        self._identify.forget()
        self._loop.start()

    def stopService(self) -> Deferred[None]:
        """No new connections or streams, then GoAway, then whatever streams still have to send, for a second."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._stopping = True
        self._loop.stop()
        self._identify.stop()
        self._dialer.stop()
        await gatherResults([Deferred.fromCoroutine(listener.stop()) for listener in self._listeners])
        for link in self._links.values():
            if link.peer is not None:
                link.connection.go_away()
        until = self._reactor.seconds() + DRAIN
        while any(link.connection.unsent for link in self._links.values()) and self._reactor.seconds() < until:
            await deferLater(self._reactor, 0.02)
        for link in self.links():
            link.connection.close()
        if self._links:
            # Each connection aborts itself after its own limit for closing.
            self._emptied = Deferred()
            await self._emptied

    # Host

    @property
    def peer_id(self) -> PeerId:
        return self._identity.peer_id

    def listen_addresses(self) -> list[Multiaddr]:
        return list(self.settings.announce) or reachable([listener.address for listener in self._listeners])

    def bound_addresses(self) -> list[Multiaddr]:
        """Addresses of the listening sockets, with their real ports."""
        return [listener.address for listener in self._listeners]

    def register(self, protocol: str, opened: StreamOpened, options: ProtocolOptions) -> None:
        self._serving.register(protocol, opened, options)

    def unregister(self, protocol: str) -> None:
        self._serving.unregister(protocol)

    def protocols(self) -> list[str]:
        return self._serving.names()

    def connections(self) -> list[Connection]:
        return [link.connection for link in self._pairs.all_kept()]

    def connection(self, peer: PeerId) -> Connection | None:
        link = self._pairs.kept(peer)
        return link.connection if link is not None else None

    def protocols_of(self, peer: PeerId) -> frozenset[str]:
        said = self._identification(peer)
        return said.protocols if said is not None else frozenset()

    def addresses_of(self, peer: PeerId) -> list[Multiaddr]:
        return self.peers.addresses(peer, self._reactor.seconds())

    def latency(self, peer: PeerId) -> float | None:
        """Seconds of the last ping, `None` before the first."""
        link = self._pairs.kept(peer)
        return link.latency if link is not None else None

    def agent_version_of(self, peer: PeerId) -> str | None:
        said = self._identification(peer)
        return said.agent_version if said is not None else None

    def _identification(self, peer: PeerId) -> Identification | None:
        link = self._pairs.kept(peer)
        return link.identification if link is not None else None

    def dial(self, peer: PeerId | None, addresses: Sequence[Multiaddr]) -> Deferred[Connection]:
        if self._stopping or not self.running:
            return fail(DialError(peer, [(address, "the node is not running") for address in addresses]))
        peer = peer or peer_named(addresses)
        if peer is None:
            return self._dialer.dial(None, addresses)
        if peer == self.peer_id:
            return fail(DialError(peer, [(address, "this is the node itself") for address in addresses]))
        link = self._pairs.kept(peer)
        if link is not None and not link.connection.closed:
            return succeed(link.connection)
        now = self._reactor.seconds()
        self.peers.seek(peer, now + SEEK_TTL, now)
        known, public = self.peers.addresses(peer, now), self.peers.told_by_public(peer)
        return self._dialer.dial(peer, addresses, known, public=public)

    def open_stream(self, peer: PeerId, protocols: Sequence[str]) -> Deferred[Stream]:
        link = self._pairs.kept(peer)
        if link is None or link.connection.closed:
            return fail(StreamClosed(f"there is no connection to {peer}"))
        return link.connection.open_stream(protocols)

    def watch_peers(self, joined: Callable[[Connection], None], left: Callable[[Connection], None]) -> None:
        self._watchers.add(joined, left, self._pairs.all_kept())

    def ping(self, peer: PeerId) -> Deferred[float]:
        """One round trip of the ping protocol, in seconds; fails with `StreamClosed`, `StreamTimeout`, …"""
        return Deferred.fromCoroutine(self._ping.ping(peer))

    # Making connections

    def _connection(self, address: Multiaddr, expected: PeerId | None, *, initiator: bool) -> ConnectionProtocol:
        return ConnectionProtocol(
            Ends(self._identity, initiator, expected),
            remote_address=address,
            clock=self._reactor,
            delegate=self,
            limits=self.settings.connections,
            security=self.settings.security,
            counters=self.counters.peer_errors,
        )

    def _accept(self, address: Multiaddr) -> ConnectionProtocol | None:
        return None if self._stopping else self._inbound.accept(address)

    # ConnectionDelegate

    def protocol_supported(self, connection: ConnectionProtocol, protocol: str) -> bool:
        return not self._stopping and self._serving.may_speak(protocol, admitted=connection.admitted)

    def stream_opened(self, stream: Stream) -> None:
        self._serving.stream_opened(self._links[stream.connection], stream)

    def connection_made(self, connection: ConnectionProtocol) -> None:
        if connection.inbound:
            self._inbound.made(connection)

    def connection_progressed(self, connection: ConnectionProtocol) -> None:
        self._inbound.progressed(connection)

    def connection_secured(self, connection: ConnectionProtocol) -> None:
        link = self._links[connection]
        peer = connection.peer_id
        link.peer = peer
        self.counters.secured += 1
        try:
            self._counts.secured(link.place, peer)
        except LimitExceeded as error:
            self.counters.refused[error.limit] += 1
            connection.close(error)
            return
        if self._stopping:
            connection.close()
            return
        self._pairs.secured(link, peer)
        if not connection.inbound:
            self._dialer.secured(link)
        self._gate.secured(link)
        if not connection.closed:
            self._identify.ask(link)

    def connection_closed(self, connection: ConnectionProtocol, error: ChorusError | None) -> None:
        link = self._links.pop(connection)
        self._gate.over(link)
        self._counts.leave(link.place)
        self.counters.closed[reason(error)] += 1
        if self._pairs.closed(link):
            self.peers.disconnected(connection.peer_id, self._reactor.seconds())
        self._watchers.leave(link)
        self._dialer.closed(link, error)
        if not self._links and self._emptied is not None:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    # Admitted

    def _admit(self, link: Link) -> None:
        connection, peer = link.connection, link.peer
        if connection.closed or link.admitted or peer is None or self._stopping:
            return
        if not self._inbound.established(link):
            return
        now = self._reactor.seconds()
        self._gate.over(link)
        link.admitted_at = now
        connection.mark_admitted()
        self.counters.admitted += 1
        self._starts.received(link)
        stays = self._pairs.admit(link, peer)
        if stays is not link:
            self._dialer.admitted(link, stays.connection)
            return
        self.peers.connected(peer, now)
        if link.address is not None:
            self.peers.reached(peer, link.address, now)
        self._dialer.admitted(link, connection)
        if link.identification is not None:
            self._keep(link)
        self._watchers.join(link)

    # Described, and the host's own streams

    def links(self) -> list[Link]:
        return list(self._links.values())

    def starts_for(self, connection: Connection) -> Mapping[str, bytes | None]:
        return self._starts.fields(connection)

    def learnt(self, link: Link, said: Identification) -> None:
        self.counters.identified += 1
        link.identification = said
        self._starts.received(link)
        if self._pairs.keeps(link):
            self._keep(link)
            self._watchers.join(link)

    def _admission_opened(self, stream: Stream) -> None:
        self._inbound.progressed(stream.connection)
        self._gate.opened(self._links[stream.connection], stream)

    def _push_opened(self, stream: Stream) -> None:
        self._identify.hear_push(self._links[stream.connection], stream)

    def _keep(self, link: Link) -> None:
        keep(link, self.peers, self.counters.identify_failed, self._reactor.seconds())

    def _protocols_changed(self) -> None:
        self._identify.forget()
        if self.running:
            self._identify.push_soon()

    # Time

    def _tick(self) -> None:
        now = self._reactor.seconds()
        self._scope.check_buffered()
        if now >= self._next_expiry:
            self._next_expiry = now + EXPIRE_INTERVAL
            self.peers.expire(now)
        self._ping.ping_due(self._pairs.all_kept(), now)


def _perf_opened(stream: Stream) -> None:
    perf.PerfResponder(stream)
