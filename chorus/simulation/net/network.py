"""The simulated network: its hosts, and the interfaces between the parts of one host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import attrs
from twisted.internet.address import IPv4Address
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall

from chorus.simulation.net.links import LARGE, Cutting, LinkQuality, MakeQuality, SimLink, everywhere
from chorus.simulation.trace import Trace
from chorus.simulation.world import World

FIRST_EPHEMERAL: Final = 32768


class SimMachine(Protocol):
    """The reactor of a host, as its sockets need it."""

    alive: bool

    def enter(self, call: Callable[[], object]) -> None:
        """Run something that came from outside."""

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kw: Any) -> IDelayedCall: ...


class Socket(Protocol):
    """One end of a connection, as its host knows it."""

    def process_died(self, *, silently: bool) -> None:
        """The kernel closes the socket; `silently` without a word to the peer."""

    def reset_both(self) -> None:
        """A box in the middle ends the connection."""


class ListeningPort(Protocol):
    """A listening port, as a connection that reaches it needs it."""

    reactor: SimMachine

    def accept(self, transport: Any) -> None: ...


class DatagramPort(Protocol):
    def receive(self, packet: bytes, sender: tuple[str, int]) -> None: ...


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
        """Answers of the resolver; a name that is not here does not exist."""
        self._quality = quality or everywhere(LinkQuality())
        self._links: dict[tuple[int, int], SimLink] = {}
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

    def link(self, source: int, target: int) -> SimLink:
        """The link from one lane to another, made when it is first used."""
        link = self._links.get((source, target))
        if link is None:
            low, high = min(source, target), max(source, target)
            quality = self._quality(self.world.rng("quality", low, high), low, high)
            link = self._links[source, target] = SimLink(quality, self.world.rng("link", source, target))
        return link

    def links(self) -> list[SimLink]:
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
        """A firewall drops every SYN to it."""
        self.transports: dict[Socket, None] = {}
        self.listeners: dict[int, ListeningPort] = {}
        self.datagram_ports: dict[int, DatagramPort] = {}
        self._next_port = FIRST_EPHEMERAL

    def address(self, port: int) -> IPv4Address:
        return IPv4Address("TCP", self.ip, port)

    def ephemeral(self) -> int:
        self._next_port += 1
        if self._next_port > 65535:
            self._next_port = FIRST_EPHEMERAL
        return self._next_port

    def claim(self, number: int, taken: Mapping[int, object], interface: str) -> int:
        """The number of a new port, drawn for 0. Raises `CannotListenError`."""
        number = number or self.ephemeral()
        problem = None
        if number in taken:
            problem = OSError(98, "Address already in use")
        elif interface not in {"", "0.0.0.0", "127.0.0.1", self.ip}:
            problem = OSError(99, "Cannot assign requested address")
        if problem is not None:
            raise CannotListenError(interface, number, problem)  # type: ignore[no-untyped-call]
        return number

    def crash(self, *, power: bool) -> None:
        """The process is gone: its kernel closes the sockets. Without power nobody is told anything."""
        transports, self.transports = self.transports, {}
        self.listeners.clear()
        self.datagram_ports.clear()
        self.down = power
        for transport in transports:
            transport.process_died(silently=power)
