"""Finds members and stays connected: contacts, remembered members, mDNS, /chorus/peers/1.0.0 (spec/cluster.md).

Every peer worth a connection is a target of `services/discovery/bootstrap.py`; one timer dials those that are due.
Members that were admitted once are remembered across restarts in `peers.json`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus.backoff import Backoff
from chorus.errors import PeerError
from chorus.identity import Identity, PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols import peers
from chorus.protocols.envelope import EnvelopeError, PeerRecord
from chorus.protocols.stream import Connection, Host
from chorus.services.discovery.bootstrap import MAX_DIALS, PeerSource, PeerTargets, Target, join_stagger
from chorus.services.discovery.exchange import MemberExchange
from chorus.services.discovery.memory import MemberMemory
from chorus.services.discovery.settings import DiscoverySettings
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

MDNS_RETRY = 60.0
"""Seconds; a machine may get its network later than its services."""
ALONE = Backoff(15.0, 900.0)
"""Without any peer, though contacts are configured, until that is logged again."""


class DiscoveryService(Service):
    """`wall_ns` gives the date for this node's record, in nanoseconds."""

    _log = Logger()

    def __init__(
        self,
        host: Host,
        identity: Identity,
        clock: IReactorTime,
        *,
        rng: random.Random,
        wall_ns: Callable[[], int],
        settings: DiscoverySettings | None = None,
    ) -> None:
        self._settings = settings = settings or DiscoverySettings()
        self._host = host
        self._clock = clock
        self._rng = rng
        self.targets = PeerTargets(identity.peer_id, rng)
        self.counters: Counter[str] = Counter()
        """dials, dial_failures, heard_mdns, heard_peers, peers_asked, peers_answered."""
        self._own = identity.peer_id
        self._memory = MemberMemory(settings.memory, clock, settings.in_thread, self.targets.members)
        self._exchange = (
            MemberExchange(host, identity, clock, self, rng=rng, wall_ns=wall_ns) if settings.exchange_peers else None
        )
        self._cluster_id = b""
        self._mdns: Any = None
        self._mdns_warned = False
        self._mdns_retry = Timer(clock, lambda: self.cluster_known(self._cluster_id))
        self._watching = False
        self._has_joined = False
        """Members were met here once, also before a restart."""
        self._alone_since: float | None = None
        self._alone_told = 0
        self._alone_due = 0.0
        self._dials: set[Deferred[Connection]] = set()
        self._dial_timer = Timer(clock, self._dial_due)

    # Life

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        now = self._clock.seconds()
        delay = join_stagger(self._settings.join_stagger_ms, self._rng)
        self._has_joined = self._has_joined or self._memory.exists()
        for peer, addresses in self._memory.load():
            self.targets.add(peer, addresses, PeerSource.MEMBER, now, delay=delay)
        for address in self._settings.contacts:
            peer_id = address.peer_id()
            if peer_id is not None:
                known = self.targets.get(peer_id)
                configured = known.configured if known is not None else ()
                self.targets.add(peer_id, (*configured, address), PeerSource.CONTACT, now, delay=delay)
        if self._exchange is not None:
            self._exchange.start()
        if not self._watching:
            # A host's watchers stay; `running` decides.
            self._watching = True
            self._host.watch_peers(self._joined, self._left)
        for connection in self._host.connections():
            self._joined(connection)
        self._schedule()

    def stopService(self) -> Deferred[None]:
        """Fires once dials are given up, mDNS has said goodbye and what is remembered has been written."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._dial_timer.cancel()
        self._mdns_retry.cancel()
        for dial in list(self._dials):
            dial.cancel()
        if self._exchange is not None:
            self._exchange.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        mdns, self._mdns = self._mdns, None
        if mdns is not None:
            try:
                await maybeDeferred(mdns.stopService)
            except Exception:
                self._log.failure("mDNS failed to stop")
        await self._memory.stop()

    def cluster_known(self, cluster_id: bytes) -> None:
        """The node belongs to this cluster: mDNS can start. Its errors are logged; discovery goes on."""
        make = self._settings.make_mdns
        if make is None or self._mdns is not None or not self.running:
            return
        self._cluster_id = cluster_id
        self._mdns = make(cluster_id, self._heard_by_mdns)
        starting: Deferred[None] = maybeDeferred(self._mdns.startService)
        starting.addErrback(self._without_mdns)

    def _without_mdns(self, failure: Failure) -> None:
        log = self._log.debug if self._mdns_warned else self._log.warn
        log("no mDNS yet, tried again every {wait} s: {error}", wait=MDNS_RETRY, error=failure.value)
        if self._mdns is not None and self.running:
            self._mdns = None
            self._mdns_warned = True
            self._mdns_retry.arm(MDNS_RETRY)

    @property
    def alone(self) -> str | None:
        """One line on why no peer is connected, and what refused this node; None while one is."""
        if self._host.connections():
            return None
        joined = self._has_joined
        said = "no member of the cluster is connected" if joined else "this node has not joined its cluster yet"
        why = self.targets.last_error()
        return f"{said}: {why}" if why else said

    # Dialling

    def _schedule(self) -> None:
        """Arm the one dial timer for the next target that is due; without room, the end of a dial or of a connection
        comes here again."""
        self._dial_timer.cancel()
        due = self.targets.next_due() if self.running and self._room() > 0 else None
        if due is not None:
            self._dial_timer.arm(due - self._clock.seconds())

    def _room(self) -> int:
        dialling = self.targets.dialling
        return min(self._settings.wanted_connections - self.targets.connected - dialling, MAX_DIALS - dialling)

    def _dial_due(self) -> None:
        for target in self.targets.take_due(self._clock.seconds(), self._room()):
            self._dial(target)
        self._schedule()

    def _dial(self, target: Target) -> None:
        self.counters["dials"] += 1
        dial = self._host.dial(target.peer, target.addresses)
        self._dials.add(dial)
        dial.addBoth(self._dialled, target, dial)

    def _dialled(self, result: object, target: Target, dial: Deferred[Connection]) -> None:
        self._dials.discard(dial)
        now = self._clock.seconds()
        if isinstance(result, Failure) and self.running:
            self.counters["dial_failures"] += 1
            self.targets.failed(target.peer, now, str(result.value))
            contact = target.source is PeerSource.CONTACT
            log = self._log.info if contact and target.failures == 1 else self._log.debug
            wait = round(target.due - now, 1)
            log("{error}; tried again in {wait} s", error=result.value, wait=wait, peer=target.peer)
            if contact:
                self._alone(result.value)
        else:
            # Members are those that the host announces, which it does once they are identified too.
            self.targets.settle(target.peer, now)
        self._schedule()

    def _alone(self, error: object) -> None:
        """A contact does not answer. While nobody at all is connected that is logged again, in longer and longer
        intervals: the node looks healthy, and does nothing."""
        if self._host.connections():
            return
        now = self._clock.seconds()
        if self._alone_since is None:
            self._alone_since, self._alone_told, self._alone_due = now, 1, now + ALONE.first
        elif now >= self._alone_due:
            self._alone_told += 1
            self._alone_due = now + ALONE.ceiling(self._alone_told)
            self._log.warn(
                "no peer is connected for {seconds} s now, and contacts are still dialled: {error}",
                seconds=round(now - self._alone_since),
                error=error,
                event="peer.none",
            )

    def _joined(self, connection: Connection) -> None:
        if not self.running:
            return
        self._alone_since = None
        self._has_joined = True
        self.targets.admitted(connection.peer_id, None if connection.inbound else connection.remote_address)
        self._memory.save_later()
        self._schedule()
        if self._exchange is not None:
            self._exchange.ask(connection)

    def _left(self, connection: Connection) -> None:
        if self.running and self._host.connection(connection.peer_id) is None:
            self.targets.lost(connection.peer_id, self._clock.seconds())
            self._schedule()

    # Hearing of others

    def _heard_by_mdns(self, peer: PeerId, addresses: tuple[Multiaddr, ...]) -> None:
        if self.running:
            self.counters["heard_mdns"] += 1
            self._hear(peer, addresses)

    def _hear(self, peer: PeerId, addresses: tuple[Multiaddr, ...]) -> None:
        if self.targets.add(peer, addresses, PeerSource.HEARD, self._clock.seconds()):
            self._schedule()

    def record_of(self, peer: PeerId) -> bytes | None:
        """The newest signed record of a peer that is a member, to be passed on."""
        target = self.targets.get(peer)
        return target.record if target is not None and target.connected else None

    def exchanged(self, source: PeerId, peer: PeerId, envelope: bytes | None) -> None:
        """`source` pruned us and names `peer` instead. Only its own signed record is believed."""
        connection = self._host.connection(source)
        if envelope is None or connection is None or not self.running:
            self.counters["exchange_passed_over"] += 1
            return
        try:
            record = PeerRecord.open(envelope)
            if record.peer_id != peer:
                raise EnvelopeError(f"the record is of {record.peer_id}, not of {peer}")
        except PeerError as error:
            self.counters["exchange_refused"] += 1
            self._log.debug("{peer} exchanged a bad record: {error}", peer=source, error=error)
            return
        self.counters["heard_exchange"] += 1
        self.learn(record, envelope, connection)

    # Members

    def records(self, asker: PeerId) -> list[bytes]:
        return [
            target.record
            for target in self.targets.members()
            if target.record is not None and target.connected and target.peer != asker
        ]

    def learn(self, record: PeerRecord, envelope: bytes, source: Connection) -> None:
        """Keep a record of members and of the peer that sent it; of others only addresses that may be reachable."""
        if record.peer_id == self._own:
            return
        addresses = peers.believable(record.addresses, source.remote_address)
        target = self.targets.get(record.peer_id)
        if target is not None and target.source > PeerSource.HEARD:
            if self.targets.record(record.peer_id, record.seq, addresses, envelope):
                self._memory.save_later()
        elif record.peer_id != source.peer_id:
            self.counters["heard_peers"] += 1
            self._hear(record.peer_id, addresses)
