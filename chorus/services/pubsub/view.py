"""Pub/sub in the API: topics with their meshes, and every peer's score with its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import attrs

from chorus.identity import PeerId

if TYPE_CHECKING:
    from chorus.protocols.gossip import GossipRouter
    from chorus.protocols.gossipsub.score_stats import TopicScore
    from chorus.seams import JSON, Document
    from chorus.services.pubsub.service import PubSubService

DIGITS = 6
"""Decimal places of scores and counters."""


def pubsub_document(pubsub: PubSubService) -> Document:
    """{topics: [{topic, mesh, subscribers}], peers: [{peer_id, direct, score, …}], thresholds, counters}; peers by
    their id."""
    router = pubsub.router
    counters = {name: count for name, count in pubsub.counters().items() if count is not None}
    return {
        "topics": [
            {
                "topic": topic,
                "mesh": cast("JSON", [str(PeerId(raw)) for raw in router.mesh(topic)]),
                "subscribers": len(router.subscribers(topic)),
            }
            for topic in sorted(router.topics())
        ],
        "peers": [_peer(router, raw) for raw in sorted(router.peers())],
        "thresholds": cast("JSON", attrs.asdict(router.scores.params.thresholds)),
        "counters": cast("JSON", counters),
    }


def _peer(router: GossipRouter, raw: bytes) -> Document:
    view = router.score_view(raw)
    assert view is not None, "a connected peer has a score"
    return {
        "peer_id": str(PeerId(raw)),
        "direct": router.is_direct(raw),
        "score": round(view.score, DIGITS),
        "application": round(view.application, DIGITS),
        "group_size": view.group_size,
        "behaviour": round(view.behaviour, DIGITS),
        "topics": {topic: _topic(each) for topic, each in view.topics.items()},
    }


def _topic(score: TopicScore) -> Document:
    # Thousands of them in one turn of the reactor: written out instead of walked through.
    return {
        "in_mesh": score.in_mesh,
        "time_in_mesh": round(score.time_in_mesh, DIGITS),
        "first_deliveries": round(score.first_deliveries, DIGITS),
        "mesh_deliveries": round(score.mesh_deliveries, DIGITS),
        "mesh_deliveries_wanted": round(score.mesh_deliveries_wanted, DIGITS),
        "mesh_failure": round(score.mesh_failure, DIGITS),
        "invalid": round(score.invalid, DIGITS),
        "score": round(score.score, DIGITS),
    }
