"""Servers of the DHT that this node knows: the routing table, and requests whose fate it notes there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus.errors import ChorusError
from chorus.protocols.kad.messages import Contact, KadMessage, RequestKind, decode, encode
from chorus.protocols.kad.table import RoutingTable
from chorus.protocols.stream import StreamReset
from chorus.services.dht.rpc import KadRequests

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import PeerId
    from chorus.multiformats.multiaddr import Multiaddr
    from chorus.protocols.kad.params import KadParams
    from chorus.protocols.stream import Connection, Host

MAX_PROBES = 16
"""Under way at the same time; further servers are met again at the next look."""
_MAY_REFUSE = (RequestKind.PUT_VALUE, RequestKind.ADD_PROVIDER)


class KnownServers:
    """`protocol` is the table's; only peers that speak it are servers."""

    _log = Logger()

    def __init__(self, host: Host, clock: IReactorTime, protocol: str, params: KadParams) -> None:
        self.params = params
        self.protocol = protocol
        self.table = RoutingTable(host.peer_id, params, clock.seconds())
        self._host = host
        self._clock = clock
        self._requests = KadRequests(host, clock, protocol)
        self._probing: dict[PeerId, Deferred[Any]] = {}

    def __len__(self) -> int:
        return self.table.live

    def nearest(self, point: int, count: int) -> list[Contact]:
        """The nearest servers of the table, and connected ones where it has not so many."""
        found = self.table.nearest(point, count)
        if len(found) < count:
            known = {contact.peer for contact in found}
            others = [self.contact(peer) for peer in self._connected() if peer not in known and peer not in self.table]
            found = sorted([*found, *others], key=lambda contact: contact.point ^ point)[:count]
        return found

    def contact(self, peer: PeerId) -> Contact:
        return self.table.contact(peer) or Contact(peer, tuple(self._host.addresses_of(peer)))

    def _connected(self) -> list[PeerId]:
        return [each.peer_id for each in self._host.connections() if self._serves(each.peer_id)]

    def connected(self, peer: PeerId) -> bool:
        """True if no dial is needed to ask it."""
        return self._host.connection(peer) is not None

    def _serves(self, peer: PeerId) -> bool:
        return self.protocol in self._host.protocols_of(peer)

    def address(self, peer: PeerId) -> Multiaddr | None:
        """Of the connection to the peer."""
        connection = self._host.connection(peer)
        return None if connection is None else connection.remote_address

    # Requests

    async def ask(self, contact: Contact, request: KadMessage, encoded: bytes | None = None) -> KadMessage:
        """The server's reply; `encoded` spares another encoding of `request`. Raises `ChorusError`."""
        try:
            raw = await self._requests.ask(contact.peer, contact.addresses, encoded or encode(request))
            reply = decode(raw)
        except ChorusError as error:
            self._failed(contact.peer, request, error)
            raise
        self.table.answered(contact, self._clock.seconds(), self.address(contact.peer))
        return reply

    async def tell(self, contact: Contact, request: KadMessage) -> None:
        """Have the server process a request that need not have a reply. Raises `ChorusError`."""
        try:
            await self._requests.tell(contact.peer, contact.addresses, encode(request))
        except ChorusError as error:
            self._failed(contact.peer, request, error)
            raise

    def _failed(self, peer: PeerId, request: KadMessage, error: ChorusError) -> None:
        # A server that refuses a record, by a reset, lives.
        if not (request.kind in _MAY_REFUSE and isinstance(error, StreamReset) and error.remote):
            self.table.failed(peer)

    # Who is one

    def met(self, connection: Connection) -> None:
        """A connected peer: probed if it is a server that the table has room for, removed if it serves no longer."""
        peer = connection.peer_id
        if not self._serves(peer):
            if self._host.protocols_of(peer):
                self.table.remove(peer)
            return
        contact = Contact(peer, tuple(self._host.addresses_of(peer)))
        if peer not in self.table and self.table.wants(contact, connection.remote_address):
            self.probe(contact)

    def look(self) -> None:
        """Meet all connected peers; some of them may have begun or ceased to serve."""
        for connection in self._host.connections():
            self.met(connection)

    def left(self, connection: Connection) -> None:
        """A connection ended. Its peer is probed at once: the table must not name the dead."""
        peer = connection.peer_id
        self._requests.left(peer)
        contact = self.table.contact(peer)
        if contact is not None and self._host.connection(peer) is None:
            self.probe(contact)

    def probe(self, contact: Contact) -> None:
        """Ask for our own id; the table notes how that went."""
        if contact.peer in self._probing or len(self._probing) >= MAX_PROBES:
            return
        request = KadMessage(RequestKind.FIND_NODE, self._host.peer_id.raw)
        probe = self._probing[contact.peer] = Deferred.fromCoroutine(self.ask(contact, request))
        probe.addErrback(self._unanswered, contact.peer)
        probe.addBoth(lambda _: self._probing.pop(contact.peer))

    def _unanswered(self, failure: Failure, peer: PeerId) -> None:
        if isinstance(failure.value, (ChorusError, CancelledError)):
            self._log.debug("{peer} did not answer a probe: {error}", peer=peer, error=failure.value)
        else:
            self._log.failure("internal error in a probe", failure)

    def trim(self) -> None:
        """Close idle streams; call it every few seconds."""
        self._requests.trim()

    def stop(self) -> None:
        for probe in list(self._probing.values()):
            probe.cancel()
        self._requests.stop()
