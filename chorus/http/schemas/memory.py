"""Roles and decisions."""

from __future__ import annotations

from chorus.fields import Schema
from chorus.http.schemas.words import COUNT, SHA256, STRING, STRINGS, TEXT, document, nullable_ref, ref
from chorus.ucxl import record, signed


def keys() -> Schema:
    """Roles, and who holds them."""
    return document(
        {
            "founder": {
                **TEXT,
                "description": "Peer id of the founder, who alone changes roles; null while this node "
                "has no roles yet.",
            },
            "serial": {**COUNT, "description": "Of the newest roles; grows by one with each change."},
            "epoch": {**COUNT, "description": "Grows by one with each rotation."},
            "peer_id": STRING,
            "role": {"type": "string", "description": "The role that this node writes under."},
            "roles": {
                "type": "array",
                "items": document(
                    {
                        "name": STRING,
                        "reads": {**STRINGS, "description": "Other roles whose records it reads."},
                        "recipient": {"type": "string", "description": "age recipient of this epoch."},
                        "readable": {"type": "boolean", "description": "True if this node has the role's key."},
                    }
                ),
            },
            "members": {
                "type": "array",
                "items": document(
                    {
                        "peer_id": STRING,
                        "roles": STRINGS,
                        "recipient": {"type": "string", "description": "age recipient that its keys are sealed to."},
                    }
                ),
            },
        }
    )


def found_decision() -> Schema:
    return document(
        {
            "address": {**STRING, "description": "Without the version."},
            "seq": COUNT,
            "content": {**SHA256, "description": "Content hash: SHA-256 of the record without its signature."},
            "time": {**COUNT, "description": "When it was made, else when this node learned of it; Unix seconds."},
            "readable": {"type": "boolean"},
            "record": nullable_ref("Decision"),
            "head": nullable_ref("DecisionHead"),
            "version": nullable_ref("DecisionVersion"),
        }
    )


def _indexed_decision() -> Schema:
    found = found_decision()["properties"]
    words = {
        "kind": {**TEXT, "description": "null where this node may not read it."},
        "summary": {**TEXT, "description": "null where this node may not read it."},
    }
    return document({**{name: found[name] for name in ("address", "seq", "content", "time")}, **words})


def schemas() -> dict[str, Schema]:
    """Components of `/v1/keys` and `/ucxi/v1`, by name."""
    after: Schema = {"type": ["string", "null"], "description": "`after` of the next page; null at the end."}
    missing: Schema = {
        "type": ["string", "null"],
        "description": "Content hash that the last version names, and that cannot be had now: the history ends there.",
    }
    signature = document({"keyid": {**STRING, "description": "Peer id; holds the key."}, "sig": STRING})
    return {
        "Decision": record.RECORD.schema(),
        "DecisionDraft": record.DRAFT.schema(),
        "DecisionHead": signed.HEAD.schema(),
        "DecisionHistory": document(
            {
                "address": STRING,
                "versions": {"type": "array", "items": ref("FoundDecision")},
                "heads": {"type": "array", "items": ref("DecisionHead")},
                "next": after,
                "missing": missing,
            }
        ),
        "DecisionPage": document({"decisions": {"type": "array", "items": _indexed_decision()}, "next": after}),
        "DecisionVersion": signed.VERSION.schema(),
        "FoundDecision": found_decision(),
        "Keys": keys(),
        "MemoryStatus": document(
            {
                "role": {**STRING, "description": "That this node writes under."},
                **dict.fromkeys(("epoch", "decisions", "readable", "pending", "servers"), COUNT),
                "serving": {"type": "boolean", "description": "True if `servers` counts this node."},
            }
        ),
        "PlacedDecision": document(
            {
                "address": STRING,
                "seq": COUNT,
                "content": SHA256,
                "state": {"type": "string", "enum": ["pending", "stored", "safe"]},
            }
        ),
        "ProvenanceEnvelope": document(
            {
                "payloadType": STRING,
                "payload": {**STRING, "contentEncoding": "base64", "contentMediaType": "application/vnd.in-toto+json"},
                "signatures": {"type": "array", "items": signature},
            }
        ),
    }
