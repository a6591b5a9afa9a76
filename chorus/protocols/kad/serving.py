"""Replies to requests: rules of a server, without its store and its streams. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from chorus.identity import PeerId
from chorus.multiformats import multihash
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.kad.keys import point_of
from chorus.protocols.kad.messages import BadKadMessage, Contact, KadMessage, KadRecord, RequestKind, believed
from chorus.protocols.kad.namespaces import BadRecordKey, Namespaces
from chorus.protocols.kad.params import ANNOUNCE_COST, MAX_CONTACTS, PUT_COST
from chorus.protocols.kad.table import RoutingTable

COSTS: Final[Mapping[RequestKind, int]] = {
    RequestKind.PUT_VALUE: PUT_COST,
    RequestKind.ADD_PROVIDER: ANNOUNCE_COST,
}
"""Requests that one of a kind counts as in the rate of its peer; others count as one."""


@attrs.frozen
class KadServer:
    """Answers from its table, its own contact, and the namespaces that it takes."""

    own: Contact
    table: RoutingTable
    namespaces: Namespaces

    def reply(
        self,
        request: KadMessage,
        sender: PeerId,
        *,
        held: KadRecord | None = None,
        providers: Sequence[Contact] = (),
        target: Contact | None = None,
    ) -> KadMessage | None:
        """The reply to a checked request; None where there is none (ADD_PROVIDER).

        `held` is the record under the key, `providers` those kept of it, newest first; `target` is the peer that
        FIND_NODE names where this node knows it, in the table or not.
        """
        kind, key = request.kind, request.key
        if kind in (RequestKind.PING, RequestKind.PUT_VALUE):
            return request
        if kind is RequestKind.ADD_PROVIDER:
            return None
        closer = self._closer(key, sender)
        if kind is RequestKind.FIND_NODE:
            if key == self.own.peer.raw:
                target = self.own
            if target is not None and target.peer != sender:
                closer = [target, *(one for one in closer if one.peer != target.peer)][:MAX_CONTACTS]
            return KadMessage(kind, key, closer=tuple(closer))
        if kind is RequestKind.GET_VALUE:
            return KadMessage(kind, key, held, closer=tuple(closer))
        return KadMessage(kind, key, closer=tuple(closer), providers=tuple(providers[:MAX_CONTACTS]))

    def _closer(self, key: bytes, sender: PeerId) -> list[Contact]:
        """Never the sender itself."""
        return self.table.nearest(point_of(key), MAX_CONTACTS, without=sender)

    def check(self, request: KadMessage) -> None:
        """Refuse requests whose key or form does not fit their kind; a record's namespace checks its value.

        Raises `BadKadMessage`, `BadRecordKey`, `LimitExceeded`.
        """
        kind = request.kind
        if kind is RequestKind.PING:
            return
        if not request.key:
            raise BadKadMessage("a request without a key")
        if kind in (RequestKind.GET_VALUE, RequestKind.PUT_VALUE):
            self.namespaces.of(request.key)
            if kind is RequestKind.PUT_VALUE and (request.record is None or request.record.key != request.key):
                raise BadKadMessage("a put without a record of its key")
        elif kind is RequestKind.ADD_PROVIDER:
            try:
                multihash.decode(request.key)
            except multihash.MultihashError as error:
                raise BadRecordKey(f"a provider's key is a multihash: {error}") from None


def provider_of(request: KadMessage, sender: PeerId, source: Multiaddr | None = None) -> Contact | None:
    """The provider that an ADD_PROVIDER announces: its sender or nobody. Addresses are those that may be dialled from
    here, where the connection's is `source`."""
    for contact in request.providers:
        if contact.peer == sender:
            return believed(contact, source)
    return None
