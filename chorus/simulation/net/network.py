"""The network: hosts, and a link for each direction between two of them.

TCP neither loses nor reorders bytes: loss on a link shows as delay, 200 ms doubling, and after `GIVE_UP` as a lost
connection. A link that is cut carries nothing, in its direction only.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import attrs
from twisted.internet.address import IPv4Address
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IHostnameResolver, IHostResolution
from zope.interface import implementer

from chorus.simulation.net.connecting import Port, SimConnector
from chorus.simulation.net.datagrams import SimUDPPort
from chorus.simulation.net.transport import GIVE_UP, RTO
from chorus.simulation.trace import Trace
from chorus.simulation.world import MILLISECOND, SECOND, World

if TYPE_CHECKING:
    from twisted.internet.interfaces import IResolutionReceiver
    from twisted.internet.protocol import ClientFactory, DatagramProtocol, Factory

    from chorus.simulation.net.reactor import SimReactor
    from chorus.simulation.net.transport import SimTransport

LARGEST: Final = 64 * 1024
"""Bytes of one segment at most."""

FIRST_EPHEMERAL: Final = 32768


def cut_large(rng: random.Random, waiting: int) -> int:
    return min(waiting, LARGEST)


def cut_small(rng: random.Random, waiting: int) -> int:
    kind = rng.random()
    if kind < 0.08:
        return 1
    return min(waiting, rng.randrange(1, 20) if kind < 0.2 else rng.randrange(1, 4096))


@attrs.frozen
class Cutting:
    """How streams become segments."""

    size: Callable[[random.Random, int], int]
    """Bytes of the next segment, of so many that wait."""
    hold: float = 0.0
    """Chance that a write waits a little, so that it travels together with the next ones."""


LARGE: Final = Cutting(cut_large)
"""Tiers B and C: whatever is there, in one piece."""

SMALL: Final = Cutting(cut_small, hold=0.2)
"""Tier A: now and then one byte, now and then a few, else up to 4 KiB, and several writes in one segment: every
boundary is met at every place."""


@attrs.frozen
class LinkQuality:
    """One direction of one link. Times in nanoseconds."""

    delay: int = 10 * MILLISECOND
    jitter: int = 0
    """Up to so much more, uniform, drawn for each segment."""
    rate: float = 0.0
    """Bytes a second; 0 is without limit."""
    loss: float = 0.0
    """Chance that a segment or datagram is lost, 0 to 1."""
    duplicate: float = 0.0
    """Of datagrams."""
    reorder: float = 0.0
    """Chance that a datagram is held back so that later ones overtake it."""


class Link:
    """One direction. `cuts` counts the faults that cut it now; `slow` multiplies its delay."""

    def __init__(self, quality: LinkQuality, rng: random.Random) -> None:
        self.quality = quality
        self.rng = rng
        self.cuts = 0
        self.slow = 1.0
        self.tamper: Callable[[bytes], bytes] | None = None
        """Somebody on the way who changes bytes."""
        self._free_at = 0

    def arrival(self, now: int, size: int) -> int | None:
        """When a segment sent now gets there, all its repetitions included; `None` when the sender gives up first."""
        quality = self.quality
        if quality.rate:
            now = self._free_at = max(now, self._free_at) + int(size * SECOND / quality.rate)
        at = now + int(quality.delay * self.slow)
        if quality.jitter:
            at += self.rng.randrange(quality.jitter)
        if quality.loss:
            wait = RTO
            while self.rng.random() < quality.loss:
                at += wait
                wait *= 2
                if at - now > GIVE_UP:
                    return None
        return at

    def delay(self) -> int:
        """Of a packet that takes no room: SYN, ACK, RST."""
        quality = self.quality
        return int(quality.delay * self.slow) + (self.rng.randrange(quality.jitter) if quality.jitter else 0)


MakeQuality = Callable[[random.Random, int, int], LinkQuality]
"""The quality of the link between two hosts, by their lanes; both directions have the same."""


def everywhere(quality: LinkQuality) -> MakeQuality:
    return lambda rng, one, other: quality


@attrs.define
class NetCounters:
    connected: int = 0
    refused: int = 0
    segments: int = 0
    bytes: int = 0
    resets: int = 0
    given_up: int = 0
    datagrams: int = 0
    datagrams_lost: int = 0


class SimNet:
    """All hosts. `cutting` says into which segments streams are cut."""

    def __init__(
        self,
        world: World,
        *,
        quality: MakeQuality | None = None,
        cutting: Cutting = LARGE,
        trace: Trace | None = None,
    ) -> None:
        self.world = world
        self.cutting = cutting
        self.trace = trace or Trace()
        self.counters = NetCounters()
        self.names: dict[str, list[str]] = {}
        """What the resolver answers; a name that is not here does not exist."""
        self._quality = quality or everywhere(LinkQuality())
        self._links: dict[tuple[int, int], Link] = {}
        self._hosts: dict[str, SimHost] = {}

    def add_host(self, ip: str, lane: int) -> SimHost:
        if ip in self._hosts:
            raise ValueError(f"there is a host {ip}")
        host = self._hosts[ip] = SimHost(self, ip, lane)
        return host

    def host(self, ip: str) -> SimHost | None:
        return self._hosts.get(ip)

    def hosts(self) -> list[SimHost]:
        return list(self._hosts.values())

    def link(self, source: int, target: int) -> Link:
        """The link from one lane to another, made when it is first used."""
        link = self._links.get((source, target))
        if link is None:
            low, high = min(source, target), max(source, target)
            quality = self._quality(self.world.rng("quality", low, high), low, high)
            link = Link(quality, self.world.rng("link", source, target))
            self._links[source, target] = link
        return link

    def links(self) -> list[Link]:
        return list(self._links.values())

    def record(self, lane: int, kind: str, payload: bytes = b"") -> None:
        self.trace.record(self.world.now_ns, lane, kind, payload)


class SimHost:
    """One machine on the network: ports, connections, and whether it answers at all."""

    def __init__(self, net: SimNet, ip: str, lane: int) -> None:
        self.net = net
        self.ip = ip
        self.lane = lane
        self.down = False
        """Without power: packets to it vanish."""
        self.deaf = False
        """Whoever connects never hears from it (a firewall that drops)."""
        self.transports: dict[SimTransport, None] = {}
        self._ports: dict[int, Port] = {}
        self._udp: dict[int, SimUDPPort] = {}
        self._next_port = FIRST_EPHEMERAL

    def address(self, port: int) -> IPv4Address:
        return IPv4Address("TCP", self.ip, port)

    def ephemeral(self) -> int:
        self._next_port += 1
        if self._next_port > 65535:
            self._next_port = FIRST_EPHEMERAL
        return self._next_port

    # TCP

    def listen(self, reactor: SimReactor, number: int, factory: Factory, interface: str) -> Port:
        number = number or self.ephemeral()
        if number in self._ports:
            raise _taken(interface, number)
        if interface not in {"", "0.0.0.0", "127.0.0.1", self.ip}:
            raise _cannot_listen(interface, number, 99, "Cannot assign requested address")
        port = self._ports[number] = Port(self, reactor, number, factory)
        port.startListening()
        return port

    def port(self, number: int) -> Port | None:
        return self._ports.get(number)

    def release(self, number: int) -> None:
        self._ports.pop(number, None)

    def connect(
        self, reactor: SimReactor, host: str, port: int, factory: ClientFactory[Any], timeout: float
    ) -> SimConnector:
        connector = SimConnector(self, host, port, factory, timeout, reactor)
        connector.connect()
        return connector

    # UDP

    def listen_udp(
        self, reactor: SimReactor, number: int, protocol: DatagramProtocol, interface: str, largest: int
    ) -> SimUDPPort:
        number = number or self.ephemeral()
        if number in self._udp:
            raise _taken(interface, number)
        port = self._udp[number] = SimUDPPort(self, reactor, number, protocol, largest)
        port.startListening()
        return port

    def udp_port(self, number: int) -> SimUDPPort | None:
        return self._udp.get(number)

    def release_udp(self, number: int) -> None:
        self._udp.pop(number, None)

    def names(self, reactor: SimReactor) -> IHostnameResolver:
        return _Resolver(self.net, reactor)

    # Faults

    def crash(self, *, power: bool) -> None:
        """The process is gone: its kernel closes the sockets. Without power nobody is told anything."""
        transports, self.transports = self.transports, {}
        self._ports.clear()
        self._udp.clear()
        self.down = power
        for transport in transports:
            transport.process_died(silently=power)


def _taken(interface: str, number: int) -> CannotListenError:
    return _cannot_listen(interface, number, 98, "Address already in use")


def _cannot_listen(interface: str, number: int, errno: int, text: str) -> CannotListenError:
    return CannotListenError(interface, number, OSError(errno, text))  # type: ignore[no-untyped-call]


@implementer(IHostResolution)
class _Resolution:
    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """Answers come in the next turn: there is nothing to stop."""


@implementer(IHostnameResolver)
class _Resolver:
    def __init__(self, net: SimNet, reactor: SimReactor) -> None:
        self._net = net
        self._reactor = reactor

    def resolveHostName(  # type: ignore[no-untyped-def]
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName,
        portNumber=0,
        addressTypes=None,
        transportSemantics="TCP",
    ) -> IHostResolution:
        resolution = _Resolution(hostName)
        self._reactor.callLater(0, self._answer, resolutionReceiver, resolution, portNumber)
        return resolution

    def _answer(self, receiver: IResolutionReceiver, resolution: _Resolution, port: int) -> None:
        receiver.resolutionBegan(resolution)
        for ip in self._net.names.get(resolution.name, ()):
            receiver.addressResolved(IPv4Address("TCP", ip, port))
        receiver.resolutionComplete()
