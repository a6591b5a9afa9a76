"""Copies of records: rules of which server gets one and when, that shells and simulation share. Pure.

A record lies at the k servers closest to its key. Each holder looks at its records in turn. When its table names a
closest server that is not known to hold one, because another left or this one came, the nearest few holders send it a
copy at once. Besides, every holder sends to all of them once an hour, unless it was sent the record itself since then:
mostly one of them does. `now` is in seconds of the boot clock.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import attrs

from chorus.identity import PeerId
from chorus.protocols.kad.messages import Contact
from chorus.protocols.kad.table import RoutingTable

SWEEP_S: Final = 300.0
"""Seconds in which a holder looks at each of its records once. 10 % of the machines that fail in an hour are 1 % in
that time, of 20 copies."""
REPLICATE_S: Final = 3600.0
"""Seconds without a put of a record, after which a holder sends it to all closest servers (rust's number)."""
SPREAD_S: Final = 600.0
"""Seconds over which holders spread that, so that one of them is first."""
SENDERS: Final = 3
"""Nearest holders that send a copy to a new one at once. One alone might not know of it, or have just died."""
PUBLISH_AGAIN_S: Final = 22 * 3600.0
"""Seconds after which who put a record puts it again with a lookup (rust's number)."""


@attrs.frozen
class Copies:
    """A record's other copies, as far as a holder knows of them."""

    put_at: float
    """When the record last went to all closest servers, by a put to this one or by this one's."""
    holders: frozenset[PeerId]


def received(table: RoutingTable, point: int, k: int, now: float) -> Copies:
    """After a put to this node: whoever sends a record sends it to all closest servers."""
    return Copies(now, frozenset(contact.peer for contact in table.nearest(point, k)))


def restored(own: PeerId, key: bytes, now: float) -> Copies:
    """After a restart: nothing is known, and the hour's turn comes at some time within it."""
    return Copies(now - REPLICATE_S * _share(own, key), frozenset())


def _share(own: PeerId, key: bytes) -> float:
    """0 to 1, different for each holder of a record, the same each time."""
    return int.from_bytes(sha256(own.raw + key).digest()[:4], "big") / 2**32


def replication(table: RoutingTable, key: bytes, point: int, copies: Copies, k: int, now: float) -> list[Contact]:
    """Servers that this holder sends the record to now; mostly none. Report what was confirmed with `replicated`."""
    if now - copies.put_at >= REPLICATE_S and now - copies.put_at >= REPLICATE_S + SPREAD_S * _share(table.own, key):
        return table.nearest(point, k)
    own, holders = table.point ^ point, copies.holders
    first = table.nearest(point, SENDERS)
    if len(first) == SENDERS and first[-1].point ^ point < own and all(c.peer in holders for c in first):
        # Most holders of most records: others send.
        return []
    nearest = table.nearest(point, k)
    missing = [contact for contact in nearest if contact.peer not in holders]
    nearer = sum(c.point ^ point < own for c in nearest if c.peer in holders)
    return missing if nearer < SENDERS else []


def replicated(
    table: RoutingTable,
    point: int,
    copies: Copies,
    sent: list[Contact],
    confirmed: frozenset[PeerId],
    k: int,
    now: float,
) -> Copies:
    """The knowledge after copies were sent. Holders that left are forgotten, so that they get one when they return."""
    nearest = {contact.peer for contact in table.nearest(point, k)}
    whole = nearest <= {contact.peer for contact in sent}
    return Copies(now if whole else copies.put_at, frozenset((copies.holders & nearest) | confirmed))
