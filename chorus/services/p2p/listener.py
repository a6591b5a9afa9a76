"""The listening sockets of a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.logger import Logger

from chorus.errors import UserError
from chorus.multiformats.multiaddr import Multiaddr
from chorus.services.listening import cannot_listen, first_free

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IListeningPort, IReactorTCP

BACKLOG = 48
"""Connections that the system holds before they are accepted: fewer than the pool of those that have proved nothing
(`HostLimits`), so that those who come together do not displace each other before one of them could send a byte."""


class CannotListen(UserError):
    """The P2P address cannot be listened on."""

    code = "cannot_listen"


class Accepting(ServerFactory):
    """Asks `accept` for the protocol of each connection; `None` closes it at once.

    Twisted logs it when the system refuses a socket after that (its quota of watched sockets is used up); `accept` is
    not told.

    Without free file descriptors Twisted closes what it cannot take, by means of one that it keeps in reserve, so
    that the backlog does not keep the reactor busy.
    """

    noisy = False

    def __init__(self, accept: Callable[[Multiaddr], Protocol | None]) -> None:
        self._accept = accept

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        peer: Any = addr
        return self._accept(Multiaddr.tcp(peer.host, peer.port))


class TcpListener:
    """Listens on one address; where its port is 0, on `last_port` if that is free. `start` raises `CannotListen`."""

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTCP,
        address: Multiaddr,
        accept: Callable[[Multiaddr], Protocol | None],
        last_port: int = 0,
    ) -> None:
        self._last_port = last_port
        self._reactor = reactor
        self._address = address
        self._accept = accept
        self._port: IListeningPort | None = None

    def start(self) -> None:
        endpoint = self._address.tcp_endpoint()
        if endpoint is None:
            raise CannotListen(f"{self._address} cannot be listened on: give an address like /ip4/127.0.0.1/tcp/9000")
        host, port = endpoint

        def listen(candidate: int) -> IListeningPort:
            return self._reactor.listenTCP(candidate, Accepting(self._accept), backlog=BACKLOG, interface=host)

        try:
            self._port = first_free(listen, port, self._last_port)
        except CannotListenError as error:
            raise CannotListen(cannot_listen("CHORUS_P2P", host, port, error.socketError)) from None
        self._log.info("listening on {address}", address=str(self.address))

    @property
    def address(self) -> Multiaddr:
        """The address with the port that was really taken."""
        if self._port is None:
            return self._address
        bound: Any = self._port.getHost()
        return Multiaddr.tcp(bound.host, bound.port)

    async def stop(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            stopped: Deferred[None] | None = port.stopListening()
            if stopped is not None:
                await stopped


def reachable(bound: Sequence[Multiaddr]) -> list[Multiaddr]:
    """Addresses that others can use: a wildcard becomes the addresses of this machine's interfaces."""
    found: dict[Multiaddr, None] = {}
    for address in bound:
        ip = address.ip()
        endpoint = address.tcp_endpoint()
        if ip is None or endpoint is None or not ip.is_unspecified:
            found[address] = None
            continue
        interfaces = [Multiaddr.tcp(host, endpoint[1]) for host in _interface_hosts(ip.version)]
        outside = [a for a in interfaces if not a.is_loopback]
        found.update(dict.fromkeys(outside or interfaces))
    return list(found)


def _interface_hosts(version: int) -> list[str]:
    import ifaddr

    hosts: list[str] = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            if version == 4 and isinstance(ip.ip, str):
                hosts.append(ip.ip)
            # Link-local IPv6 needs a zone that means nothing to others.
            elif version == 6 and isinstance(ip.ip, tuple) and not ip.ip[0].lower().startswith("fe80"):
                hosts.append(ip.ip[0])
    return hosts
