"""Two connection cores back to back, and the shell on transports in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from chorus.errors import ChorusError
from chorus.identity import Identity
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.connection.core import ConnectionCore, Ends
from chorus.protocols.connection.limits import ConnectionLimits
from chorus.protocols.connection.shell import ConnectionProtocol
from chorus.protocols.connection.streams import MuxedStream
from chorus.protocols.noise.handshake import HandshakeResult, NoiseHandshake
from chorus.protocols.stream import Stream
from chorus.protocols.yamux.stream import YamuxStream
from tests.protocols.yamux_support import Recorder

DIALER = Identity.from_seed(bytes(31) + b"\x01")
LISTENER = Identity.from_seed(bytes(31) + b"\x02")
ECHO = "/test/echo/1.0.0"
ADDRESS = Multiaddr.parse("/ip4/127.0.0.1/tcp/4001")


class Echo(Recorder):
    """Sends back what it hears, and closes after the peer."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.stream = stream

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.stream.write(data)

    def eof_received(self) -> None:
        super().eof_received()
        self.stream.write_eof()


class CoreRecorder:
    """`CoreEvents` that serves `ECHO` and keeps what it hears."""

    def __init__(self, protocols: Iterable[str] = (ECHO,), serve: Callable[[Stream], Recorder] = Echo) -> None:
        self.protocols = set(protocols)
        self.serve = serve
        self.result: HandshakeResult | None = None
        self.opened: list[MuxedStream] = []
        self.receivers: list[Recorder] = []
        self.failures: list[Exception] = []
        self.counters: Counter[str] = Counter()
        self.waiting = 0
        self.sooner = 0
        self.gone: list[int] = []
        self.read_agains = 0

    def handshake_finished(self, result: HandshakeResult) -> None:
        assert self.result is None
        self.result = result

    def protocol_supported(self, protocol: str) -> bool:
        return protocol in self.protocols

    def stream_opened(self, stream: MuxedStream) -> None:
        self.opened.append(stream)
        self.receivers.append(self.serve(stream))
        stream.set_receiver(self.receivers[-1])

    def receiver_failed(self, stream: YamuxStream, error: Exception) -> None:
        self.failures.append(error)

    def count(self, error: ChorusError) -> None:
        self.counters[error.code] += 1

    def output_waiting(self) -> None:
        self.waiting += 1

    def timer_sooner(self) -> None:
        self.sooner += 1

    def peer_going_away(self, code: int) -> None:
        self.gone.append(code)

    def read_again(self) -> None:
        self.read_agains += 1


def seeded_keypair(seed: int) -> Callable[[], tuple[bytes, bytes]]:
    """The ephemeral key of a session that must be the same each time."""
    from nacl.bindings import crypto_scalarmult_base

    private = bytes([seed]) * 32
    return lambda: (private, crypto_scalarmult_base(private))


def core(
    initiator: bool,
    events: CoreRecorder | None = None,
    *,
    limits: ConnectionLimits | None = None,
    now: float = 0.0,
    early_muxer: bool = True,
    deterministic: bool = False,
    **options: object,
) -> tuple[ConnectionCore, CoreRecorder]:
    events = events or CoreRecorder()

    def make_handshake(identity: Identity, **parameters: object) -> NoiseHandshake:
        if not early_muxer:
            parameters["muxers"] = ()
        if deterministic:
            from chorus.protocols.noise.handshake import StaticKey

            parameters["generate_keypair"] = seeded_keypair(3 if initiator else 4)
            parameters["static"] = StaticKey.make(identity, seeded_keypair(5 if initiator else 6)())
        return NoiseHandshake(identity, **parameters)

    made = ConnectionCore(
        events,
        events,
        Ends(
            DIALER if initiator else LISTENER,
            initiator,
            options.pop("expected_peer", LISTENER.peer_id if initiator else None),
        ),
        limits=limits or ConnectionLimits(),
        now=now,
        make_handshake=make_handshake,
    )
    return made, events


def drain(core: ConnectionCore) -> bytes:
    sent = bytearray()
    while data := core.data_to_send():
        sent += data
    return bytes(sent)


class CorePair:
    """Two cores, connected; `pump` carries bytes until there are none, in pieces of `cut` bytes."""

    def __init__(self, *, cut: int | None = None, secure: bool = True, **options: object) -> None:
        early = options.pop("early", (True, True))
        self.dialer, self.dialer_events = core(True, early_muxer=early[0], **options)
        self.listener, self.listener_events = core(False, early_muxer=early[1], **options)
        self.cut = cut
        self.now = 0.0
        self.flights: list[tuple[str, bytes]] = []
        if secure:
            self.pump()

    def pump(self) -> int:
        total = 0
        while True:
            there = drain(self.dialer)
            self.carry("dialer", there, self.listener)
            back = drain(self.listener)
            self.carry("listener", back, self.dialer)
            if not there and not back:
                return total
            total += len(there) + len(back)

    def carry(self, sender: str, data: bytes, to: ConnectionCore) -> None:
        if data:
            self.flights.append((sender, data))
        cut = self.cut or len(data) or 1
        for start in range(0, len(data), cut):
            to.receive_data(data[start : start + cut], self.now)


def open_stream(pair: CorePair, protocol: str = ECHO, receiver: Recorder | None = None):
    stream = pair.dialer.open_stream(protocol, pair.now)
    stream.set_receiver(receiver or Recorder())
    return stream


def forged(pair: CorePair, *plaintexts: bytes) -> bytes:
    """Bytes that the dialer's peer will open as `plaintexts`."""
    return b"".join(pair.dialer.result.session.seal([plaintext]) for plaintext in plaintexts)


class Transport:
    """A TCP transport in memory: what is written is taken by `take`, or never."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.written = bytearray()
        self.writes = 0
        self.producer: object | None = None
        self.producing = True
        self.high_water: int | None = None
        self.stuck = False
        self.losing = False
        self.lost = False
        self.protocol: ConnectionProtocol

    def write(self, data: bytes) -> None:
        assert not self.lost
        self.writes += 1
        self.written += data
        if self.high_water is not None and len(self.written) > self.high_water and self.producer is not None:
            self.producer.pauseProducing()

    def take(self) -> bytes:
        data = bytes(self.written)
        self.written.clear()
        if self.high_water is not None and len(data) > self.high_water and self.producer is not None:
            self.producer.resumeProducing()
        return data

    def registerProducer(self, producer: object, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.producing = False

    def resumeProducing(self) -> None:
        self.producing = True

    def loseConnection(self) -> None:
        self.losing = True
        if not self.stuck:
            self.clock.callLater(0, self.end, ConnectionDone())

    def abortConnection(self) -> None:
        self.clock.callLater(0, self.end, ConnectionAborted())

    def end(self, reason: Exception) -> None:
        if not self.lost:
            self.lost = True
            self.protocol.connectionLost(Failure(reason))


class Delegate:
    """`ConnectionDelegate` that serves `ECHO` and keeps what it hears."""

    def __init__(self, protocols: Iterable[str] = (ECHO,), serve: Callable[[Stream], Recorder] = Echo) -> None:
        self.protocols = set(protocols)
        self.serve = serve
        self.secured: list[ConnectionProtocol] = []
        self.closed: list[ChorusError | None] = []
        self.opened: list[Stream] = []
        self.receivers: list[Recorder] = []

    def protocol_supported(self, connection: ConnectionProtocol, protocol: str) -> bool:
        return protocol in self.protocols

    def stream_opened(self, stream: Stream) -> None:
        self.opened.append(stream)
        self.receivers.append(self.serve(stream))
        stream.set_receiver(self.receivers[-1])

    def connection_made(self, connection: ConnectionProtocol) -> None:
        """Nothing is counted here."""

    def connection_progressed(self, connection: ConnectionProtocol) -> None:
        """Nobody waits for room here."""

    def connection_secured(self, connection: ConnectionProtocol) -> None:
        self.secured.append(connection)

    def connection_closed(self, connection: ConnectionProtocol, error: ChorusError | None) -> None:
        self.closed.append(error)


class ShellPair:
    """Two shells on transports in memory, on one clock."""

    def __init__(
        self, clock: Clock, *, limits: ConnectionLimits | None = None, secure: bool = True, **delegate: object
    ) -> None:
        self.clock = clock
        self.dialer_delegate, self.listener_delegate = Delegate(**delegate), Delegate(**delegate)
        self.dialer = self._shell(True, self.dialer_delegate, limits)
        self.listener = self._shell(False, self.listener_delegate, limits)
        if secure:
            self.pump()

    def _shell(self, initiator: bool, delegate: Delegate, limits: ConnectionLimits | None) -> ConnectionProtocol:
        shell = ConnectionProtocol(
            Ends(DIALER, True, LISTENER.peer_id) if initiator else Ends(LISTENER, False),
            remote_address=ADDRESS,
            clock=self.clock,
            delegate=delegate,
            limits=limits,
        )
        transport = Transport(self.clock)
        transport.protocol = shell
        shell.makeConnection(transport)
        return shell

    def pump(self) -> None:
        """Carry bytes and let turns pass until nothing moves."""
        moved = True
        while moved:
            self.clock.advance(0)
            moved = False
            for sender, receiver in ((self.dialer, self.listener), (self.listener, self.dialer)):
                if receiver.transport.producing and not receiver.transport.lost:
                    data = sender.transport.take()
                    if data:
                        moved = True
                        receiver.dataReceived(data)

    def close(self) -> None:
        for shell in (self.dialer, self.listener):
            if not shell.transport.lost:
                shell.close()
        self.clock.advance(0)
