"""Asks members for other members, and answers them: /chorus/peers/1.0.0 (spec/cluster.md)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus.backoff import Backoff
from chorus.errors import ChorusError
from chorus.identity import Identity, PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols import peers
from chorus.protocols.envelope import PeerRecord
from chorus.protocols.stream import Connection, Host, ProtocolOptions, Stream
from chorus.protocols.streamio import StreamIO
from chorus.services.discovery.bootstrap import MAX_ADDRESSES
from chorus.timer import Periodic

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

ASK_EVERY = 60.0
ASK = Backoff(2.0, ASK_EVERY, low=0.75, high=1.25)
"""Between questions to a random member for others: after a start soon, then doubling. Two that join at the same moment
ask before the member they join can tell either of the other."""
ASK_TIMEOUT = 10.0
MAX_ASKING = 2
"""Inbound questions of one peer at the same time."""


class Members(Interface):
    """The members that discovery knows."""

    counters: Counter[str]

    def records(self, asker: PeerId) -> list[bytes]:
        """Signed records of those that are connected, for one of them."""

    def learn(self, record: PeerRecord, envelope: bytes, source: Connection) -> None:
        """Take in a verified record of any peer, which `source` sent."""


class MemberExchange:
    """Asks and answers from `start` to `stop`. `wall_ns` gives the date for this node's record, in nanoseconds."""

    _log = Logger()

    def __init__(
        self,
        host: Host,
        identity: Identity,
        clock: IReactorTime,
        members: Members,
        *,
        rng: random.Random,
        wall_ns: Callable[[], int],
    ) -> None:
        self._host = host
        self._identity = identity
        self._clock = clock
        self._members = members
        self._rng = rng
        self._wall_ns = wall_ns
        self._own_record: tuple[list[Multiaddr], bytes] | None = None
        self._asked = 1
        self._loop = Periodic(clock, "asking for peers", self._ask_somebody, lambda: ASK.delay(self._asked, rng))
        self.questions: set[Deferred[None]] = set()

    def start(self) -> None:
        self._host.register(peers.PROTOCOL, self._opened, ProtocolOptions(max_inbound_per_peer=MAX_ASKING))
        self._asked = 1
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop()
        self._host.unregister(peers.PROTOCOL)
        for question in list(self.questions):
            question.cancel()

    # Asking

    def ask(self, connection: Connection) -> None:
        """Ask that peer, if it takes questions."""
        if not self._can_ask(connection):
            return
        question = Deferred.fromCoroutine(self._question(connection))
        self.questions.add(question)

        def done(result: object) -> None:
            self.questions.discard(question)
            if isinstance(result, Failure):
                self._log.debug("{peer} named no peers: {error}", peer=connection.peer_id, error=result.value)

        question.addBoth(done)

    def _can_ask(self, connection: Connection) -> bool:
        return peers.PROTOCOL in self._host.protocols_of(connection.peer_id)

    def _ask_somebody(self) -> None:
        able = [connection for connection in self._host.connections() if self._can_ask(connection)]
        if able and not self.questions:
            self.ask(self._rng.choice(able))
            self._asked += 1

    async def _question(self, connection: Connection) -> None:
        self._members.counters["peers_asked"] += 1
        io = StreamIO(await connection.open_stream([peers.PROTOCOL]), self._clock, timeout=ASK_TIMEOUT)
        await io.write_delimited(peers.encode_request())
        io.write_eof()
        answer = peers.decode_answer(await io.read_delimited(peers.MAX_ANSWER))
        io.close()
        for record, envelope in answer:
            self._members.learn(record, envelope, connection)

    # Answering

    def _opened(self, stream: Stream) -> None:
        answer = Deferred.fromCoroutine(self._answer(StreamIO(stream, self._clock, timeout=ASK_TIMEOUT)))

        def failed(failure: Failure) -> None:
            if isinstance(failure.value, ChorusError):
                self._log.debug("a question for peers failed: {error}", error=failure.value)
            else:
                self._log.failure("internal error in a question for peers", failure)

        answer.addErrback(failed)

    async def _answer(self, io: StreamIO) -> None:
        try:
            limit = peers.decode_request(await io.read_delimited(peers.MAX_REQUEST))
        except ChorusError as error:
            # Also when the peer closes without a question: our direction would stay open.
            io.reset(error)
            raise
        others = self._members.records(io.stream.connection.peer_id)
        self._members.counters["peers_answered"] += 1
        await io.write_delimited(peers.encode_answer(self._record(), others, limit, self._rng))
        io.close()

    def _record(self) -> bytes:
        """This node's signed record, made anew when its addresses have changed."""
        addresses = self._host.listen_addresses()
        if self._own_record is None or self._own_record[0] != addresses:
            record = PeerRecord(self._identity.peer_id, self._wall_ns(), tuple(addresses[:MAX_ADDRESSES]))
            self._own_record = (addresses, record.seal(self._identity))
        return self._own_record[1]
