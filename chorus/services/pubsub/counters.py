"""Counters of pub/sub since start, as plain numbers: those of the router and of the streams."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from chorus.protocols.gossipsub.events import GossipCounters
    from chorus.services.pubsub.link import RpcWriter


@attrs.define
class LinkCounters:
    """Of the streams. Counts of a link are added when the link is gone."""

    sent: int = 0
    """Frames handed to peers' streams or queues, control included."""
    streams_refused: int = 0
    """Inbound streams reset because of what they carried."""
    errors: int = 0
    """Exceptions of watchers and peer exchange (each is logged)."""
    dropped_messages: int = 0
    dropped_gossip: int = 0
    reopened: int = 0

    def add(self, link: RpcWriter) -> None:
        self.dropped_messages += link.queue.dropped_messages
        self.dropped_gossip += link.queue.dropped_gossip
        self.reopened += link.reopened


def counted(router: GossipCounters, gone: LinkCounters, links: Iterable[RpcWriter], *, errors: int) -> dict[str, int]:
    """`sent` and `received` are messages; `rejected` is over all reasons; `errors` are added to those of the links."""
    streams = attrs.evolve(gone)
    for link in links:
        streams.add(link)
    return {
        "sent": router.published + router.forwarded + router.iwant_served,
        "published": router.published,
        "forwarded": router.forwarded,
        "received": router.delivered + router.duplicates + router.ignored + sum(router.rejected.values()),
        "delivered": router.delivered,
        "duplicates": router.duplicates,
        "ignored": router.ignored,
        "rejected": sum(router.rejected.values()),
        "rpcs_received": router.rpcs,
        "rpcs_sent": streams.sent,
        "passed_over": router.passed_over,
        "graylisted": router.graylisted,
        "throttled": router.throttled,
        "oversized": router.oversized,
        "promises_broken": router.promises_broken,
        "equivocations": router.equivocations,
        "replays": router.replays,
        "idontwant_sent": router.idontwant_sent,
        "idontwant_taken": router.idontwant_taken,
        "spared": router.spared,
        "exchanged": router.exchanged,
        "opportunistic_grafts": router.opportunistic,
        "streams_refused": streams.streams_refused,
        "streams_reopened": streams.reopened,
        "dropped_messages": streams.dropped_messages,
        "dropped_gossip": streams.dropped_gossip,
        "errors": streams.errors + errors,
    }
