"""identify on every connection: asked, answered, and pushed when it changes (spec/wire.md 9); records of admitted peers
go into the peer store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from typing import Protocol as Interface

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
from chorus.services.p2p.link import Link
from chorus.services.p2p.reasons import reason
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

PUSH_DELAY = 0.2
"""Seconds that changes are collected before they are pushed: protocols come and go in groups."""


class IdentifySilent(PeerError):
    """The peer did not identify itself in time."""

    code = "identify_timeout"


class _Deaf:
    """Receiver of a stream that only we write to."""

    def data_received(self, data: bytes) -> None:
        """Nothing is expected; what comes is dropped, and the stream is closed."""

    def eof_received(self) -> None:
        """The peer has nothing to say."""

    def stream_closed(self, error: ChorusError | None) -> None:
        """The peer can ask again for what did not arrive."""

    def pause_writing(self) -> None:
        """One message fits any window."""

    def resume_writing(self) -> None:
        """Nothing waits."""


_DEAF = _Deaf()


class Described(Interface):
    """The node that identify describes, and that wants to know the others."""

    def listen_addresses(self) -> list[Multiaddr]: ...

    def protocols(self) -> list[str]: ...

    def links(self) -> list[Link]:
        """All connections that are open now."""

    def starts_for(self, connection: Connection) -> Mapping[str, bytes | None]:
        """Records that the connection gets besides (`identify.with_observed`)."""

    def learnt(self, link: Link, said: Identification) -> None:
        """An answer or a push; an empty one of a peer that does not speak identify."""


class IdentifyService:
    """Answers for `node`, and asks each peer once a connection. A peer that breaks the rules is closed; `failed` counts
    by the error's code. `wall_ns` is Unix time, for the sequence number of our signed record."""

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        identity: Identity,
        node: Described,
        *,
        agent_version: str,
        failed: Counter[str],
        wall_ns: Callable[[], int],
    ) -> None:
        self._clock = clock
        self._identity = identity
        self._node = node
        self._agent_version = agent_version
        self._failed = failed
        self._wall_ns = wall_ns
        self._message: bytes | None = None
        self._record: tuple[tuple[Multiaddr, ...], bytes] | None = None
        self._push_later = Timer(clock, self._push)

    # Telling

    def message(self) -> bytes:
        if self._message is None:
            addresses = tuple(self._node.listen_addresses())
            self._message = identify.build(
                self._identity.public_key,
                addresses,
                self._node.protocols(),
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
        starts = self._node.starts_for(connection)
        stream.write(identify.with_observed(self.message(), connection.remote_address, **starts))
        stream.close()

    def forget(self) -> None:
        """The message is out of date; it is made anew when it is asked for."""
        self._message = None

    def push_soon(self) -> None:
        """Tell all peers what has changed."""
        if not self._push_later.armed:
            self._push_later.arm(PUSH_DELAY)

    def stop(self) -> None:
        self._push_later.cancel()

    def _push(self) -> None:
        for link in self._node.links():
            self.push(link)

    def push(self, link: Link) -> None:
        """Tell that peer now; nothing for one that does not take it."""
        said = link.identification
        if said is not None and identify.PUSH_PROTOCOL in said.protocols and not link.connection.closed:
            link.connection.open_stream([identify.PUSH_PROTOCOL]).addCallbacks(self.answer, self._not_pushed)

    def _not_pushed(self, failure: Failure) -> None:
        failure.trap(ChorusError)  # type: ignore[no-untyped-call]
        self._log.debug("identify was not pushed: {error}", error=failure.getErrorMessage())

    # Asking

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
            self._node.learnt(link, said)

    def hear_push(self, link: Link, stream: Stream) -> None:
        """Serve `/ipfs/id/push/1.0.0`."""
        Deferred.fromCoroutine(self._hear_push(link, stream)).addErrback(self._bug)

    async def _hear_push(self, link: Link, stream: Stream) -> None:
        io = StreamIO(stream, self._clock, timeout=identify.TIMEOUT)
        try:
            said = await identify.read(io, link.connection.peer_id)
        except ChorusError as error:
            if not isinstance(error, StreamClosed) and not link.connection.closed:
                self._not_identified(link, error)
            return
        io.close()
        if link.connection.closed:
            return
        known = link.identification
        self._node.learnt(link, said if known is None else known.changed_by(said))

    def _not_identified(self, link: Link, error: ChorusError) -> None:
        """A peer that does not speak identify may stay; one that breaks its rules may not."""
        self._failed[reason(error)] += 1
        if isinstance(error, ProtocolNotSupported):
            self._node.learnt(link, Identification())
        elif isinstance(error, PeerError):
            link.connection.close(error)
        else:
            link.connection.close(IdentifySilent(f"identify failed: {error}"))

    def _bug(self, failure: Failure) -> None:
        self._log.failure("internal error in identify", failure)


def keep(link: Link, peers: PeerStore, failed: Counter[str], now: float) -> None:
    """Store the identification of an admitted peer; a bad record of its own is counted in `failed`."""
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
