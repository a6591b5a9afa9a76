"""Parameters of Kademlia, and limits on what peers make a node do (spec/wire.md 13, security.md 1.7)."""

from __future__ import annotations

from typing import Final

import attrs

from chorus.errors import UserError

DEFAULT_PREFIX: Final = "/chorus"

MAX_MESSAGE: Final = 64 * 1024
"""Bytes of one incoming message, its length apart: a record, 20 closer peers and 20 providers with 16 addresses each
fit. Refused by its length alone (GHSA-xqvc-92cf-94j4)."""
MAX_REPLY: Final = 16 * 1024
"""Bytes of one message that we send: rust reads no more by default. Addresses are left out until it fits."""
MAX_KEY: Final = 80
"""Bytes of a key (go's number)."""
MAX_VALUE: Final = 10 * 1024
"""Bytes of a value: one record and 20 peers fit a reply."""
MAX_CONTACTS: Final = 20
"""Closer peers, and providers, read of one reply and given in one: k. Further ones are passed over, valid or not."""
MAX_ANNOUNCED: Final = 1
"""Providers read of an ADD_PROVIDER: its sender, since no other is stored."""
MAX_ADDRESSES: Final = 16
"""Addresses read of one peer. Further ones are passed over, valid or not."""
MAX_ADDRESS: Final = 256
"""Bytes of one address that is taken or given; longer ones are passed over."""
MAX_FIELDS: Final = 2048
"""Fields of a reply: a bound on the walk before anything is built, which then takes 1 ms."""
MAX_REQUEST_FIELDS: Final = 64
"""Fields of a request: four are known, with room for what newer peers add. Peers send requests by the thousand."""
MAX_PEER_FIELDS: Final = 128
"""Fields of one peer in a message: an id and its addresses, with room for what newer peers add."""
MAX_TIME_TEXT: Final = 64
"""Bytes of the time in a record; RFC 3339 with nanoseconds has 35."""

MAX_PROVIDERS: Final = 1024
"""Providers kept of one key (security.md 1.7)."""
LEAST_TELLERS: Final = 3
"""Answers that must name providers before a lookup has enough of them: one liar's twenty names would end it."""
PROVIDER_S: Final = 48 * 3600.0
"""Seconds until a provider record expires."""
PROVIDER_ADDRESSES_S: Final = 1800.0
"""Seconds for which a provider's addresses are handed out (the specification's suggestion)."""

STREAM_IDLE_S: Final = 60.0
"""Seconds that a stream may be silent between two requests (go's number)."""
MAX_REQUESTS_A_STREAM: Final = 4096
"""Requests served on one stream, then it is closed: an endless loop on one is no way in (CVE-2026-45783). Peers open
another."""
REQUESTS_A_SECOND: Final = 1000.0
"""Requests of one peer that are served a second, on average; further ones wait, unread. At 0.1 ms each a peer takes a
tenth of a processor; in a mesh of 16 a reader that makes 1,000 gets a second asks each server 200 times."""
REQUESTS_AT_ONCE: Final = 2000
"""Requests of one peer that may come in one burst."""
PUT_COST: Final = 5
"""Requests that a PUT_VALUE counts as: 0.3 ms and a synced row, besides the signatures that its namespace checks. So
one peer puts 200 a second."""
ANNOUNCE_COST: Final = 2
"""Requests that an ADD_PROVIDER counts as: 0.15 ms and a synced row."""

MAX_GROUP_IN_TABLE: Final = 3
"""Peers of one public network (/16 of IPv4, /32 of IPv6) in the table (go's number)."""
MAX_GROUP_IN_BUCKET: Final = 2
"""… in one bucket."""
MAX_FAILURES: Final = 3
"""Queries in a row that a peer of the table fails before it leaves; from the first on it is neither asked nor named
while others are there, and gives its place to a new one."""
MAX_REFRESH_BITS: Final = 12
"""Buckets that are refreshed by a random key of theirs: finding one for the next would take twice the hashes. Lookups
of the own id refresh what is nearer, in networks of up to 80,000 nodes."""
MAX_TABLE: Final = 4096
"""Entries of a table in all; buckets of 20 hold fewer in any network that exists."""

MAX_WALK: Final = 400
"""Peers that one lookup asks: a network of 10,000 takes 40. What liars name without end ends here."""
MAX_SEEN: Final = 2000
"""Peers that one lookup remembers; farther ones are passed over then."""
MAX_REGION: Final = 160
"""Peers asked besides in the region of a key that is crowded: several dozen Sybils and the honest ones behind them."""
REGION_CELLS: Final = 8
"""Parts of a crowded region that are searched by keys of their own: no reply holds more than 20 peers, so that Sybils
around the key itself hide the others from everybody who is asked for it."""
MAX_REGION_HASHES: Final = 200_000
"""Hashes tried for those keys, at most 0.2 s."""
DENSE: Final = 4.0
"""The k closest lie within this part of the distance that the network's size lets expect: by chance once in a million
lookups, since 20 peers where 5 are expected are improbable."""


@attrs.frozen(kw_only=True)
class KadParams:
    """Numbers of one node. Times in seconds."""

    k: int = 20
    """Peers of a bucket, holders of a record, peers in a reply."""
    far: int = 160
    """Peers of the farthest bucket, in which half of all keys are; each next one holds half as many, and none fewer
    than k. So a third of a network of 1,000 is in a table, and most records are found at peers that need not be dialled
    first, which takes five round trips."""
    alpha: int = 10
    """Requests of a lookup in flight that are not overdue."""
    beta: int = 3
    """Of the k closest, those that must have answered where the others are overdue."""
    paths: int = 3
    """Disjoint paths of a read that matters (S/Kademlia's least)."""
    quorum: int = 3
    """Valid answers of a read (amendments 26)."""
    slow_s: float = 0.5
    """A request that is older is overdue: it holds neither a place among the alpha nor the lookup's end."""
    dial_s: float = 2.0
    """A dial that takes longer has failed."""
    rpc_s: float = 2.0
    """A request on a live connection that takes longer has failed."""
    walk_s: float = 10.0
    """A whole lookup: what was found by then is its result."""
    refresh_s: float = 600.0
    """A bucket without a lookup for so long is refreshed."""
    limit_private_groups: bool = False
    """Limits of IP groups hold for loopback and private networks too. Off, because there a group says nothing of who
    runs a machine: all nodes of a house or a test share one. Public networks are always limited."""

    def __attrs_post_init__(self) -> None:
        if not (1 <= self.beta <= self.k <= MAX_CONTACTS and self.alpha >= 1 and self.paths >= 1 and self.quorum >= 1):
            raise UserError("Kademlia needs 1 <= beta <= k <= 20, and alpha, paths and quorum of at least 1")
