"""Answers requests of other peers: bounded in requests a stream and a second, one at a time on each stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus.errors import ChorusError, LocalError
from chorus.identity import PeerId, PeerIdError
from chorus.protocols.delimited import DelimitedDecoder, delimit
from chorus.protocols.kad.messages import Contact, KadMessage, KadRecord, RequestKind, decode_request, encode
from chorus.protocols.kad.params import (
    MAX_CONTACTS,
    MAX_MESSAGE,
    MAX_REQUESTS_A_STREAM,
    REQUESTS_A_SECOND,
    REQUESTS_AT_ONCE,
    STREAM_IDLE_S,
)
from chorus.protocols.kad.serving import COSTS, KadServer, provider_of
from chorus.protocols.stream import ProtocolOptions
from chorus.timer import Periodic

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.protocols.stream import Connection, Host, Stream
    from chorus.services.dht.held import HeldRecords
    from chorus.services.dht.ports import Provider
    from chorus.services.dht.servers import KnownServers
    from chorus.store.dht import HeldRecord

MAX_INBOUND = 16
"""Streams of one peer; twice as many as we open to one."""
IDLE_LOOK_S = 10.0
"""Between two looks for idle streams."""


class KadServing:
    """Serves the table's protocol from `start` to `stop`. `stored` is called with the key of each record that a peer
    stored here."""

    _log = Logger()

    def __init__(
        self,
        host: Host,
        clock: IReactorTime,
        servers: KnownServers,
        held: HeldRecords,
        stored: Callable[[bytes], None],
    ) -> None:
        self.on = False
        self._host = host
        self._clock = clock
        self._servers = servers
        self._held = held
        self._stored = stored
        self._server = KadServer(Contact(host.peer_id), servers.table, held.namespaces)
        self._streams: set[ServedStream] = set()
        self._rates: dict[PeerId, float] = {}
        """When the burst of a peer will be whole again, in seconds of the clock."""
        self._variant = 0
        self._trimming = Periodic(clock, "closing idle streams of the DHT", self.trim, lambda: IDLE_LOOK_S)

    def start(self) -> None:
        self.on = True
        self._trimming.start()
        self._host.register(self._servers.protocol, self._opened, ProtocolOptions(max_inbound_per_peer=MAX_INBOUND))

    def stop(self) -> None:
        self.on = False
        self._trimming.stop()
        self._host.unregister(self._servers.protocol)
        for stream in list(self._streams):
            stream.end(None)

    def _opened(self, stream: Stream) -> None:
        ServedStream(stream, self._clock, self, self._streams)

    def trim(self) -> None:
        """Close idle streams and forget full rates."""
        now = self._clock.seconds()
        for stream in list(self._streams):
            if stream.used_at + STREAM_IDLE_S <= now:
                stream.end(None)
        self._rates = {peer: whole for peer, whole in self._rates.items() if whole > now}

    def delay(self, peer: PeerId, cost: int = 1) -> float:
        """Count a request; seconds that it has to wait."""
        now = self._clock.seconds()
        whole = max(now, self._rates.get(peer, now)) + cost / REQUESTS_A_SECOND
        self._rates[peer] = whole
        return max(0.0, whole - now - REQUESTS_AT_ONCE / REQUESTS_A_SECOND)

    # Replies

    def reply(self, raw: bytes, connection: Connection) -> bytes | Deferred[bytes]:
        """The encoded reply to an encoded request; empty where there is none. Raises or fails with a `ChorusError`."""
        request = decode_request(raw)
        server = self._server
        server.check(request)
        sender, kind = connection.peer_id, request.kind
        # What it costs besides, the next one waits for.
        self.delay(sender, COSTS.get(kind, 1) - 1)
        if kind is RequestKind.FIND_NODE:
            return self._encoded(server.reply(request, sender, target=self._target(request.key)))
        if kind is RequestKind.PING:
            return self._encoded(request)
        if kind is RequestKind.GET_VALUE:
            found = self._held.at_hand(request.key)
            if found is not None:
                return self._encoded(server.reply(request, sender, held=self._record(found)))
        return Deferred.fromCoroutine(self._later(request, connection))

    async def _later(self, request: KadMessage, connection: Connection) -> bytes:
        server, sender, key = self._server, connection.peer_id, request.key
        if request.kind is RequestKind.GET_VALUE:
            record = self._record(await self._held.get(key))
            return self._encoded(server.reply(request, sender, held=record))
        if request.kind is RequestKind.GET_PROVIDERS:
            held = await self._held.providers(key, MAX_CONTACTS)
            return self._encoded(server.reply(request, sender, providers=[self._provider(each) for each in held]))
        if request.record is not None and request.kind is RequestKind.PUT_VALUE:
            await self._held.put(key, request.record.value, sender, request.record.publisher)
            self._stored(key)
            return self._encoded(request)
        announced = provider_of(request, sender, connection.remote_address)
        if announced is not None:
            await self._held.provide(key, announced.addresses, sender)
        return b""

    def _encoded(self, reply: KadMessage | None) -> bytes:
        return b"" if reply is None else encode(reply)

    def _record(self, found: list[HeldRecord]) -> KadRecord | None:
        """Of several variants each in turn: both sides of a fork are to be seen."""
        if not found:
            return None
        self._variant += 1
        chosen = found[self._variant % len(found)]
        return KadRecord(chosen.key, chosen.value)

    def _target(self, key: bytes) -> Contact | None:
        try:
            peer = PeerId.from_bytes(key)
        except PeerIdError:
            return None
        known = self._servers.table.contact(peer)
        if known is None and self._host.connection(peer) is not None:
            known = self._servers.contact(peer)
        return known

    def _provider(self, found: Provider) -> Contact:
        """With the addresses that it announced, else those that are known here."""
        if found.peer == self._host.peer_id:
            return Contact(found.peer, tuple(self._host.listen_addresses()))
        return Contact(found.peer, found.addresses) if found.addresses else self._servers.contact(found.peer)


class ServedStream:
    """Receiver of one stream that a peer opened: a request, our reply, the next one."""

    _log = Logger()

    def __init__(self, stream: Stream, clock: IReactorTime, serving: KadServing, open_ones: set[ServedStream]) -> None:
        self.used_at = clock.seconds()
        self._stream = stream
        self._clock = clock
        self._serving = serving
        self._open = open_ones
        self._decoder = DelimitedDecoder(MAX_MESSAGE)
        self._requests = 0
        self._busy = False
        """A request waits for its turn, or its reply for the store."""
        self._serving_on = False
        """The loop of `_next` runs: a reply that is there at once goes on in it, and takes no deeper stack."""
        self._blocked = False
        """The peer does not read its replies."""
        self._paused = False
        self._ended = False
        self._over = False
        open_ones.add(self)
        stream.set_receiver(self)

    # StreamReceiver

    def data_received(self, data: bytes) -> None:
        self._decoder.feed(data)
        if self._busy or self._blocked:
            # What else the peer sends stays with it.
            self._paused = True
            self._stream.pause_reading()
        else:
            self._next()

    def eof_received(self) -> None:
        self._ended = True
        if not self._busy:
            self.end(None)

    def stream_closed(self, error: ChorusError | None) -> None:
        self._over = True
        self._open.discard(self)

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self._next()

    # One after another

    def _next(self) -> None:
        """Serve what has arrived, until something has to be waited for."""
        if self._serving_on:
            return
        self._serving_on = True
        try:
            while not (self._busy or self._blocked or self._over):
                message = self._decoder.next_message()
                if message is not None:
                    self._take(message)
                elif self._paused:
                    self._paused = False
                    self._stream.resume_reading()
                else:
                    break
        except ChorusError as error:
            self.end(error)
            return
        finally:
            self._serving_on = False
        if self._ended and not (self._busy or self._over):
            self.end(None)

    def _take(self, message: bytes) -> None:
        self._requests += 1
        self.used_at = self._clock.seconds()
        delay = self._serving.delay(self._stream.connection.peer_id)
        if delay > 0:
            self._busy = True
            self._clock.callLater(delay, self._delayed, message)
        else:
            self._serve(message)

    def _delayed(self, message: bytes) -> None:
        if self._over:
            return
        self._busy = False
        try:
            self._serve(message)
        except ChorusError as error:
            self.end(error)
        else:
            self._next()

    def _serve(self, message: bytes) -> None:
        reply = self._serving.reply(message, self._stream.connection)
        if isinstance(reply, Deferred):
            self._busy = True
            reply.addCallbacks(self._replied, self._refused)
        else:
            self._send(reply)

    def _replied(self, reply: bytes) -> None:
        self._busy = False
        if not self._over:
            self._send(reply)
            self._next()

    def _refused(self, failure: Failure) -> None:
        error = failure.value
        if not isinstance(error, ChorusError):
            self._log.failure("internal error in serving a request", failure)
            error = LocalError("an internal error")
        self.end(error)

    def _send(self, reply: bytes) -> None:
        if reply:
            self._stream.write(delimit(reply))
        if self._requests >= MAX_REQUESTS_A_STREAM:
            self.end(None)

    def end(self, error: ChorusError | None) -> None:
        """Close the stream, or reset it for an error."""
        if self._over:
            return
        self._over = True
        self._open.discard(self)
        if error is None:
            self._stream.close()
        else:
            self._stream.reset(error)
