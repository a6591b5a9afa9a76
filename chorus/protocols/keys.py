"""/chorus/keys/1.0.0: members show their age recipient and exchange `roles.json` (spec/amendments.md 28). Pure.

    asker  → KeyShow                     both are JSON in canonical form, preceded by their length as an unsigned varint
    answer ← KeyShow
           ← roles.json, whole           where its rank is over that of the asker

The rank is (epoch, serial). A higher one in the asker's `KeyShow` makes the answering side ask in its turn.
"""

from __future__ import annotations

from typing import Any, Final, cast

import attrs

from chorus import strictjson
from chorus.errors import PeerError
from chorus.fields import Base64, Object, Refusal, field
from chorus.fields.members import SERIAL
from chorus.identity import Identity, PeerId
from chorus.security.roles import RECIPIENT, Rank
from chorus.security.signing import sign, verify

PROTOCOL: Final = "/chorus/keys/1.0.0"
DOMAIN: Final = "chorus-recipient/1"
MAX_SHOW: Final = 1024
"""Bytes of a `KeyShow`; ours have about 250."""


class BadKeyShow(PeerError):
    """Not a message of this protocol, or one that its sender did not sign."""

    code = "bad_key_show"


@attrs.frozen
class KeyShow:
    """A member's age recipient, and serial and epoch of its `roles.json`."""

    recipient: str = field(RECIPIENT, "What the founder seals this member's roles to.")
    signature: bytes = field(Base64(64, 1), "Over cluster id and recipient, by the member's identity.")
    serial: int = field(SERIAL, "0 without a `roles.json`.")
    epoch: int = field(SERIAL, "0 without a `roles.json`.", default=0)

    @classmethod
    def make(cls, identity: Identity, cluster_id: bytes, recipient: str, rank: Rank) -> KeyShow:
        epoch, serial = rank
        return cls(recipient, sign(identity, DOMAIN, cluster_id + recipient.encode()), serial, epoch)

    @property
    def rank(self) -> Rank:
        """Of its `roles.json`."""
        return self.epoch, self.serial

    def encode(self) -> bytes:
        return strictjson.canonical(cast("Any", _SHOW.write(self)))

    @classmethod
    def decode(cls, data: bytes, peer: PeerId, cluster_id: bytes) -> KeyShow:
        """The recipient that `peer` shows, verified. Raises `BadKeyShow`."""
        value = strictjson.loads(data, max_bytes=MAX_SHOW, max_depth=1, error=BadKeyShow)
        try:
            show = _SHOW.read(value)
            verify(peer, DOMAIN, cluster_id + show.recipient.encode(), show.signature)
        except Refusal as refusal:
            raise BadKeyShow(refusal.rule("what it shows")) from None
        except PeerError as error:
            raise BadKeyShow(f"the recipient is not signed by {peer}: {error}") from None
        return show


_SHOW: Final = Object(KeyShow)
