"""The byte path per second: handshakes, round trips, new streams, bulk; over sockets also small writes in bursts.

    python benchmarks/wire_core.py              two cores back to back in memory: what Python and the cipher cost
    python benchmarks/wire_core.py --sockets    two processes over loopback, on the production reactor
    python benchmarks/wire_core.py --profile ping|stream|bulk|handshake      cProfile of one of them, in memory

Prints one JSON line. In memory both ends share one processor, so a round trip costs twice what it costs a node.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from chorus import reactor as chorus_reactor
from chorus.errors import ChorusError
from chorus.identity import Identity
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.connection.core import ConnectionCore, Ends
from chorus.protocols.connection.limits import ConnectionLimits
from chorus.protocols.connection.shell import ConnectionProtocol
from chorus.protocols.connection.streams import MuxedStream
from chorus.protocols.noise.handshake import HandshakeResult
from chorus.protocols.stream import Connection, Stream
from chorus.protocols.yamux.stream import YamuxStream

ECHO = "/bench/echo/1.0.0"
SINK = "/bench/sink/1.0.0"
PING = bytes(32)
CHUNK = bytes(65536)

DIALER = Identity.from_seed(bytes(31) + b"\x01")
LISTENER = Identity.from_seed(bytes(31) + b"\x02")


class Receiver:
    """A stream's receiver that ignores everything."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> None: ...

    def stream_closed(self, error: ChorusError | None) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class Echo(Receiver):
    def data_received(self, data: bytes) -> None:
        self.stream.write(data)

    def eof_received(self) -> None:
        self.stream.close()


class Sink(Receiver):
    """Answers with one byte once everything came."""

    def eof_received(self) -> None:
        self.stream.write(b"!")
        self.stream.close()


SERVED = {ECHO: Echo, SINK: Sink}


class Pinger(Receiver):
    """`count` round trips, one at a time."""

    def __init__(self, stream: Stream, count: int, done: Callable[[], None]) -> None:
        super().__init__(stream)
        self.left = count
        self.done = done

    def data_received(self, data: bytes) -> None:
        self.left -= 1
        if self.left:
            self.stream.write(PING)
        else:
            self.done()


class Burst(Receiver):
    """`count` times so many small writes in one turn of the reactor, then all of them back."""

    WRITES = 50

    def __init__(
        self, stream: Stream, count: int, later: Callable[[Callable[[], None]], object], done: Callable[[], None]
    ):
        super().__init__(stream)
        self.left = count
        self.later = later
        self.done = done
        self.missing = 0

    def next(self) -> None:
        self.missing = self.WRITES * len(PING)
        for _ in range(self.WRITES):
            self.stream.write(PING)

    def data_received(self, data: bytes) -> None:
        self.missing -= len(data)
        if self.missing:
            return
        self.left -= 1
        if self.left:
            self.later(self.next)
        else:
            self.done()


class Asker(Receiver):
    """Open, 32 bytes there and back, close: `count` times, one after the other."""

    def __init__(self, open_stream: Callable[[], Stream], count: int, done: Callable[[], None]) -> None:
        self.open_stream = open_stream
        self.left = count
        self.done = done

    def next(self) -> None:
        self.stream = self.open_stream()
        self.stream.set_receiver(self)
        self.stream.write(PING)

    def data_received(self, data: bytes) -> None:
        self.stream.close()

    def stream_closed(self, error: ChorusError | None) -> None:
        self.left -= 1
        if self.left:
            self.next()
        else:
            self.done()


class Sender(Receiver):
    """`size` bytes as fast as the stream takes them."""

    def __init__(self, stream: Stream, size: int, done: Callable[[], None]) -> None:
        super().__init__(stream)
        self.left = size
        self.done = done
        self.blocked = False

    def resume_writing(self) -> None:
        self.blocked = False
        while self.left and not self.blocked:
            self.left = max(0, self.left - len(CHUNK))
            self.stream.write(CHUNK)
        if not self.left:
            self.stream.write_eof()

    def pause_writing(self) -> None:
        self.blocked = True

    def stream_closed(self, error: ChorusError | None) -> None:
        self.done()


class End:
    """`CoreEvents` of one core in memory."""

    def __init__(self, initiator: bool) -> None:
        self.core = ConnectionCore(
            self,
            _NO_CONNECTION,
            Ends(DIALER, True, LISTENER.peer_id) if initiator else Ends(LISTENER, False),
            limits=ConnectionLimits(),
            now=0.0,
        )

    def handshake_finished(self, result: HandshakeResult) -> None: ...

    def protocol_supported(self, protocol: str) -> bool:
        return protocol in SERVED

    def stream_opened(self, stream: MuxedStream) -> None:
        stream.set_receiver(SERVED[stream.protocol](stream))

    def receiver_failed(self, stream: YamuxStream, error: Exception) -> None:
        raise error

    def count(self, error: ChorusError) -> None:
        raise error

    def output_waiting(self) -> None: ...

    def timer_sooner(self) -> None: ...

    def peer_going_away(self, code: int) -> None: ...

    def read_again(self) -> None: ...


_NO_CONNECTION: Connection = None  # type: ignore[assignment]


def pump(dialer: ConnectionCore, listener: ConnectionCore) -> None:
    while True:
        there = dialer.data_to_send()
        if there:
            listener.receive_data(there, 0.0)
        back = listener.data_to_send()
        if back:
            dialer.receive_data(back, 0.0)
        if not there and not back:
            return


def connected() -> tuple[ConnectionCore, ConnectionCore]:
    pair = End(True).core, End(False).core
    pump(*pair)
    return pair


def _nothing() -> None: ...


def memory_handshake(count: int) -> float:
    connected()
    started = time.perf_counter()
    for _ in range(count):
        connected()
    return count / (time.perf_counter() - started)


def memory_ping(count: int) -> float:
    pair = connected()
    stream = pair[0].open_stream(ECHO, 0.0)
    stream.set_receiver(Pinger(stream, count, _nothing))
    stream.write(PING)
    started = time.perf_counter()
    pump(*pair)
    return count / (time.perf_counter() - started)


def memory_stream(count: int) -> float:
    pair = connected()
    asker = Asker(lambda: pair[0].open_stream(ECHO, 0.0), count, _nothing)
    started = time.perf_counter()
    asker.next()
    pump(*pair)
    return count / (time.perf_counter() - started)


def memory_bulk(size: int) -> float:
    """MB/s; 1 MB is 10**6 bytes."""
    pair = connected()
    stream = pair[0].open_stream(SINK, 0.0)
    sender = Sender(stream, size, _nothing)
    stream.set_receiver(sender)
    started = time.perf_counter()
    sender.resume_writing()
    pump(*pair)
    return size / 1e6 / (time.perf_counter() - started)


MEMORY: dict[str, tuple[Callable[[int], float], int]] = {
    "handshake": (memory_handshake, 500),
    "ping": (memory_ping, 30_000),
    "stream": (memory_stream, 10_000),
    "bulk": (memory_bulk, 1_000_000_000),
}


class Delegate:
    """Serves `SERVED` and fires `secured` once."""

    def __init__(self) -> None:
        self.secured: Deferred[ConnectionProtocol] = Deferred()
        self.closed: Deferred[None] = Deferred()

    def protocol_supported(self, connection: ConnectionProtocol, protocol: str) -> bool:
        return protocol in SERVED

    def stream_opened(self, stream: Stream) -> None:
        stream.set_receiver(SERVED[stream.protocol](stream))

    def connection_made(self, connection: ConnectionProtocol) -> None:
        """Nothing is counted here."""

    def connection_progressed(self, connection: ConnectionProtocol) -> None:
        """Nobody waits for room here."""

    def connection_secured(self, connection: ConnectionProtocol) -> None:
        self.secured.callback(connection)

    def connection_closed(self, connection: ConnectionProtocol, error: ChorusError | None) -> None:
        self.closed.callback(None)


def shell(reactor: Any, initiator: bool, delegate: Delegate) -> ConnectionProtocol:
    return ConnectionProtocol(
        Ends(DIALER, True, LISTENER.peer_id) if initiator else Ends(LISTENER, False),
        remote_address=Multiaddr.parse("/ip4/127.0.0.1/tcp/4001"),
        clock=reactor,
        delegate=delegate,
    )


def listen() -> None:
    """The other process of `--sockets`: prints its port."""
    chorus_reactor.install()
    from twisted.internet import reactor
    from twisted.internet.protocol import Factory

    factory: Any = Factory()
    factory.buildProtocol = lambda address: shell(reactor, False, Delegate())
    port: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")
    print(port.getHost().port, flush=True)
    reactor.run()


class Sockets:
    """The same work over loopback; `figures` per second, bulk in MB/s."""

    def __init__(self, reactor: Any, port: int, scale: float) -> None:
        self.reactor = reactor
        self.port = port
        self.scale = scale
        self.figures: dict[str, float] = {}

    async def dial(self) -> tuple[ConnectionProtocol, Delegate]:
        from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

        delegate = Delegate()
        protocol = shell(self.reactor, True, delegate)
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", self.port)
        await connectProtocol(endpoint, protocol)  # type: ignore[no-untyped-call]
        await delegate.secured
        return protocol, delegate

    async def run(self) -> None:
        await self.handshakes(int(500 * self.scale))
        connection, delegate = await self.dial()
        await self.ping(connection, int(20_000 * self.scale))
        await self.burst(connection, int(1_000 * self.scale))
        await self.stream(connection, int(5_000 * self.scale))
        await self.bulk(connection, int(1_000_000_000 * self.scale))
        connection.close()
        await delegate.closed

    async def handshakes(self, count: int) -> None:
        started = time.perf_counter()
        for _ in range(count):
            connection, delegate = await self.dial()
            connection.close()
            await delegate.closed
        self.figures["handshake"] = count / (time.perf_counter() - started)

    async def ping(self, connection: ConnectionProtocol, count: int) -> None:
        done: Deferred[None] = Deferred()
        stream = opened(connection, ECHO)
        stream.set_receiver(Pinger(stream, count, lambda: done.callback(None)))
        started = time.perf_counter()
        stream.write(PING)
        await done
        self.figures["ping"] = count / (time.perf_counter() - started)

    async def burst(self, connection: ConnectionProtocol, count: int) -> None:
        done: Deferred[None] = Deferred()
        stream = opened(connection, ECHO)
        burst = Burst(stream, count, lambda call: self.reactor.callLater(0, call), lambda: done.callback(None))
        stream.set_receiver(burst)
        started = time.perf_counter()
        burst.next()
        await done
        self.figures["burst"] = count * burst.WRITES / (time.perf_counter() - started)

    async def stream(self, connection: ConnectionProtocol, count: int) -> None:
        done: Deferred[None] = Deferred()
        started = time.perf_counter()
        Asker(lambda: opened(connection, ECHO), count, lambda: done.callback(None)).next()
        await done
        self.figures["stream"] = count / (time.perf_counter() - started)

    async def bulk(self, connection: ConnectionProtocol, size: int) -> None:
        done: Deferred[None] = Deferred()
        stream = opened(connection, SINK)
        sender = Sender(stream, size, lambda: done.callback(None))
        stream.set_receiver(sender)
        started = time.perf_counter()
        sender.resume_writing()
        await done
        self.figures["bulk"] = size / 1e6 / (time.perf_counter() - started)


def opened(connection: ConnectionProtocol, protocol: str) -> Stream:
    """A stream now: one protocol is opened lazily."""
    stream = connection.open_stream([protocol]).result
    assert isinstance(stream, MuxedStream)
    return stream


def over_sockets(scale: float) -> dict[str, float]:
    chorus_reactor.install()
    from twisted.internet import reactor

    with subprocess.Popen([sys.executable, __file__, "--listen"], stdout=subprocess.PIPE, encoding="utf-8") as listener:
        assert listener.stdout is not None
        work = Sockets(reactor, int(listener.stdout.readline()), scale)

        def finish(outcome: Any) -> None:
            listener.terminate()
            reactor.stop()
            if outcome is not None:
                outcome.printTraceback()

        run = work.run
        reactor.callWhenRunning(lambda: Deferred.fromCoroutine(run()).addBoth(finish))
        reactor.run()
    return work.figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="how much work, 1 is some seconds")
    parser.add_argument("--sockets", action="store_true")
    parser.add_argument("--profile", choices=MEMORY)
    parser.add_argument("--listen", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.listen:
        listen()
    elif arguments.profile:
        work, count = MEMORY[arguments.profile]
        profile = cProfile.Profile()
        profile.runcall(work, int(count * arguments.scale))
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    elif arguments.sockets:
        print(json.dumps({name: round(value) for name, value in over_sockets(arguments.scale).items()}))
    else:
        print(json.dumps({name: round(work(int(n * arguments.scale))) for name, (work, n) in MEMORY.items()}))


if __name__ == "__main__":
    main()
