"""Admission of connections: runs `/chorus/admission/1.0.0` at either end (spec/cluster.md)."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chorus.errors import ChorusError, PeerError
from chorus.identity import PeerId
from chorus.protocols.admission import (
    MAX_HELLO,
    PROTOCOL,
    TIME_LIMIT,
    AdmissionTimeout,
    Exchange,
    Failures,
    Unanswered,
    slowness,
)
from chorus.protocols.stream import Connection, Stream, StreamClosed
from chorus.protocols.streamio import StreamIO, StreamTimeout

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime


class Cluster(Protocol):
    """`services/cluster.py`, as admission needs it."""

    @property
    def cluster_id(self) -> bytes | None: ...

    @property
    def secret(self) -> bytes: ...

    def meet(self, theirs: bytes) -> None:
        """Raises `PeerError` when the two do not belong together."""


class AdmissionService:
    """`Admission` of the host: `dialer` on the dialling side, `serve` for the stream at the listening side.

    `counters` counts outcomes: `admitted`, and failures by their code.
    """

    _log = Logger()
    protocol = PROTOCOL

    def __init__(self, own: PeerId, cluster: Cluster, clock: IReactorTime) -> None:
        self._own = own
        self._cluster = cluster
        self._clock = clock
        self._failures = Failures()
        self.counters: Counter[str] = Counter()

    def dialer(self, connection: Connection) -> Deferred[None]:
        """Fires once the listener has proved itself too; fails with `AdmissionError`, `WrongCluster`, …"""
        return Deferred.fromCoroutine(self._counted(connection, self._dial(connection)))

    def serve(self, stream: Stream) -> Deferred[None]:
        """Fires once the dialer has proved itself and the answer is on its way."""
        return Deferred.fromCoroutine(self._counted(stream.connection, self._listen(stream)))

    async def _dial(self, connection: Connection) -> None:
        started = self._clock.seconds()
        exchange = self._exchange(connection, dialer=True)
        io = StreamIO(await connection.open_stream([PROTOCOL]), self._clock, timeout=TIME_LIMIT)
        try:
            await io.write_delimited(exchange.hello(self._cluster.cluster_id or b""))
            answer = await io.read_delimited(MAX_HELLO, timeout=self._left(started))
        except StreamClosed as error:
            raise Unanswered from error
        self._cluster.meet(exchange.check(answer))
        io.close()

    async def _listen(self, stream: Stream) -> None:
        started = self._clock.seconds()
        connection = stream.connection
        io = StreamIO(stream, self._clock, timeout=TIME_LIMIT)
        address = _address(connection)
        try:
            hello = await io.read_delimited(MAX_HELLO)
            await self._slow_down(address)
            exchange = self._exchange(connection, dialer=False)
            theirs = exchange.check(hello)
        except PeerError:
            self._failures.record(address, self._clock.seconds())
            raise
        self._cluster.meet(theirs)
        await io.write_delimited(exchange.hello(self._cluster.cluster_id or b""), timeout=self._left(started))
        io.close()

    def _exchange(self, connection: Connection, *, dialer: bool) -> Exchange:
        return Exchange(self._cluster.secret, dialer, connection.handshake_hash, self._own, connection.peer_id)

    def _left(self, started: float) -> float:
        return max(0.0, started + TIME_LIMIT - self._clock.seconds())

    async def _slow_down(self, address: str) -> None:
        seconds = slowness(self._failures.count(address, self._clock.seconds()))
        if seconds:
            await deferLater(self._clock, seconds)

    async def _counted(self, connection: Connection, exchange: Coroutine[Any, Any, None]) -> None:
        try:
            await exchange
        except ChorusError as error:
            refusal = AdmissionTimeout("admission took too long") if isinstance(error, StreamTimeout) else error
            self.counters[refusal.code] += 1
            # A dial was configured here, and the waits between dials keep it rare; strangers may dial us as often as
            # they like.
            log = self._log.warn if isinstance(error, Unanswered) else self._log.info
            log(
                "{peer} at {address} is not admitted: {error}",
                peer=connection.peer_id,
                address=connection.remote_address,
                error=refusal,
                code=refusal.code,
                event="peer.not_admitted",
            )
            if refusal is error:
                raise
            raise refusal from error
        self.counters["admitted"] += 1


def _address(connection: Connection) -> str:
    """Failures are counted against it: an IPv4 address, or the /64 that one machine commands in IPv6."""
    ip = connection.remote_address.ip()
    if ip is None:
        return str(connection.remote_address)
    return str(ip) if ip.version == 4 else str(ipaddress.ip_network((ip, 64), strict=False))
