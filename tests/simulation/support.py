"""Two hosts of the simulated network, and protocols that write down what happens to them."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import ClientFactory, Protocol, ServerFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from chorus.simulation.clock import NodeClock
from chorus.simulation.net.links import LARGE, Cutting, LinkQuality, everywhere
from chorus.simulation.net.network import SimNet
from chorus.simulation.net.reactor import SimReactor
from chorus.simulation.world import MILLISECOND, World

ADDRESSES = ("10.0.0.1", "10.0.0.2")


class Notes(Protocol):
    """Keeps what it is told, in `segments` and `lost`."""

    def __init__(self) -> None:
        self.segments: list[bytes] = []
        self.lost: type[BaseException] | None = None
        self.made = False

    @property
    def data(self) -> bytes:
        return b"".join(self.segments)

    def connectionMade(self) -> None:
        self.made = True

    def dataReceived(self, data: bytes) -> None:
        self.segments.append(data)

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment]
        assert self.lost is None and reason is not None
        self.lost = type(reason.value)


@implementer(IHalfCloseableProtocol)
class HalfNotes(Notes):
    def __init__(self) -> None:
        super().__init__()
        self.read_ended = self.write_ended = False

    def readConnectionLost(self) -> None:
        self.read_ended = True

    def writeConnectionLost(self) -> None:
        self.write_ended = True


class Dialled(ClientFactory):
    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self.made = protocol
        self.failed: type[BaseException] | None = None

    def buildProtocol(self, addr: Any) -> Protocol:
        return self.made

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self.failed = type(reason.value)


class Accepted(ServerFactory):
    noisy = False

    def __init__(self, make: Any) -> None:
        self.make = make
        self.protocols: list[Any] = []

    def buildProtocol(self, addr: Any) -> Protocol | None:
        protocol = self.make()
        if protocol is not None:
            self.protocols.append(protocol)
        return protocol


class Pair:
    """Hosts 0 and 1; 1 listens on port 80."""

    def __init__(
        self,
        seed: int = 1,
        *,
        quality: LinkQuality | None = None,
        cutting: Cutting = LARGE,
        make: Any = Notes,
        dial: Any = Notes,
    ) -> None:
        self.world = World(seed)
        self.net = SimNet(
            self.world, quality=everywhere(quality or LinkQuality(delay=10 * MILLISECOND)), cutting=cutting
        )
        self.hosts = [self.net.add_host(ip, lane) for lane, ip in enumerate(ADDRESSES)]
        self.reactors = [SimReactor(self.world, NodeClock(self.world), host, host.lane) for host in self.hosts]
        self.server = Accepted(make)
        self.port = self.reactors[1].listenTCP(80, self.server)
        self.client = dial()
        self.dialled = Dialled(self.client)

    def connect(self, timeout: float = 30) -> Any:
        return self.reactors[0].connectTCP(ADDRESSES[1], 80, self.dialled, timeout=timeout)

    def connected(self) -> tuple[Any, Any]:
        """The client's and the server's protocol, set up."""
        self.connect()
        self.world.run_for(1)
        return self.client, self.server.protocols[0]

    def cut(self, source: int, target: int, by: int = 1) -> None:
        self.net.link(source, target).cuts += by

    def run(self, seconds: float) -> None:
        self.world.run_for(seconds)
