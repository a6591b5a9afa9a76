"""Decisions of two authors, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from chorus.identity import Identity, PeerId
from chorus.security import signing
from chorus.ucxl.record import DOMAIN, Decision
from chorus.ucxl.signed import VERSION_DOMAIN, Version

ALICE = Identity.from_seed(b"\1" * 32)
BOB = Identity.from_seed(b"\2" * 32)
FOUNDER = Identity.from_seed(b"\3" * 32)
NOW = 1_800_000_000
HASH = "ab" * 32


class Roles:
    """`Writers`: Alice and Bob are developers, the founder is the admin."""

    def __init__(self, epoch: int = 1) -> None:
        self.epoch = epoch
        self.founder: PeerId | None = FOUNDER.peer_id
        self.roles = {
            ALICE.peer_id: frozenset({"developer"}),
            BOB.peer_id: frozenset({"developer"}),
            FOUNDER.peer_id: frozenset({"admin"}),
        }

        self.former: dict[PeerId, dict[str, int]] = {}

    def wrote_under(self, peer: PeerId) -> Mapping[str, int]:
        return self.former.get(peer, {}) | dict.fromkeys(self.roles.get(peer, ()), self.epoch)


def draft(identity: Identity = ALICE, task: str = "t-1", **members: Any) -> Decision:
    """Unsigned."""
    values: dict[str, Any] = {
        "agent": str(identity.peer_id),
        "peer_id": str(identity.peer_id),
        "role": "developer",
        "project": "team..tool",
        "task": task,
        "seq": 1,
        "created": NOW,
        "kind": "note",
        "summary": "Tea, not coffee.",
        **members,
    }
    address = "ucxl://{agent}:{role}@{project}:{task}".format(**values)
    path = f"/{values['path']}" if values.get("path") else ""
    return Decision(**{"address": address + path, **values})


def decision(identity: Identity = ALICE, **members: Any) -> Decision:
    return draft(identity, **members).signed(identity)


def chain(length: int, identity: Identity = ALICE, **members: Any) -> list[Decision]:
    """The oldest first, a minute apart."""
    versions: list[Decision] = []
    for number in range(length):
        prev = versions[-1].content_hash if versions else None
        words = {"summary": f"Version {number + 1}.", "created": NOW + 60 * number, **members}
        versions.append(decision(identity, seq=number + 1, prev=prev, **words))
    return versions


def theft_of(record: Decision, thief: Identity) -> Version:
    """A version of another's content hash, well signed by somebody else as its author."""
    signature = signing.sign(thief, DOMAIN, bytes.fromhex(record.content_hash))
    stolen = attrs.evolve(record, peer_id=str(thief.peer_id), signature=signature)
    version = Version.of(stolen, thief, ciphertext=HASH, size=1, epoch=1)
    return resigned(version, thief, content=record.content_hash)


def resigned(version: Version, signer: Identity, **members: Any) -> Version:
    """With other members, signed again."""
    changed = attrs.evolve(version, signer=str(signer.peer_id), **members)
    return attrs.evolve(changed, signature=signing.sign(signer, VERSION_DOMAIN, changed.body))
