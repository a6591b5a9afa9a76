"""The host: listener, dialer, and every connection between them. Implements `Host` of `protocols/stream.py`.

A connection's life: TCP → Noise and muxer → identify and admission at once → admitted → all other protocols. Until it
is admitted only identify, ping and admission are served on it; in open mode nothing but identify, ping, perf, meshsub
and kad ever is. A pair keeps one connection.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus import __version__
from chorus.errors import ChorusError, LimitExceeded, PeerError
from chorus.identity import Identity, PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols import identify, perf, ping
from chorus.protocols.connection import ConnectionLimits, ConnectionProtocol
from chorus.protocols.connection_core import MakeHandshake
from chorus.protocols.dialing import Backoffs, DialError, newcomer_stays
from chorus.protocols.envelope import PeerRecord
from chorus.protocols.identify import Identification
from chorus.protocols.limits import ConnectionCounts, HostLimits, Place
from chorus.protocols.noise import NoiseHandshake
from chorus.protocols.peerstore import PeerStore
from chorus.protocols.stream import (
    Connection,
    ProtocolNotSupported,
    ProtocolOptions,
    Stream,
    StreamClosed,
    StreamOpened,
)
from chorus.protocols.streamio import StreamIO
from chorus.services.p2p_dialer import Dialer
from chorus.services.p2p_gate import Admission, Gate, OpenAdmission, allowed_in_open_mode
from chorus.services.p2p_identify import IdentifyService
from chorus.services.p2p_link import Link, P2PCounters, reason
from chorus.services.p2p_listener import Listener, reachable

if TYPE_CHECKING:
    from chorus.protocols.muxed_stream import MuxedStream

PING_INTERVAL = 30.0
EXPIRE_INTERVAL = 60.0
TICK = 1.0
"""Seconds between looks at what is due."""
SEEK_TTL = 3600.0
"""Seconds that a peer which was dialled stays of interest."""
DRAIN = 1.0
"""Seconds that streams have to end when the node stops, after GoAway."""

__all__ = ["Admission", "OpenAdmission", "P2PService"]


class IdentifySilent(PeerError):
    """The peer did not say who it is in time."""

    code = "identify_timeout"


@attrs.frozen
class _Served:
    opened: StreamOpened
    options: ProtocolOptions


class P2PService(Service):
    """`listen` are addresses of plain TCP, loopback unless told otherwise; `announce` replaces them for others.

    `reactor` is IReactorTCP and IReactorTime; `random_bytes` gives nonces; `rng` is chance that need not be secret.
    `security` makes the handshake of each connection: Noise, but in simulations.
    `startService` raises `CannotListen`. Cancel a Deferred of `dial` to give it up.
    """

    _log = Logger()
    name = "p2p"

    def __init__(
        self,
        reactor: Any,
        identity: Identity,
        *,
        admission: Admission,
        listen: Sequence[Multiaddr] = (Multiaddr.tcp("127.0.0.1", 0),),
        announce: Sequence[Multiaddr] = (),
        open_mode: bool = False,
        limits: HostLimits | None = None,
        connection_limits: ConnectionLimits | None = None,
        rng: random.Random | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
        wall_ns: Callable[[], int] = time.time_ns,
        agent_version: str = f"chorus/{__version__}",
        security: MakeHandshake = NoiseHandshake,
    ) -> None:
        if open_mode != (admission.protocol == ""):
            raise ValueError("open mode is the only one without admission")
        self.counters = P2PCounters()
        self.peers = PeerStore()
        self.open_mode = open_mode
        self.limits = limits or HostLimits()
        self._reactor = reactor
        self._identity = identity
        self._gate = Gate(reactor, admission, self._admit, self.counters.admission_failed)
        self._announce = list(announce)
        self._connection_limits = connection_limits
        self._security = security
        self._rng = rng or random.Random()
        self._random_bytes = random_bytes
        self._counts = ConnectionCounts(self.limits)
        self._links: dict[Connection, Link] = {}
        self._admitted: dict[PeerId, Link] = {}
        self._settling: dict[PeerId, int] = {}
        """Secured connections of each peer that are not admitted yet."""
        self._serving: dict[str, _Served] = {}
        self._watchers: list[tuple[Callable[[Connection], None], Callable[[Connection], None]]] = []
        self._streams = 0
        """At least as many as are open; see `_count_stream`."""
        self._stopping = False
        self._emptied: Deferred[None] | None = None
        self._next_expiry = 0.0
        self._listeners = [Listener(reactor, address, self._accept) for address in listen]
        self._dialer = Dialer(
            reactor,
            reactor,
            _DialerSide(self),
            self.limits,
            Backoffs(self._rng),
            self.counters.tcp,
        )
        self._identify = IdentifyService(
            reactor,
            identity,
            agent_version=agent_version,
            addresses=self.listen_addresses,
            protocols=self.protocols,
            learnt=self._learnt,
            failed=self._not_identified,
            wall_ns=wall_ns,
        )
        self._loop = LoopingCall(self._tick)
        self._loop.clock = reactor
        self._register_own()

    def _register_own(self) -> None:
        early = ProtocolOptions(needs_admission=False, max_inbound_per_peer=4)
        self.register(identify.PROTOCOL, self._identify.answer, early)
        self.register(identify.PUSH_PROTOCOL, self._push_opened, early)
        self.register(ping.PROTOCOL, _ping_opened, ProtocolOptions(False, ping.MAX_INBOUND))
        if self.open_mode:
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
        self._loop.start(TICK, now=False)

    def stopService(self) -> Deferred[None]:
        """No new connections or streams, then GoAway, then whatever streams still have to send, for a second."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._stopping = True
        if self._loop.running:
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
        for link in list(self._links.values()):
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
        return list(self._announce) or reachable([listener.address for listener in self._listeners])

    def bound_addresses(self) -> list[Multiaddr]:
        """Where the sockets listen, with their real ports."""
        return [listener.address for listener in self._listeners]

    def register(self, protocol: str, opened: StreamOpened, options: ProtocolOptions) -> None:
        if self.open_mode and not allowed_in_open_mode(protocol):
            self._log.debug("{protocol} is not served in open mode", protocol=protocol)
            return
        self._serving[protocol] = _Served(opened, options)
        self._protocols_changed()

    def unregister(self, protocol: str) -> None:
        if self._serving.pop(protocol, None) is not None:
            self._protocols_changed()

    def protocols(self) -> list[str]:
        return list(self._serving)

    def connections(self) -> list[Connection]:
        return [link.connection for link in self._admitted.values()]

    def connection(self, peer: PeerId) -> Connection | None:
        link = self._admitted.get(peer)
        return link.connection if link is not None else None

    def protocols_of(self, peer: PeerId) -> frozenset[str]:
        link = self._admitted.get(peer)
        return link.identification.protocols if link is not None and link.identification is not None else frozenset()

    def latency(self, peer: PeerId) -> float | None:
        """Seconds of the last ping, `None` before the first."""
        link = self._admitted.get(peer)
        return link.latency if link is not None else None

    def agent_version_of(self, peer: PeerId) -> str | None:
        link = self._admitted.get(peer)
        return link.identification.agent_version if link is not None and link.identification is not None else None

    def signed_record(self) -> bytes:
        """Our own peer record, as an envelope."""
        return self._identify.signed_record(tuple(self.listen_addresses()))

    def dial(self, peer: PeerId | None, addresses: Sequence[Multiaddr]) -> Deferred[Connection]:
        if self._stopping or not self.running:
            return fail(DialError(peer, [(address, "the node is not running") for address in addresses]))
        if peer is None:
            named = {address.peer_id() for address in addresses}
            peer = named.pop() if len(named) == 1 else None
        if peer is None:
            return self._dialer.dial(None, addresses)
        if peer == self.peer_id:
            return fail(DialError(peer, [(address, "this is the node itself") for address in addresses]))
        link = self._admitted.get(peer)
        if link is not None and not link.connection.closed:
            return succeed(link.connection)
        now = self._reactor.seconds()
        self.peers.seek(peer, now + SEEK_TTL, now)
        told = self.peers.addresses(peer, now)
        return self._dialer.dial(peer, addresses, told, told_by_public=self.peers.told_by_public(peer))

    def open_stream(self, peer: PeerId, protocols: Sequence[str]) -> Deferred[Stream]:
        link = self._admitted.get(peer)
        if link is None or link.connection.closed:
            return fail(StreamClosed(f"there is no connection to {peer}"))
        return link.connection.open_stream(protocols)

    def watch_peers(self, joined: Callable[[Connection], None], left: Callable[[Connection], None]) -> None:
        self._watchers.append((joined, left))
        for link in list(self._admitted.values()):
            if link.announced:
                self._tell(joined, link)

    def ping(self, peer: PeerId) -> Deferred[float]:
        """One round trip of the ping protocol, in seconds; fails with `StreamClosed`, `StreamTimeout`, …"""
        return Deferred.fromCoroutine(self._ping(peer))

    # Making connections

    def _connection(self, address: Multiaddr, expected: PeerId | None, *, initiator: bool) -> ConnectionProtocol:
        return ConnectionProtocol(
            identity=self._identity,
            initiator=initiator,
            expected_peer=expected,
            remote_address=address,
            clock=self._reactor,
            delegate=self,
            limits=self._connection_limits,
            security=self._security,
            counters=self.counters.peer_errors,
        )

    def _accept(self, address: Multiaddr) -> ConnectionProtocol | None:
        if self._stopping:
            return None
        try:
            place = self._counts.enter(address, inbound=True)
        except LimitExceeded as error:
            self.counters.refused[error.limit] += 1
            return None
        self.counters.accepted += 1
        connection = self._connection(address, None, initiator=False)
        self._links[connection] = Link(connection, place)
        return connection

    # ConnectionDelegate

    def protocol_supported(self, connection: ConnectionProtocol, protocol: str) -> bool:
        served = self._serving.get(protocol)
        return served is not None and not self._stopping and (connection.admitted or not served.options.needs_admission)

    def stream_opened(self, stream: Stream) -> None:
        link = self._links[stream.connection]
        served = self._serving.get(stream.protocol)
        if served is None:
            stream.reset(ProtocolNotSupported(stream.protocol))
            return
        try:
            self._count_stream(link, cast("MuxedStream", stream), served.options.max_inbound_per_peer)
        except LimitExceeded as error:
            self.counters.streams_refused[error.limit] += 1
            stream.reset(error)
            self._refused_stream(link)
            return
        served.opened(stream)

    def _refused_stream(self, link: Link) -> None:
        try:
            link.count_refused(self._reactor.seconds())
        except LimitExceeded as error:
            link.connection.close(error)

    def _count_stream(self, link: Link, stream: MuxedStream, per_protocol: int) -> None:
        """Counting up is cheap, so streams that ended are only looked for when the count seems too high."""
        self._streams += 1
        if self._streams > self.limits.max_streams:
            self._streams = sum(other.connection.streams for other in self._links.values() if other.peer is not None)
            if self._streams > self.limits.max_streams:
                raise LimitExceeded("streams", self._streams, self.limits.max_streams)
        link.count_stream(stream, per_protocol, self.limits.max_inbound_streams_per_peer)

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
        link.settling = True
        self._settling[peer] = self._settling.get(peer, 0) + 1
        if not connection.inbound:
            self._dialer.secured(link)
        self._gate.secured(link)
        if not connection.closed:
            self._identify.ask(link)

    def connection_closed(self, connection: ConnectionProtocol, error: ChorusError | None) -> None:
        link = self._links.pop(connection)
        link.cancel_admission_timer()
        self._counts.leave(link.place)
        self.counters.closed[reason(error)] += 1
        self._settled(link)
        if link.peer is not None and self._admitted.get(link.peer) is link:
            del self._admitted[link.peer]
            self.peers.disconnected(link.peer, self._reactor.seconds())
        self._leave(link)
        self._dialer.closed(link, error)
        if not self._links and self._emptied is not None:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    # Admitted

    def _admit(self, link: Link) -> None:
        connection, peer = link.connection, link.peer
        if connection.closed or link.admitted or peer is None or self._stopping:
            return
        now = self._reactor.seconds()
        link.cancel_admission_timer()
        link.admitted_at = now
        connection.mark_admitted()
        self.counters.admitted += 1
        self._counts.established(link.place)
        self._settled(link)
        existing = self._admitted.get(peer)
        if existing is not None:
            alive = not existing.connection.closed
            if alive and not newcomer_stays(self.peer_id, peer, existing.contender(), link.contender()):
                self._supersede(link)
                self._dialer.admitted(link, existing.connection)
                return
            self._supersede(existing)
        self._admitted[peer] = link
        self.peers.connected(peer, now)
        if link.address is not None:
            self.peers.reached(peer, link.address, now)
        self._dialer.admitted(link, connection)
        if link.identification is not None:
            self._keep(link)
        self._join(link)

    def _supersede(self, link: Link) -> None:
        """Another connection takes its place. Watchers hear that it left before they hear of the other."""
        self._leave(link)
        if not link.connection.closed:
            self.counters.superseded += 1
            link.connection.close()

    def _settled(self, link: Link) -> None:
        peer = link.peer
        if not link.settling or peer is None:
            return
        link.settling = False
        left = self._settling[peer] - 1
        if left:
            self._settling[peer] = left
        else:
            del self._settling[peer]

    # Identify

    def _admission_opened(self, stream: Stream) -> None:
        self._gate.opened(self._links[stream.connection], stream)

    def _push_opened(self, stream: Stream) -> None:
        self._identify.hear_push(self._links[stream.connection], stream)

    def _learnt(self, link: Link, said: Identification) -> None:
        self.counters.identified += 1
        link.identification = said
        if link.admitted and self._admitted.get(cast(PeerId, link.peer)) is link:
            self._keep(link)
            self._join(link)

    def _not_identified(self, link: Link, error: ChorusError) -> None:
        """A peer that does not speak identify may stay; one that breaks its rules may not."""
        self.counters.identify_failed[reason(error)] += 1
        if isinstance(error, ProtocolNotSupported):
            self._learnt(link, Identification())
        elif isinstance(error, PeerError):
            link.connection.close(error)
        else:
            link.connection.close(IdentifySilent(f"identify failed: {error}"))

    def _keep(self, link: Link) -> None:
        """What an admitted peer said of itself, into the peer store."""
        said, peer = link.identification, link.peer
        assert said is not None and peer is not None
        now = self._reactor.seconds()
        source = link.connection.remote_address
        self.peers.identified(peer, said, source=source, now=now)
        if said.signed_record is None:
            return
        try:
            record = PeerRecord.open(said.signed_record)
        except PeerError as error:
            self.counters.identify_failed[error.code] += 1
            return
        if record.peer_id != peer:
            self.counters.identify_failed["record_of_another"] += 1
            return
        self.peers.learn_record(peer, record.seq, record.addresses, said.signed_record, source=source, now=now)

    def _protocols_changed(self) -> None:
        self._identify.forget()
        if self.running:
            self._identify.push_soon(lambda: list(self._links.values()))

    # Watchers

    def _join(self, link: Link) -> None:
        if link.announced or link.identification is None:
            return
        link.announced = True
        for joined, _ in self._watchers:
            self._tell(joined, link)

    def _leave(self, link: Link) -> None:
        if not link.announced:
            return
        link.announced = False
        for _, left in self._watchers:
            self._tell(left, link)

    def _tell(self, watcher: Callable[[Connection], None], link: Link) -> None:
        try:
            watcher(link.connection)
        except Exception:
            self._log.failure("a watcher of peers failed")

    # Time

    def _tick(self) -> None:
        now = self._reactor.seconds()
        try:
            self._check_buffered()
            if now >= self._next_expiry:
                self._next_expiry = now + EXPIRE_INTERVAL
                self.peers.expire(now)
            for peer, link in self._admitted.items():
                if link.announced and now >= link.next_ping:
                    # Spread, so that a thousand peers are not asked in one turn.
                    link.next_ping = now + PING_INTERVAL * (0.75 + self._rng.random() / 2)
                    if ping.PROTOCOL in self.protocols_of(peer):
                        self.ping(peer).addErrback(self._not_pinged)
        except Exception:
            self._log.failure("the host's periodic work failed")

    def _check_buffered(self) -> None:
        secured = [link for link in self._links.values() if link.peer is not None and not link.connection.closed]
        held = {link: link.connection.buffered for link in secured}
        total, limit = sum(held.values()), self.limits.max_buffered
        if total <= limit:
            return
        for link in sorted(held, key=lambda link: held[link], reverse=True):
            link.connection.close(LimitExceeded("buffered", total, limit))
            total -= held[link]
            if total <= limit:
                return

    def _not_pinged(self, failure: Failure) -> None:
        """The multiplexer's keepalive decides about the connection; a ping only measures."""
        failure.trap(ChorusError)  # type: ignore[no-untyped-call]

    async def _ping(self, peer: PeerId) -> float:
        stream = await self.open_stream(peer, [ping.PROTOCOL])
        io = StreamIO(stream, self._reactor, timeout=ping.TIMEOUT)
        seconds = await ping.ping(io, self._reactor, self._random_bytes)
        io.close()
        link = self._links.get(stream.connection)
        if link is not None:
            link.latency = seconds
        return seconds


class _DialerSide:
    """`Dials`: the part of the host that its dialer sees."""

    def __init__(self, host: P2PService) -> None:
        self._host = host

    @property
    def peer_id(self) -> PeerId:
        return self._host.peer_id

    def enter(self, address: Multiaddr) -> Place:
        return self._host._counts.enter(address, inbound=False)

    def leave(self, place: Place) -> None:
        self._host._counts.leave(place)

    def outbound(self, address: Multiaddr, expected: PeerId | None, place: Place) -> Link:
        connection = self._host._connection(address, expected, initiator=True)
        link = Link(connection, place, address)
        self._host._links[connection] = link
        return link

    def settling(self, peer: PeerId) -> bool:
        return peer in self._host._settling


def _ping_opened(stream: Stream) -> None:
    ping.PingResponder(stream)


def _perf_opened(stream: Stream) -> None:
    perf.PerfResponder(stream)
