"""How a TCP connection comes about: SYN, SYN-ACK, and the ACK that the listener waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from twisted.internet.address import IPv4Address
from twisted.internet.base import BaseConnector
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionRefusedError, TCPTimedOutError
from twisted.internet.interfaces import IListeningPort
from zope.interface import implementer

from chorus.simulation.net.network import SimHost, SimMachine
from chorus.simulation.net.transport import SimTransport
from chorus.simulation.world import SECOND

if TYPE_CHECKING:
    from twisted.internet.protocol import ClientFactory, Factory

SYN_RETRY: Final = SECOND
"""Nanoseconds until an unanswered SYN is sent again, doubling."""

SYN_TRIES: Final = 7
"""Linux's: about two minutes in all."""


@implementer(IListeningPort)
class Port:
    """A listening port. It has no backlog: a node that accepts too slowly is a paused node."""

    def __init__(self, host: SimHost, reactor: SimMachine, number: int, factory: Factory) -> None:
        self.reactor = reactor
        self.listening = False
        self._host = host
        self._number = number
        self._factory = factory

    def startListening(self) -> None:
        self.listening = True
        self._factory.doStart()  # type: ignore[no-untyped-call]

    def stopListening(self) -> Deferred[None]:
        if self.listening:
            self.listening = False
            self._host.listeners.pop(self._number, None)
            self._factory.doStop()  # type: ignore[no-untyped-call]
        return succeed(None)

    loseConnection = stopListening

    def getHost(self) -> IPv4Address:
        return self._host.address(self._number)

    def accept(self, transport: SimTransport) -> None:
        """The third packet has come: hand the connection to the factory, or close it."""
        protocol = self._factory.buildProtocol(transport.getPeer()) if self.listening else None
        if protocol is None:
            transport.abort_unused()
        else:
            transport.open(protocol)


class SimConnector(BaseConnector):
    """`IConnector` of the simulated network; the timeout is the base class's."""

    def __init__(
        self,
        host: SimHost,
        ip: str,
        port: int,
        factory: ClientFactory[Any],
        timeout: float,
        reactor: SimMachine,
    ) -> None:
        super().__init__(factory, timeout, cast("Any", reactor))
        self._host = host
        self._ip = ip
        self._port = port
        self._sim = reactor
        self._tries = 0

    def getDestination(self) -> IPv4Address:
        return IPv4Address("TCP", self._ip, self._port)

    def _makeTransport(self) -> Any:
        transport = SimTransport(self._host, self._sim, self._host.ephemeral(), self.getDestination(), connector=self)
        self._tries = 0
        self._send_syn(transport)
        return transport

    def _send_syn(self, transport: SimTransport) -> None:
        if not transport.connecting or not self._sim.alive:
            return
        world, net = self._host.net.world, self._host.net
        if self._tries >= SYN_TRIES:
            self._sim.enter(lambda: transport.failIfNotConnected(TCPTimedOutError()))  # type: ignore[no-untyped-call]
            return
        target = net.host(self._ip)
        if target is not None:
            link = net.link(self._host.lane, target.lane)
            if not link.quality.loss or transport.rng.random() >= link.quality.loss:
                world.after(link.delay(), lambda: self._syn_arrives(transport, target), target.lane)
        world.after(SYN_RETRY << self._tries, lambda: self._send_syn(transport), self._host.lane)
        self._tries += 1

    def _syn_arrives(self, transport: SimTransport, target: SimHost) -> None:
        net = self._host.net
        if net.link(self._host.lane, target.lane).cuts or target.down or target.deaf or not transport.connecting:
            return
        port = target.listeners.get(self._port)
        back = net.link(target.lane, self._host.lane)

        def answer() -> None:
            if back.cuts or not transport.connecting:
                return
            if port is None:
                net.counters.refused += 1
                self._sim.enter(lambda: transport.failIfNotConnected(ConnectionRefusedError()))  # type: ignore[no-untyped-call]
            else:
                self._sim.enter(lambda: transport.connected_to(target, port))

        net.world.after(back.delay(), answer, self._host.lane)
