"""Pub/sub: the GossipSub router on the host's streams, one heartbeat, and callbacks by topic."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chorus.errors import ChorusError, PeerError
from chorus.identity import PeerId
from chorus.protocols.gossip import GossipRouter
from chorus.protocols.gossipsub.events import Unfinished, Validation
from chorus.protocols.gossipsub.params import PROTOCOLS
from chorus.protocols.gossipsub.rpc import Exchanged
from chorus.protocols.gossipsub.sign import Signer, SigningKey, Verifier
from chorus.protocols.gossipsub.state import Sealing
from chorus.protocols.stream import ProtocolOptions
from chorus.services.pubsub.congestion import Congestion
from chorus.services.pubsub.counters import LinkCounters, counted
from chorus.services.pubsub.direct import DirectPeers
from chorus.services.pubsub.link import GoOn, RpcReader, RpcWriter
from chorus.services.pubsub.settings import PeerRecords, PubSubSettings
from chorus.services.pubsub.topics import Callback, ReceivedValidator, Topic, Topics
from chorus.services.pubsub.turns import TurnQueue
from chorus.timer import Periodic

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.protocols.stream import Connection, Host, Stream

MAX_INBOUND_PER_PEER: Final = 2
"""Streams of one peer: its own, and the one that replaces it while the old one ends."""


@attrs.define
class _Peer:
    link: RpcWriter
    inbound: RpcReader | None = None


class PubSubService(Service):
    """Subscribe and publish. Own messages are not delivered to the node itself.

    `rng` is the only chance in it; `first_seqno` gives a number above all that this identity has used: the Unix time in
    nanoseconds, where no clock is ever set back.
    """

    _log = Logger()

    def __init__(
        self,
        host: Host,
        identity: SigningKey,
        clock: IReactorTime,
        *,
        rng: random.Random,
        settings: PubSubSettings | None = None,
        exchange: PeerRecords | None = None,
        first_seqno: Callable[[], int] = time.time_ns,
    ) -> None:
        self.settings = settings = settings or PubSubSettings()
        self._exchange = exchange = exchange or PeerRecords()
        self._direct = DirectPeers(host, identity.peer_id, settings.direct)
        self.router = GossipRouter(
            identity.peer_id.raw,
            Sealing(Signer(identity).sign, Verifier().verify, lambda raw: exchange.record_of(PeerId(raw))),
            rng=rng,
            first_seqno=first_seqno(),
            params=settings.params,
            score_params=settings.scores,
            direct=self._direct.raw_ids(),
        )
        self._heartbeats = 0
        self._host = host
        self._clock = clock
        self._rng = rng
        self._counters = LinkCounters()
        self._peers: dict[bytes, _Peer] = {}
        self._waiting: dict[bytes, RpcReader] = {}
        """Streams of peers that the host has not announced yet."""
        self._connected: dict[bytes, Connection] = {}
        """Peers that the host has announced, whether they speak pub/sub or not."""
        self._topics = Topics(clock, self._validated)
        self._arrival_watchers: list[Callable[[PeerId, str], None]] = []
        self._beat = Periodic(clock, "the heartbeat", self._heartbeat, lambda: settings.params.heartbeat)
        self._turns = TurnQueue(clock)
        self._congestion = Congestion(clock, self.queued)
        self._watching = False

    # Service

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        options = ProtocolOptions(max_inbound_per_peer=MAX_INBOUND_PER_PEER)
        for protocol in PROTOCOLS:
            self._host.register(protocol, self._inbound_opened, options)
        if not self._watching:
            self._watching = True
            self._host.watch_peers(self._joined, self._left)
            self._direct.warn_of_own()
        for connection in self._host.connections():
            self._joined(connection)
        self._beat.start(self.settings.params.first_heartbeat)

    def stopService(self) -> None:
        """Close our streams and leave every topic; what was written still goes."""
        super().stopService()  # type: ignore[no-untyped-call]
        for protocol in PROTOCOLS:
            self._host.unregister(protocol)
        self._beat.stop()
        self._topics.cancel()
        self._direct.stop()
        for inbound in list(self._waiting.values()):
            inbound.stop()
        self.router.leave(self._clock.seconds())
        self._topics.clear()
        self.transmit()
        for raw in list(self._peers):
            self.drop(raw)
        self._connected.clear()
        self._congestion.release()

    # API

    def subscribe(
        self, topic: str, callback: Callback, validator: ReceivedValidator | None = None, *, waits: bool = False
    ) -> Callable[[], None]:
        """Call `callback` with each message of a topic, until the function that is returned is called. Raises
        `ValueError` for a topic over 256 bytes or empty.

        A message is delivered and forwarded when every validator of its topic accepts it; an exception in one counts
        as `Validation.IGNORE`, one in a callback is logged and the others are called. A validator may answer with a
        Deferred, if it was given as `waits`: `VALIDATION_LIMIT` seconds, `MAX_PENDING` messages.
        """
        entry = self._topics.get(topic) or Topic()
        entry.waits = entry.waits or waits
        self.router.subscribe(topic, self._clock.seconds(), self._topics.validate, waits=entry.waits)
        self._topics.enter(topic, entry)
        entry.callbacks.append(callback)
        if validator is not None:
            entry.validators.append(validator)
        self.transmit()
        active = True

        def unsubscribe() -> None:
            nonlocal active
            if not active:
                return
            active = False
            if self._topics.get(topic) is not entry:
                return
            entry.callbacks.remove(callback)
            if validator is not None:
                entry.validators.remove(validator)
            if not entry.callbacks:
                self._topics.leave(topic)
                self.router.unsubscribe(topic, self._clock.seconds())
                self.transmit()

        return unsubscribe

    def watch_arrivals(self, watcher: Callable[[PeerId, str], None]) -> None:
        """Call `watcher` for each connected peer that comes to a topic of ours (late joiners)."""
        self._arrival_watchers.append(watcher)

    def publish(self, topic: str, data: bytes) -> bytes:
        """Sign and send at once; returns the message id. A publisher of much waits for `ready` in between.

        Raises `MessageTooLarge` (about 64 KiB) and `ValueError` for a topic that peers would refuse.
        """
        message_id = self.router.publish(topic, data, self._clock.seconds())
        self.transmit()
        return message_id

    def ready(self) -> Deferred[None]:
        """Fires when no peer has more than `QUEUE_ROOM` bytes waiting, after `PUBLISH_WAIT` seconds at the latest."""
        return self._congestion.ready()

    def set_application_score(self, score: Callable[[bytes], float]) -> None:
        """P5 of a peer (its raw id), asked every second; 0 is neutral."""
        self.router.scores.application = score

    def seconds(self) -> float:
        """The steady clock that pub/sub runs on."""
        return float(self._clock.seconds())

    def is_connected(self, peer: PeerId) -> bool:
        """True if the peer is connected and speaks pub/sub."""
        return peer.raw in self._peers

    def mesh_of(self, topic: str) -> list[PeerId]:
        return [PeerId(raw) for raw in self.router.mesh(topic)]

    def peers(self) -> list[PeerId]:
        """Connected peers that speak pub/sub."""
        return [PeerId(raw) for raw in self._peers]

    def queued(self) -> list[int]:
        """Bytes that wait, for each peer."""
        return [peer.link.queue.size for peer in self._peers.values()]

    def counters(self) -> dict[str, int]:
        """Plain numbers since start, for metrics. `sent` and `received` are messages; `rejected` is over all reasons
        (see `router.counters.rejected`)."""
        links = [peer.link for peer in self._peers.values()]
        errors = self._topics.errors + self._beat.errors
        return counted(self.router.counters, self._counters, links, errors=errors)

    # Peers

    def _joined(self, connection: Connection) -> None:
        if not self.running:
            return
        raw = connection.peer_id.raw
        self._connected[raw] = connection
        known = self._peers.get(raw)
        if known is not None:
            if known.link.connection is not connection:
                known.link.move(connection)
            return
        inbound = self._waiting.pop(raw, None)
        spoken = self._host.protocols_of(connection.peer_id)
        opened = inbound.stream.protocol if inbound is not None else None
        protocol = next((name for name in PROTOCOLS if name in spoken), opened)
        if protocol is not None:
            self._add(connection, protocol)
        if inbound is not None:
            self._attach(raw, inbound)

    def _left(self, connection: Connection) -> None:
        raw = connection.peer_id.raw
        if self._connected.get(raw) is not connection:
            return
        del self._connected[raw]
        self.drop(raw)

    def _add(self, connection: Connection, protocol: str) -> None:
        raw = connection.peer_id.raw
        link = RpcWriter(connection, protocol, self, clock=self._clock, rng=self._rng)
        self._peers[raw] = _Peer(link)
        self.router.peer_joined(
            raw, protocol, outbound=not connection.inbound, group=self.settings.group(connection.remote_address)
        )
        self._direct.joined(connection.peer_id)
        self.transmit()
        link.open()

    def drop(self, raw: bytes) -> None:
        peer = self._peers.pop(raw, None)
        if peer is None:
            return
        self.router.peer_left(raw, self._clock.seconds())
        self._counters.add(peer.link)
        peer.link.stop()
        if peer.inbound is not None:
            peer.inbound.stop()
        self.drained()

    def drained(self) -> None:
        self._congestion.drained()

    def greet(self, raw: bytes) -> None:
        self.router.greet(raw, self._clock.seconds())
        self.transmit()

    # Streams

    def _inbound_opened(self, stream: Stream) -> None:
        if not self.running:
            stream.reset()
            return
        raw = stream.connection.peer_id.raw
        inbound = RpcReader(stream, self, clock=self._clock, turns=self._turns)
        if inbound.over:
            return
        connection = self._connected.get(raw)
        if connection is None:
            before, self._waiting[raw] = self._waiting.get(raw), inbound
            if before is not None:
                before.stop()
            return
        if raw not in self._peers:
            # Identify did not name the protocol when the peer joined, or the peer refused our stream before.
            self._add(connection, stream.protocol)
        self._attach(raw, inbound)

    def _attach(self, raw: bytes, inbound: RpcReader) -> None:
        """Read a peer's stream; a new one takes the place of the old one."""
        peer = self._peers.get(raw)
        if peer is None:
            inbound.stop()
            return
        before, peer.inbound = peer.inbound, inbound
        if before is not None:
            before.stop()
        inbound.release()

    def reader_closed(self, raw: bytes, reader: RpcReader) -> None:
        peer = self._peers.get(raw)
        if peer is not None and peer.inbound is reader:
            peer.inbound = None
        if self._waiting.get(raw) is reader:
            del self._waiting[raw]

    def reader_refused(self, raw: bytes, error: PeerError) -> None:
        self._counters.streams_refused += 1
        self._log.warn("pub/sub stream of {peer} reset: {reason}", peer=str(PeerId(raw)), reason=str(error))

    def receive(self, raw: bytes, rpc: bytes, now: float) -> GoOn | None:
        unfinished = self.router.begin(raw, rpc, now)
        self._dispatch()
        return None if unfinished is None else partial(self._go_on, raw, unfinished)

    def _go_on(self, raw: bytes, unfinished: Unfinished, now: float) -> bool:
        more = self.router.go_on(raw, unfinished, now)
        self._dispatch()
        return more

    def _dispatch(self) -> None:
        for delivery in self.router.take_deliveries():
            self._topics.deliver(delivery)
        for peer, topic in self.router.take_arrivals():
            self._arrived(PeerId(peer), topic)
        for source, exchanged in self.router.take_exchanged():
            self._exchanged(source, exchanged)

    def _exchanged(self, source: bytes, exchanged: Exchanged) -> None:
        try:
            peer = PeerId.from_bytes(exchanged.peer)
        except ChorusError:
            return
        try:
            self._exchange.take_up(PeerId(source), peer, exchanged.record)
        except Exception:
            self._counters.errors += 1
            self._log.failure("internal error in peer exchange with {peer}", peer=str(PeerId(source)))

    def _arrived(self, peer: PeerId, topic: str) -> None:
        for watcher in self._arrival_watchers:
            try:
                watcher(peer, topic)
            except Exception:
                self._counters.errors += 1
                self._log.failure("a watcher of topic {topic} failed", topic=topic)

    def _validated(self, message_id: bytes, verdict: Validation) -> None:
        self.router.validated(message_id, verdict, self._clock.seconds())
        self._dispatch()
        self.transmit()

    # Out

    def transmit(self) -> None:
        for raw, sends in self.router.take_sends().items():
            peer = self._peers.get(raw)
            if peer is not None:
                self._counters.sent += len(sends)
                peer.link.send(sends)

    def _heartbeat(self) -> None:
        now = self._clock.seconds()
        for peer in list(self._peers.values()):
            if peer.inbound is not None:
                peer.inbound.check(now)
        self.router.heartbeat(now)
        if self._heartbeats % self.settings.params.direct_ticks == 0:
            self._direct.dial(self.router.absent_direct_peers())
        self._heartbeats += 1
        self.transmit()
