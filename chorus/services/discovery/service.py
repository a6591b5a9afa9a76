"""Finds members and stays connected: contacts, remembered members, mDNS, /chorus/peers/1.0.0 (spec/cluster.md).

Every peer worth a connection is a target of `services/discovery/bootstrap.py`; one timer dials those that are due.
Members that were admitted once are remembered across restarts in `peers.json`, which is a hint and no truth: damaged,
it is ignored.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus import strictjson
from chorus.errors import ChorusError, PeerError
from chorus.files import DataDirectoryError, read_private, write_private
from chorus.identity import Identity, PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols import peers
from chorus.protocols.envelope import EnvelopeError, PeerRecord
from chorus.protocols.stream import Connection, Host, ProtocolOptions, Stream
from chorus.protocols.streamio import StreamIO
from chorus.services.discovery.bootstrap import (
    MAX_ADDRESSES,
    MAX_DIALS,
    MAX_MEMBERS,
    Source,
    Target,
    Targets,
    join_stagger,
)

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from chorus.seams import JSON

MEMORY = "peers.json"
MAX_MEMORY = 2 * 1024 * 1024
"""Bytes: `MAX_MEMBERS` with a record and addresses each."""
SAVE_AFTER = 5.0
"""Seconds from a change to the write that remembers it."""
WANTED_CONNECTIONS = 64
"""Connections above which nobody is dialled any more; peers still may dial this node."""
ASK_FIRST = 2.0
ASK_EVERY = 60.0
"""Seconds between questions to a random member for others, give or take a quarter: after a start soon, then doubling.
Two that join at the same moment ask before the member they join can tell either of the other."""
ASK_TIMEOUT = 10.0
MDNS_RETRY = 60.0
"""Seconds; a machine may get its network later than its services."""
ALONE_FIRST = 15.0
ALONE_MAX = 900.0
"""Seconds without any peer, though contacts are configured, until that is said again, doubling."""
MAX_ASKING = 2
"""Inbound questions of one peer at the same time."""

MdnsFactory = Callable[[bytes, Callable[[PeerId, tuple[Multiaddr, ...]], None]], Any]
"""(cluster id, found) → a service; `services/discovery/mdns.py` behind it."""
InThread = Callable[[Callable[[], None]], Deferred[None]]


def _at_once(call: Callable[[], None]) -> Deferred[None]:
    return maybeDeferred(call)


class DiscoveryService(Service):
    """`contacts` end in `/p2p/…`. `memory` is the file of remembered members, `None` for none.

    `make_mdns` is called with the cluster id once `cluster_known` says it; leave it out to do without mDNS. `wall_ns`
    gives the date for this node's record, in nanoseconds. `in_thread` runs a blocking call off the reactor.
    """

    _log = Logger()

    def __init__(
        self,
        host: Host,
        identity: Identity,
        clock: IReactorTime,
        *,
        rng: random.Random,
        wall_ns: Callable[[], int],
        contacts: Sequence[Multiaddr] = (),
        join_stagger_ms: int = 0,
        memory: Path | None = None,
        make_mdns: MdnsFactory | None = None,
        wanted_connections: int = WANTED_CONNECTIONS,
        exchange_peers: bool = True,
        in_thread: InThread = _at_once,
    ) -> None:
        self._host = host
        self._identity = identity
        self._clock = clock
        self._rng = rng
        self._wall_ns = wall_ns
        self._contacts = tuple(contacts)
        self._join_stagger_ms = join_stagger_ms
        self._memory = memory
        self._make_mdns = make_mdns
        self._wanted = wanted_connections
        self._exchange_peers = exchange_peers
        self._in_thread = in_thread
        self._mdns: Any = None
        self._watching = False
        self._has_joined = False
        """Members were met here once, also before a restart."""
        self._ask_wait = ASK_FIRST
        self._alone_since: float | None = None
        self._alone_wait = ALONE_FIRST
        self._alone_due = 0.0
        self._own_record: tuple[list[Multiaddr], bytes] | None = None
        self._dials: set[Deferred[Connection]] = set()
        self._questions: set[Deferred[None]] = set()
        self._dial_timer: IDelayedCall | None = None
        self._ask_timer: IDelayedCall | None = None
        self._save_timer: IDelayedCall | None = None
        self._mdns_timer: IDelayedCall | None = None
        self._saving: Deferred[None] = succeed(None)
        self.targets = Targets(identity.peer_id, rng)
        self.counters: Counter[str] = Counter()
        """dials, dial_failures, heard_mdns, heard_peers, peers_asked, peers_answered."""

    # Life

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        now = self._clock.seconds()
        delay = join_stagger(self._join_stagger_ms, self._rng)
        # It is written as soon as there is a member to remember, and stays when that one is forgotten.
        self._has_joined = self._has_joined or (self._memory is not None and self._memory.exists())
        for peer, addresses in self._remembered():
            self.targets.add(peer, addresses, Source.MEMBER, now, delay=delay)
        for address in self._contacts:
            peer_id = address.peer_id()
            if peer_id is not None:
                known = self.targets.get(peer_id)
                configured = known.configured if known is not None else ()
                self.targets.add(peer_id, (*configured, address), Source.CONTACT, now, delay=delay)
        if self._exchange_peers:
            self._host.register(peers.PROTOCOL, self._asked, ProtocolOptions(max_inbound_per_peer=MAX_ASKING))
        if not self._watching:
            # A host's watchers stay; `running` decides.
            self._watching = True
            self._host.watch_peers(self._joined, self._left)
        for connection in self._host.connections():
            self._joined(connection)
        self._ask_wait = ASK_FIRST
        self._ask_later()
        self._schedule()

    def stopService(self) -> Deferred[None]:
        """Fires once dials are given up, mDNS has said goodbye and what is remembered has been written."""
        super().stopService()  # type: ignore[no-untyped-call]
        for timer in (self._dial_timer, self._ask_timer, self._mdns_timer):
            if timer is not None and timer.active():
                timer.cancel()
        if self._exchange_peers:
            self._host.unregister(peers.PROTOCOL)
        for dial in list(self._dials):
            dial.cancel()
        for question in list(self._questions):
            question.cancel()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        mdns, self._mdns = self._mdns, None
        if mdns is not None:
            try:
                await maybeDeferred(mdns.stopService)
            except Exception:
                self._log.failure("mDNS failed to stop")
        if self._save_timer is not None and self._save_timer.active():
            self._save_timer.cancel()
            self._save()
        await self._saving

    def cluster_known(self, cluster_id: bytes) -> None:
        """The node belongs to this cluster: mDNS can start. What goes wrong there is logged; discovery goes on."""
        if self._make_mdns is None or self._mdns is not None or not self.running:
            return
        self._mdns = self._make_mdns(cluster_id, self._heard_by_mdns)
        starting: Deferred[None] = maybeDeferred(self._mdns.startService)
        starting.addErrback(self._without_mdns, cluster_id)

    def _without_mdns(self, failure: Failure, cluster_id: bytes) -> None:
        tell = self._log.debug if self._mdns_timer is not None else self._log.warn
        tell("no mDNS yet, tried again every {wait} s: {error}", wait=MDNS_RETRY, error=failure.value)
        if self._mdns is not None and self.running:
            self._mdns = None
            self._mdns_timer = self._clock.callLater(MDNS_RETRY, self.cluster_known, cluster_id)

    @property
    def alone(self) -> str | None:
        """While nobody is connected: what that means, and what refuses; one line."""
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
        if self._dial_timer is not None and self._dial_timer.active():
            self._dial_timer.cancel()
        due = self.targets.next_due() if self.running and self._room() > 0 else None
        if due is not None:
            self._dial_timer = self._clock.callLater(max(0.0, due - self._clock.seconds()), self._dial_due)

    def _room(self) -> int:
        dialling = self.targets.dialling
        return min(self._wanted - self.targets.connected - dialling, MAX_DIALS - dialling)

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
        if not self.running:
            self.targets.settle(target.peer, self._clock.seconds())
        elif not isinstance(result, Failure):
            # Members are those that the host announces, which it does once they are identified too.
            self.targets.settle(target.peer, self._clock.seconds())
            self._schedule()
        else:
            self.counters["dial_failures"] += 1
            self.targets.failed(target.peer, self._clock.seconds(), str(result.value))
            tell = self._log.info if target.source is Source.CONTACT and target.failures == 1 else self._log.debug
            wait = round(target.due - self._clock.seconds(), 1)
            tell("{error}; tried again in {wait} s", error=result.value, wait=wait, peer=target.peer)
            if target.source is Source.CONTACT:
                self._alone(result.value)
            self._schedule()

    def _alone(self, error: object) -> None:
        """A contact does not answer. While nobody at all is connected that is said again, in longer and longer
        intervals: the node looks healthy, and does nothing."""
        if self._host.connections():
            return
        now = self._clock.seconds()
        if self._alone_since is None:
            self._alone_since, self._alone_wait, self._alone_due = now, ALONE_FIRST, now + ALONE_FIRST
        elif now >= self._alone_due:
            self._alone_wait = min(2 * self._alone_wait, ALONE_MAX)
            self._alone_due = now + self._alone_wait
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
        self._save_later()
        self._schedule()
        if self._can_ask(connection):
            self._ask(connection)

    def _can_ask(self, connection: Connection) -> bool:
        return self._exchange_peers and peers.PROTOCOL in self._host.protocols_of(connection.peer_id)

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
        if self.targets.add(peer, addresses, Source.HEARD, self._clock.seconds()):
            self._schedule()

    def record_of(self, peer: PeerId) -> bytes | None:
        """The newest signed record of a peer that is a member, to be passed on."""
        target = self.targets.get(peer)
        return target.record if target is not None and target.connected else None

    def exchanged(self, source: PeerId, peer: PeerId, envelope: bytes | None) -> None:
        """`source` pruned us and names `peer` instead. Only what its own signed record says is believed."""
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
        self._learn(record, envelope, connection)

    def _ask_later(self) -> None:
        self._ask_timer = self._clock.callLater(self._ask_wait * (0.75 + self._rng.random() / 2), self._ask_somebody)

    def _ask_somebody(self) -> None:
        able = [connection for connection in self._host.connections() if self._can_ask(connection)]
        if able and not self._questions:
            self._ask(self._rng.choice(able))
            self._ask_wait = min(2 * self._ask_wait, ASK_EVERY)
        self._ask_later()

    def _ask(self, connection: Connection) -> None:
        question = Deferred.fromCoroutine(self._question(connection))
        self._questions.add(question)

        def done(result: object) -> None:
            self._questions.discard(question)
            if isinstance(result, Failure):
                self._log.debug("{peer} told of no peers: {error}", peer=connection.peer_id, error=result.value)

        question.addBoth(done)

    async def _question(self, connection: Connection) -> None:
        self.counters["peers_asked"] += 1
        io = StreamIO(await connection.open_stream([peers.PROTOCOL]), self._clock, timeout=ASK_TIMEOUT)
        await io.write_delimited(peers.encode_request())
        io.write_eof()
        answer = peers.decode_answer(await io.read_delimited(peers.MAX_ANSWER))
        io.close()
        for record, envelope in answer:
            self._learn(record, envelope, connection)

    def _learn(self, record: PeerRecord, envelope: bytes, source: Connection) -> None:
        """A record is kept of the peer that told it and of members; of anybody else only where it might be reached."""
        if record.peer_id == self._identity.peer_id:
            return
        addresses = peers.believable(record.addresses, source.remote_address)
        target = self.targets.get(record.peer_id)
        if target is not None and target.source > Source.HEARD:
            if self.targets.record(record.peer_id, record.seq, addresses, envelope):
                self._save_later()
        elif record.peer_id != source.peer_id:
            self.counters["heard_peers"] += 1
            self._hear(record.peer_id, addresses)

    # Telling others

    def _asked(self, stream: Stream) -> None:
        answer = Deferred.fromCoroutine(self._answer(StreamIO(stream, self._clock, timeout=ASK_TIMEOUT)))

        def failed(failure: Failure) -> None:
            if isinstance(failure.value, ChorusError):
                self._log.debug("a question for peers failed: {error}", error=failure.value)
            else:
                self._log.failure("a question for peers was mishandled", failure)

        answer.addErrback(failed)

    async def _answer(self, io: StreamIO) -> None:
        try:
            limit = peers.decode_request(await io.read_delimited(peers.MAX_REQUEST))
        except ChorusError as error:
            # Also when the peer closes without a question: our direction would stay open.
            io.reset(error)
            raise
        asker = io.stream.connection.peer_id
        others = [
            target.record
            for target in self.targets.members()
            if target.record is not None and target.connected and target.peer != asker
        ]
        self.counters["peers_answered"] += 1
        await io.write_delimited(peers.encode_answer(self._record(), others, limit, self._rng))
        io.close()

    def _record(self) -> bytes:
        """This node's signed record, made anew when its addresses have changed."""
        addresses = self._host.listen_addresses()
        if self._own_record is None or self._own_record[0] != addresses:
            record = PeerRecord(self._identity.peer_id, self._wall_ns(), tuple(addresses[:MAX_ADDRESSES]))
            self._own_record = (addresses, record.seal(self._identity))
        return self._own_record[1]

    # Memory

    def _remembered(self) -> list[tuple[PeerId, list[Multiaddr]]]:
        if self._memory is None:
            return []
        try:
            encoded = read_private(self._memory, MAX_MEMORY)
            if encoded is None:
                return []
            rows = cast("Any", strictjson.loads(encoded, max_bytes=MAX_MEMORY))["peers"]
            return [
                (PeerId.parse(row["peer"]), [Multiaddr.parse(text) for text in row["addresses"]])
                for row in rows[-MAX_MEMBERS:]
            ]
        except (ChorusError, ValueError, KeyError, TypeError, AttributeError, DataDirectoryError) as error:
            self._log.warn("{file} is ignored: {error}", file=str(self._memory), error=error)
            return []

    def _save_later(self) -> None:
        if self._memory is not None and (self._save_timer is None or not self._save_timer.active()):
            self._save_timer = self._clock.callLater(SAVE_AFTER, self._save)

    def _save(self) -> None:
        memory = self._memory
        if memory is None:
            return
        rows: list[JSON] = [
            {"peer": str(target.peer), "addresses": [str(address) for address in target.addresses]}
            for target in self.targets.members()[-MAX_MEMBERS:]
            if target.addresses
        ]
        content = strictjson.canonical({"version": 1, "peers": rows})
        self._saving.addCallback(lambda _: self._in_thread(lambda: write_private(memory, content)))
        self._saving.addErrback(
            lambda failure: self._log.warn("members are not remembered: {error}", error=failure.value)
        )
