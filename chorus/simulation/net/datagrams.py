"""UDP in the simulated network: datagrams are lost, doubled and overtaken, as the link's quality says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import MessageLengthError
from twisted.internet.interfaces import IUDPTransport
from zope.interface import implementer

from chorus.simulation.net.network import SimHost, SimMachine

if TYPE_CHECKING:
    from twisted.internet.protocol import DatagramProtocol

MAX_DATAGRAM: Final = 65507
"""Bytes: IPv4's largest payload of UDP."""


@implementer(IUDPTransport)
class SimUDPPort:
    def __init__(
        self, host: SimHost, reactor: SimMachine, number: int, protocol: DatagramProtocol, largest: int
    ) -> None:
        self._host = host
        self._reactor = reactor
        self._number = number
        self._protocol = protocol
        self._largest = largest
        self._target: tuple[str, int] | None = None
        self._open = False

    def startListening(self) -> None:
        self._open = True
        self._protocol.makeConnection(self)

    def stopListening(self) -> Deferred[None]:
        if self._open:
            self._open = False
            self._host.datagram_ports.pop(self._number, None)
            self._reactor.callLater(0, self._protocol.doStop)
        return succeed(None)

    def getHost(self) -> IPv4Address:
        return IPv4Address("UDP", self._host.ip, self._number)

    def connect(self, host: str, port: int) -> None:
        self._target = (host, port)

    def write(self, packet: bytes, addr: tuple[str, int] | None = None) -> None:
        """Raises `MessageLengthError` over 65,507 bytes."""
        if len(packet) > MAX_DATAGRAM:
            raise MessageLengthError("message too long")
        address = addr or self._target
        net = self._host.net
        target = net.host(address[0]) if address is not None else None
        net.counters.datagrams += 1
        if target is None or address is None:
            return
        link = net.link(self._host.lane, target.lane)
        quality, rng = link.quality, link.rng
        copies = 1 + (quality.duplicate > 0 and rng.random() < quality.duplicate)
        for _ in range(copies):
            if quality.loss and rng.random() < quality.loss:
                net.counters.datagrams_lost += 1
                continue
            delay = link.delay()
            if quality.reorder and rng.random() < quality.reorder:
                delay += 2 * quality.delay + quality.jitter
            net.world.after(delay, lambda: self._arrives(packet, address[1], target), target.lane)

    def _arrives(self, packet: bytes, number: int, target: SimHost) -> None:
        net = self._host.net
        port = target.datagram_ports.get(number)
        if net.link(self._host.lane, target.lane).cuts or target.down or port is None:
            net.counters.datagrams_lost += 1
            return
        net.record(target.lane, "datagram", packet)
        port.receive(packet, (self._host.ip, self._number))

    def receive(self, packet: bytes, sender: tuple[str, int]) -> None:
        self._reactor.enter(lambda: self._deliver(packet, sender))

    def _deliver(self, packet: bytes, sender: tuple[str, int]) -> None:
        if self._open:
            self._protocol.datagramReceived(packet[: self._largest], sender)

    def setBroadcastAllowed(self, enabled: bool) -> None:
        """There is no broadcast here."""

    def getBroadcastAllowed(self) -> bool:
        return False
