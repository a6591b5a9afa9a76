"""/chorus/kad/1.0.0: the distributed hash table, as libp2p's Kad-DHT speaks it (spec/wire.md 13). Pure.

Messages have their length before them; a stream carries several requests. The parts: `kad/keys` (distance),
`kad/messages` (the wire), `kad/namespaces` (who may write what), `kad/table` (peers that answered), `kad/lookup`
(walks), `kad/serving` (replies), `kad/replication` (who gets a record when).
"""

from __future__ import annotations

from chorus.protocols.kad.messages import BadKadMessage, Contact, KadMessage, KadRecord, RequestKind, decode, encode
from chorus.protocols.kad.namespaces import BadRecordKey, BadRecordValue, Namespace, Namespaces
from chorus.protocols.kad.params import DEFAULT_PREFIX, MAX_MESSAGE, KadParams

PROTOCOL = "/chorus/kad/1.0.0"


def protocol_id(prefix: str = DEFAULT_PREFIX) -> str:
    """`{prefix}/kad/1.0.0`; nodes of different prefixes are different tables."""
    return f"{prefix}/kad/1.0.0"


__all__ = [
    "MAX_MESSAGE",
    "PROTOCOL",
    "BadKadMessage",
    "BadRecordKey",
    "BadRecordValue",
    "Contact",
    "KadMessage",
    "KadParams",
    "KadRecord",
    "Namespace",
    "Namespaces",
    "RequestKind",
    "decode",
    "encode",
    "protocol_id",
]
