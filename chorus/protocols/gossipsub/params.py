"""Parameters of GossipSub 1.1 and 1.2, and limits on what peers make a router do (spec/wire.md 12, security.md 1.6)."""

from __future__ import annotations

from typing import Final

import attrs

from chorus.errors import UserError

MESHSUB_1_2: Final = "/meshsub/1.2.0"
MESHSUB_1_1: Final = "/meshsub/1.1.0"
MESHSUB_1_0: Final = "/meshsub/1.0.0"
FLOODSUB: Final = "/floodsub/1.0.0"
PROTOCOLS: Final = (MESHSUB_1_2, MESHSUB_1_1, MESHSUB_1_0, FLOODSUB)
"""Newest first: the order in which they are proposed."""

MAX_RPC: Final = 1 << 20
"""Bytes of one incoming RPC: go's limit, the largest one deployed."""

MAX_SENT_RPC: Final = 64 * 1024
"""Bytes of one outgoing RPC, length prefix included: rust's limit, the smallest one deployed. What came in a larger
one is delivered, and neither passed on nor kept for IWANT."""

MAX_SUBSCRIPTIONS: Final = 100
"""Subscription changes in one RPC, in and out (rust's limit)."""

MAX_TOPICS_PER_PEER: Final = 100
"""Topics a peer can be subscribed to here; what is over is passed over and counted."""

MAX_TOPIC_BYTES: Final = 256
"""Of a topic's UTF-8: every topic of a peer is kept for as long as it is connected."""

MAX_CONTROL: Final = 16 * 1024
"""Bytes of IHAVE and IWANT taken from one RPC, and of control in one sent (rust's limit). go and js send more when
busy, so what is over is passed over and counted instead of ending the stream."""

MAX_MESH_CONTROL: Final = 2 * MAX_TOPICS_PER_PEER
"""GRAFT and PRUNE entries in one RPC: one of each for every topic a peer can have."""

MAX_MESSAGES: Final = 512
"""Messages in one RPC. It is worked off in as many reactor turns as they take (`events.Unfinished`), and kept until
then; an answer to one IWANT of ours (at most `MAX_CONTROL` of ids) is two thirds of it."""

MAX_ID_BYTES: Final = 128
"""Of a message id in IHAVE or IWANT; the longest that StrictSign gives is 50."""

MAX_BACKOFF: Final = 3600.0
"""Seconds: what a PRUNE's backoff is clamped to before it meets a clock (CVE-2026-33040, CVE-2026-34219)."""

MAX_BACKOFFS: Final = 16384
"""Backoff entries kept over all topics; they outlive connections, so that reconnecting does not end one."""

MAX_PX_PEERS: Final = 16
"""Peers taken from, and given in, one PRUNE (go's and the specification's number)."""

MAX_PX_RECORD: Final = 2048
"""Bytes of a signed record given and taken in a PRUNE; a larger one is left out and the peer named without it. One of
24 KiB with 3,000 parts of addresses takes 4 ms to open."""

MAX_PX_BYTES: Final = 8 * 1024
"""Of the records in one PRUNE, so that it fits a frame of control with others beside it."""

MAX_PX_GIVEN: Final = MAX_PX_PEERS
"""Peers named to one peer in a heartbeat, over all PRUNEs: one RPC of GRAFTs is not answered with hundreds of times its
bytes, and who needs other peers finds enough of them in the first PRUNE."""

MAX_PX_TAKEN: Final = MAX_PX_PEERS
"""Peers that one peer may name to us in a heartbeat, over all PRUNEs: their records are verified in the turn of the
RPC, at 0.1 to 0.4 ms each."""

MAX_PENDING: Final = 1024
"""Messages whose validators have not answered yet, over all peers; further ones are passed over, and may come again
from another peer or by gossip."""

MAX_PENDING_PER_PEER: Final = 32
"""… of one peer: nobody else's messages wait because one peer's are slow to check (go's queue has 32)."""

MAX_PEERS: Final = 4096
"""Peers a router knows at once. The host limits connections well below; this bounds the router by itself."""


class ParameterError(UserError):
    """A set of GossipSub parameters that contradicts itself."""

    code = "gossip_parameters"


@attrs.frozen(kw_only=True)
class GossipParams:
    """Times in seconds. Defaults are go-libp2p's; raises `ParameterError` where they contradict each other."""

    d: int = 6
    d_lo: int = 5
    d_hi: int = 12
    d_lazy: int = 6
    d_score: int = 4
    """Best scored peers kept when an over-full mesh is cut down."""
    d_out: int = 2
    """Connections we dialled that a mesh keeps: an attacker who only dials in cannot fill it."""
    heartbeat: float = 1.0
    first_heartbeat: float = 0.1
    gossip_factor: float = 0.25
    fanout_ttl: float = 60.0
    flood_publish: bool = True
    mcache_windows: int = 5
    mcache_gossip: int = 3
    mcache_bytes: int = 16 << 20
    """Message bytes kept for IWANT; the oldest leave first."""
    seen_ttl: float = 120.0
    seen_entries: int = 131072
    """Message ids remembered: about 25 MB, and 16 s of the fastest stream one core can verify."""
    prune_backoff: float = 60.0
    unsubscribe_backoff: float = 10.0
    backoff_slack: float = 1.0
    """Added to a backoff before we GRAFT again, so that the peer's own clock has run out too."""
    graft_flood: float = 10.0
    """A GRAFT this soon after the PRUNE is a flood, not a race."""
    max_ihave_length: int = 5000
    """Ids asked of one peer in a heartbeat, and advertised to it."""
    max_ihave_messages: int = 10
    """RPCs with IHAVE taken from one peer in a heartbeat."""
    retransmissions: int = 3
    """Times one id is sent to one peer that asks for it with IWANT."""
    iwant_followup: float = 3.0
    """Seconds in which an advertised message that we asked for must come, or the promise is broken (P7)."""
    opportunistic_ticks: int = 60
    """Heartbeats between two looks whether better peers than those of a mesh are to be had."""
    opportunistic_peers: int = 2
    direct_ticks: int = 300
    """Heartbeats between two tries to reach direct peers that are not connected."""
    peer_exchange: bool = True
    """Name other peers of the topic in a PRUNE of ours."""
    idontwant_threshold: int = 1024
    """Bytes of data from which the mesh is told at once that we have a message (1.2)."""
    idontwant_per_heartbeat: int = 1000
    """Ids taken from one peer's IDONTWANTs in a heartbeat."""
    idontwant_heartbeats: int = 3
    """How long an id stands."""
    max_useless: int = 1000
    """Entries without a use (unknown topics and ids, repeated subscriptions, …) that a peer may send in a heartbeat
    before they are held against it: honest peers send some at the start, and after a restart of ours."""
    growing_seqno: bool = False
    """Publishers count up, so that a message from before the seen cache's time is a replay. For closed meshes."""

    def __attrs_post_init__(self) -> None:
        rules = (
            (0 < self.d_lo <= self.d <= self.d_hi, "0 < d_lo <= d <= d_hi"),
            (self.d_out == 0 or (self.d_out < self.d_lo and self.d_out <= self.d // 2), "d_out < d_lo and <= d / 2"),
            (0 <= self.d_score <= self.d, "d_score <= d"),
            (self.d_lazy >= 0 and 0 <= self.gossip_factor <= 1, "d_lazy >= 0 and 0 <= gossip_factor <= 1"),
            (self.heartbeat > 0 and self.first_heartbeat >= 0, "heartbeat > 0"),
            (0 < self.mcache_gossip <= self.mcache_windows, "0 < mcache_gossip <= mcache_windows"),
            (self.mcache_bytes >= MAX_RPC, "mcache_bytes holds at least one RPC"),
            (self.seen_ttl > self.mcache_windows * self.heartbeat, "seen_ttl outlasts the message cache"),
            (self.seen_entries > 0, "seen_entries > 0"),
            (self.iwant_followup > 0, "iwant_followup > 0"),
            (self.opportunistic_ticks > 0 and self.opportunistic_peers >= 0, "opportunistic_ticks > 0"),
            (self.direct_ticks > 0, "direct_ticks > 0"),
            (self.idontwant_threshold > 0 and self.idontwant_heartbeats > 0, "idontwant_threshold and _heartbeats > 0"),
            (self.max_useless >= 0, "max_useless >= 0"),
            (self.idontwant_per_heartbeat >= 0, "idontwant_per_heartbeat >= 0"),
            (0 < self.unsubscribe_backoff <= MAX_BACKOFF, "unsubscribe_backoff within the clamp"),
            (0 < self.prune_backoff <= MAX_BACKOFF, "prune_backoff within the clamp"),
        )
        for holds, rule in rules:
            if not holds:
                raise ParameterError(f"GossipSub parameters must keep {rule}")
