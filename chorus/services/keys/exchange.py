"""Shows this node's recipient to members and exchanges `roles.json` with them: /chorus/keys/1.0.0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus.bounded import Bounded
from chorus.errors import ChorusError, PeerError
from chorus.identity import PeerId
from chorus.protocols.keys import MAX_SHOW, PROTOCOL, KeyShow
from chorus.protocols.stream import Connection, Host, ProtocolOptions, Stream
from chorus.protocols.streamio import StreamIO
from chorus.security.roles import MAX_FILE, MAX_MEMBERS, Rank
from chorus.timer import Periodic

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

ASK_EVERY: Final = 60.0
"""Seconds between questions to one member after the other: whatever was missed is made up for by then."""
ASK_TIMEOUT: Final = 30.0
"""Seconds that one read or write may take: a whole `roles.json` over a slow line."""
MAX_ASKING: Final = 4
"""Inbound questions of one peer at the same time: it asks when it connects, and after each change."""
LIAR_S: Final = 60.0
"""Seconds for which a peer is not asked after it promised a newer `roles.json` and sent none that is valid."""


class KeysHolder(Interface):
    """The keys and roles of this node."""

    @property
    def cluster_id(self) -> bytes: ...

    def show(self) -> KeyShow:
        """This node's recipient, signed."""

    def roles_after(self, rank: Rank) -> bytes | None:
        """The newest `roles.json`, if its rank is over `rank`."""

    def shown(self, peer: PeerId, show: KeyShow) -> None:
        """What a member shows; its signature is verified."""

    def received(self, data: bytes) -> Deferred[None]:
        """A `roles.json` that a member sent. Fails with `BadRoles`."""


class KeyExchange:
    """Asks and answers from `start` to `stop`."""

    _log = Logger()

    def __init__(self, host: Host, clock: IReactorTime, holder: KeysHolder) -> None:
        self._host = host
        self._clock = clock
        self._holder = holder
        self._loop = Periodic(clock, "asking for roles", self._ask_next, lambda: ASK_EVERY)
        self._turn = 0
        self._running = False
        self._asking: dict[PeerId, Deferred[None]] = {}
        self._again: set[PeerId] = set()
        self._liars: Bounded[PeerId, float] = Bounded(MAX_MEMBERS)

    def start(self) -> None:
        self._running = True
        self._host.register(PROTOCOL, self._opened, ProtocolOptions(max_inbound_per_peer=MAX_ASKING))
        self._host.watch_peers(self.ask, lambda _: None)
        self._loop.start()

    def stop(self) -> None:
        if self._running:
            self._running = False
            self._loop.stop()
            self._host.unregister(PROTOCOL)
        for asking in list(self._asking.values()):
            asking.cancel()

    def announce(self) -> None:
        """Ask all members, which see from the question that there is something new."""
        for connection in self._host.connections():
            self.ask(connection)

    def _ask_next(self) -> None:
        connections = sorted(self._host.connections(), key=lambda each: each.peer_id)
        if connections:
            self._turn += 1
            self.ask(connections[self._turn % len(connections)])

    def ask(self, connection: Connection) -> None:
        """Ask that peer; once more after the question that is under way."""
        peer = connection.peer_id
        if not self._running:
            return
        if peer in self._asking:
            self._again.add(peer)
            return
        self._asking[peer] = asking = Deferred.fromCoroutine(self._question(connection))

        def done(result: object) -> None:
            self._asking.pop(peer, None)
            if isinstance(result, Failure):
                self._failed("a question for roles", peer, result)
            if peer in self._again:
                self._again.discard(peer)
                self.ask(connection)

        asking.addBoth(done)

    async def _question(self, connection: Connection) -> None:
        own = self._holder.show()
        io = StreamIO(await connection.open_stream([PROTOCOL]), self._clock, timeout=ASK_TIMEOUT)
        try:
            await io.write_delimited(own.encode())
            io.write_eof()
            show = await self._read_show(io)
            if show.rank > own.rank:
                await self._fetch(io, connection.peer_id)
        except ChorusError as error:
            io.reset(error)
            raise
        io.close()

    async def _fetch(self, io: StreamIO, peer: PeerId) -> None:
        try:
            await self._holder.received(await io.read_delimited(MAX_FILE))
        except PeerError:
            self._liars.put(peer, self._clock.seconds())
            raise
        self._liars.pop(peer, None)

    async def _read_show(self, io: StreamIO) -> KeyShow:
        peer = io.stream.connection.peer_id
        show = KeyShow.decode(await io.read_delimited(MAX_SHOW), peer, self._holder.cluster_id)
        self._holder.shown(peer, show)
        return show

    def _opened(self, stream: Stream) -> None:
        peer = stream.connection.peer_id
        answer = Deferred.fromCoroutine(self._answer(StreamIO(stream, self._clock, timeout=ASK_TIMEOUT)))
        answer.addErrback(lambda failure: self._failed("an answer about roles", peer, failure))

    async def _answer(self, io: StreamIO) -> None:
        try:
            show = await self._read_show(io)
            own, newer = self._holder.show(), self._holder.roles_after(show.rank)
            await io.write_delimited(own.encode())
            if newer is not None and own.rank > show.rank:
                await io.write_delimited(newer)
        except ChorusError as error:
            io.reset(error)
            raise
        io.close()
        if show.rank > own.rank and not self._lied(io.stream.connection.peer_id):
            self.ask(io.stream.connection)

    def _lied(self, peer: PeerId) -> bool:
        return self._clock.seconds() - self._liars.get(peer, -LIAR_S) < LIAR_S

    def _failed(self, what: str, peer: PeerId, failure: Failure) -> None:
        if isinstance(failure.value, ChorusError):
            self._log.debug("{what} failed, with {peer}: {error}", what=what, peer=peer, error=failure.value)
        elif self._running:
            self._log.failure("internal error in {what}", failure, what=what)
