"""StrictSign: every message is signed by its publisher (pubsub specification, "Message Signing"; spec/wire.md 12)."""

from __future__ import annotations

from typing import Final, Protocol

from chorus.bounded import Bounded
from chorus.errors import ChorusError
from chorus.identity import KeyType, PeerId, PublicKey
from chorus.protocols.delimited import delimit
from chorus.protocols.gossipsub.rpc import IDENTITY_MULTIHASH, Message, MessageError

SIGNING_PREFIX: Final = b"libp2p-pubsub:"

MAX_SIGNATURE: Final = 1024
"""Bytes: RSA 8192, the largest key taken."""

KEY_CACHE: Final = 1024
"""Publishers whose key is kept parsed; the one used longest ago leaves first."""


class SigningKey(Protocol):
    """The part of `chorus.identity.Identity` that signing needs."""

    @property
    def peer_id(self) -> PeerId: ...

    def sign(self, message: bytes) -> bytes: ...


class Signer:
    """Serialises and signs in one go: fields 1 to 4 are written once, are what is signed, and the signature follows."""

    __slots__ = ("_from", "_identity")

    def __init__(self, identity: SigningKey) -> None:
        self._identity = identity
        raw = identity.peer_id.raw
        self._from = b"\x0a" + delimit(raw)

    def sign(self, topic: str, data: bytes, seqno: bytes) -> bytes:
        """The serialised Message. `seqno` is 8 bytes; the key is left out, since `from` inlines it (Ed25519)."""
        body = b"".join((self._from, b"\x12", delimit(data), b"\x1a\x08", seqno, b"\x22", delimit(topic.encode())))
        signature = self._identity.sign(SIGNING_PREFIX + body)
        return body + b"\x2a" + delimit(signature)


class Verifier:
    """Verifies messages over the bytes received; keeps the keys of recent publishers parsed.

    Publishers with other keys than Ed25519 are refused unless `any_key`: a signature on P-521 costs fifteen times as
    much to check, and one RPC of them would hold the reactor for half a second.
    """

    __slots__ = ("_any_key", "_keys")

    def __init__(self, *, any_key: bool = False) -> None:
        self._any_key = any_key
        self._keys: Bounded[bytes, tuple[PublicKey, bytes]] = Bounded(KEY_CACHE)
        """Publisher → its key, and the key's protobuf as a message may show it."""

    def verify(self, message: Message) -> None:
        """Raises `MessageError`: `bad_from`, `no_key`, `key_type`, `key_mismatch` or `bad_signature`."""
        if len(message.signature) > MAX_SIGNATURE:
            raise MessageError("bad_signature")
        known = self._keys.get(message.origin)
        if known is None or message.key not in (None, known[1]):
            known = self._parse(message.origin, message.key)
        self._keys.put(message.origin, known)
        try:
            known[0].verify(SIGNING_PREFIX + message.signed, message.signature)
        except ChorusError as error:
            raise MessageError("bad_signature") from error

    def _parse(self, origin: bytes, key: bytes | None) -> tuple[PublicKey, bytes]:
        """The key of `origin`: given beside the message and hashing to it, or inlined in it."""
        try:
            peer = PeerId.from_bytes(origin)
        except ChorusError as error:
            raise MessageError("bad_from") from error
        if key is None:
            if origin[0] != IDENTITY_MULTIHASH:
                raise MessageError("no_key")
            key = origin[2:]
        try:
            public = PublicKey.from_protobuf(key)
        except ChorusError as error:
            raise MessageError("key_mismatch") from error
        if public.type is not KeyType.ED25519 and not self._any_key:
            raise MessageError("key_type")
        if PeerId.from_public_key(public) != peer:
            raise MessageError("key_mismatch")
        return public, key
