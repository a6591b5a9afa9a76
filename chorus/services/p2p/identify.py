"""identify on every connection: ours is asked for, the peer's is asked for, changes are pushed (spec/wire.md 9); what
admitted peers said of themselves goes into the peer store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus.errors import ChorusError, PeerError
from chorus.identity import Identity
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols import identify
from chorus.protocols.envelope import PeerRecord
from chorus.protocols.identify import Identification
from chorus.protocols.peerstore import PeerStore
from chorus.protocols.stream import Connection, ProtocolNotSupported, Stream, StreamClosed
from chorus.protocols.streamio import StreamIO
from chorus.services.p2p.link import Link, reason

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

PUSH_DELAY = 0.2
"""Seconds that changes are collected before they are pushed: protocols come and go in groups."""


class IdentifySilent(PeerError):
    """The peer did not say who it is in time."""

    code = "identify_timeout"


class _Deaf:
    """Receiver of a stream that only we write to."""

    def data_received(self, data: bytes) -> None:
        """Nothing is expected; what comes is dropped, and the stream is closed."""

    def eof_received(self) -> None:
        """The peer has nothing to say."""

    def stream_closed(self, error: ChorusError | None) -> None:
        """Whatever did not arrive is the peer's loss."""

    def pause_writing(self) -> None:
        """One message fits any window."""

    def resume_writing(self) -> None:
        """Nothing waits."""


_DEAF = _Deaf()


class IdentifyService:
    """Answers with what the node says of itself, and asks each peer once a connection.

    `learnt` is called with each answer and push, and with an empty one for a peer that does not speak identify. Whoever
    breaks its rules is closed; `failed` counts by the error's code. `wall_ns` is Unix time, for the sequence number of
    our signed record; `starts` are the records that a connection is told besides (`identify.with_observed`).
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        identity: Identity,
        *,
        agent_version: str,
        addresses: Callable[[], Sequence[Multiaddr]],
        protocols: Callable[[], Sequence[str]],
        learnt: Callable[[Link, Identification], None],
        failed: Counter[str],
        wall_ns: Callable[[], int],
        starts: Callable[[Connection], Mapping[str, bytes | None]] = lambda _: {},
    ) -> None:
        self._clock = clock
        self._identity = identity
        self._agent_version = agent_version
        self._addresses = addresses
        self._protocols = protocols
        self._learnt = learnt
        self._failed = failed
        self._wall_ns = wall_ns
        self._starts = starts
        self._message: bytes | None = None
        self._record: tuple[tuple[Multiaddr, ...], bytes] | None = None
        self._timer: IDelayedCall | None = None
        self._push_to: Callable[[], Sequence[Link]] = list

    # Saying

    def message(self) -> bytes:
        if self._message is None:
            addresses = tuple(self._addresses())
            self._message = identify.build(
                self._identity.public_key,
                addresses,
                self._protocols(),
                agent_version=self._agent_version,
                signed_record=self.signed_record(addresses),
                room=identify.OBSERVED_ROOM + identify.START_ROOM,
            )
        return self._message

    def signed_record(self, addresses: tuple[Multiaddr, ...]) -> bytes:
        """Our peer record; made anew, with a later sequence number, when the addresses have changed."""
        if self._record is None or self._record[0] != addresses:
            record = PeerRecord(self._identity.peer_id, self._wall_ns(), addresses[: identify.MAX_ADDRESSES])
            self._record = (addresses, record.seal(self._identity))
        return self._record[1]

    def answer(self, stream: Stream) -> None:
        """Serve `/ipfs/id/1.0.0`."""
        stream.set_receiver(_DEAF)
        connection = stream.connection
        stream.write(identify.with_observed(self.message(), connection.remote_address, **self._starts(connection)))
        stream.close()

    def forget(self) -> None:
        """What was to be said is no longer true; it is made anew when it is asked for."""
        self._message = None

    def push_soon(self, links: Callable[[], Sequence[Link]]) -> None:
        """Tell the peers of `links()` what has changed."""
        self._push_to = links
        if self._timer is None:
            self._timer = self._clock.callLater(PUSH_DELAY, self._push)

    def stop(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _push(self) -> None:
        self._timer = None
        for link in self._push_to():
            self.push(link)

    def push(self, link: Link) -> None:
        """Tell that peer now; nothing for one that does not take it."""
        said = link.identification
        if said is not None and identify.PUSH_PROTOCOL in said.protocols and not link.connection.closed:
            link.connection.open_stream([identify.PUSH_PROTOCOL]).addCallbacks(self.answer, self._not_pushed)

    def _not_pushed(self, failure: Failure) -> None:
        failure.trap(ChorusError)  # type: ignore[no-untyped-call]
        self._log.debug("identify was not pushed: {error}", error=failure.getErrorMessage())

    # Hearing

    def ask(self, link: Link) -> None:
        """Ask the peer of a connection that has just been secured."""
        Deferred.fromCoroutine(self._ask(link)).addErrback(self._bug)

    async def _ask(self, link: Link) -> None:
        try:
            stream = await link.connection.open_stream([identify.PROTOCOL])
            io = StreamIO(stream, self._clock, timeout=identify.TIMEOUT)
            io.write_eof()
            said = await identify.read(io, link.connection.peer_id)
        except ChorusError as error:
            if not link.connection.closed:
                self._not_identified(link, error)
            return
        io.close()
        if not link.connection.closed:
            self._learnt(link, said)

    def hear_push(self, link: Link, stream: Stream) -> None:
        """Serve `/ipfs/id/push/1.0.0`."""
        Deferred.fromCoroutine(self._hear_push(link, stream)).addErrback(self._bug)

    async def _hear_push(self, link: Link, stream: Stream) -> None:
        io = StreamIO(stream, self._clock, timeout=identify.TIMEOUT)
        try:
            said = await identify.read(io, link.connection.peer_id)
        except StreamClosed:
            return
        except ChorusError as error:
            if not link.connection.closed:
                self._not_identified(link, error)
            return
        io.close()
        if link.connection.closed:
            return
        known = link.identification
        self._learnt(link, said if known is None else known.changed_by(said))

    def _not_identified(self, link: Link, error: ChorusError) -> None:
        """A peer that does not speak identify may stay; one that breaks its rules may not."""
        self._failed[reason(error)] += 1
        if isinstance(error, ProtocolNotSupported):
            self._learnt(link, Identification())
        elif isinstance(error, PeerError):
            link.connection.close(error)
        else:
            link.connection.close(IdentifySilent(f"identify failed: {error}"))

    def _bug(self, failure: Failure) -> None:
        self._log.failure("identify failed here", failure)


def keep(link: Link, peers: PeerStore, failed: Counter[str], now: float) -> None:
    """Store what an admitted peer said of itself; a record of its own that is none is counted in `failed`."""
    said, peer = link.identification, link.peer
    assert said is not None and peer is not None
    source = link.connection.remote_address
    peers.identified(peer, said, source=source, now=now)
    if said.signed_record is None:
        return
    try:
        record = PeerRecord.open(said.signed_record, any_key=True)
    except PeerError as error:
        failed[error.code] += 1
        return
    if record.peer_id != peer:
        failed["record_of_another"] += 1
        return
    peers.learn_record(peer, record.seq, record.addresses, said.signed_record, source=source, now=now)
