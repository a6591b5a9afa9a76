"""This node, its peers, and pub/sub."""

from __future__ import annotations

from chorus.fields import Schema
from chorus.http.schemas.words import COUNT, NUMBER, STRING, STRINGS, TEXT, document, ref


def peer() -> Schema:
    return document(
        {
            "peer_id": STRING,
            "agent_id": TEXT,
            "role": TEXT,
            "address": TEXT,
            "direction": {"enum": ["inbound", "outbound", None]},
            "connected_since": {"type": ["number", "null"]},
            "latency_ms": {"type": ["number", "null"]},
            "score": {"type": ["number", "null"], "description": "In pub/sub; below 0 it is in no mesh."},
            "direct": {"type": "boolean", "description": "CHORUS_GOSSIP_DIRECT_PEERS names it."},
            "availability": {"type": ["object", "null"]},
            "capabilities": {"type": ["object", "null"]},
        }
    )


def pubsub() -> Schema:
    direct: Schema = {"type": "boolean", "description": "CHORUS_GOSSIP_DIRECT_PEERS names it: in no mesh, gets all."}
    topic_score = document(
        {
            "in_mesh": {"type": "boolean"},
            "time_in_mesh": {"type": "number", "description": "P1: seconds."},
            "first_deliveries": {"type": "number", "description": "P2."},
            "mesh_deliveries": {"type": "number", "description": "P3."},
            "mesh_deliveries_wanted": {"type": "number", "description": "P3's threshold at present."},
            "mesh_failure": {"type": "number", "description": "P3b."},
            "invalid": {"type": "number", "description": "P4."},
            "score": {"type": "number", "description": "Of this topic, before its weight."},
        }
    )
    return document(
        {
            "topics": {
                "type": "array",
                "items": document(
                    {
                        "topic": STRING,
                        "mesh": {"type": "array", "items": STRING, "description": "Peer ids."},
                        "subscribers": COUNT,
                    }
                ),
            },
            "peers": {
                "type": "array",
                "items": document(
                    {
                        "peer_id": STRING,
                        "direct": direct,
                        "score": NUMBER,
                        "application": {"type": "number", "description": "P5."},
                        "group_size": {**COUNT, "description": "P6: peers of its public network."},
                        "behaviour": {"type": "number", "description": "P7."},
                        "topics": {"type": "object", "additionalProperties": topic_score},
                    }
                ),
            },
            "thresholds": {"type": "object", "additionalProperties": NUMBER},
            "counters": {"type": "object", "additionalProperties": COUNT},
        }
    )


def status() -> Schema:
    return document(
        {
            "agent_id": STRING,
            "peer_id": STRING,
            "cluster_id": TEXT,
            "version": STRING,
            "role": TEXT,
            "state": STRING,
            "uptime_s": {"type": "number", "minimum": 0},
            "addresses": STRINGS,
            "peers": COUNT,
            "alone": {
                **TEXT,
                "description": "Why no member is connected, where one should be: whether this node has joined, and "
                "what became of the last dial.",
            },
            "tasks": {"type": "object"},
            "sandbox": {"type": "object"},
            "clocks": {
                **TEXT,
                "description": "Whose messages are ignored since its clock and this node's are more than 15 minutes "
                "apart, how many, and by how much; null while nobody's are.",
            },
        },
        required=[
            *("agent_id", "peer_id", "cluster_id", "version", "role", "state", "uptime_s", "addresses", "peers"),
            "alone",
        ],
    )


def schemas() -> dict[str, Schema]:
    """Components of this node and its peers, by name."""
    return {
        "Peer": peer(),
        "PeerList": document({"peers": {"type": "array", "items": ref("Peer")}}),
        "PubSub": pubsub(),
        "Status": status(),
    }
