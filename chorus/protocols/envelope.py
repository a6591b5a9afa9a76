"""Signed envelopes and peer records (spec/wire.md 8), with the domain that deployed implementations use. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
from google.protobuf.message import DecodeError

from chorus.errors import PeerError
from chorus.identity import Identity, KeyType, PeerId, PublicKey
from chorus.multiformats.multiaddr import Multiaddr, MultiaddrError
from chorus.protocols.delimited import delimit
from chorus.protocols.proto import envelope_pb2

MAX_ENVELOPE = 32 * 1024
"""Bytes; `MAX_ADDRESSES` of 256 bytes and a signature fit."""
MAX_ADDRESSES = 100
"""Addresses of one record."""

PEER_RECORD_DOMAIN = b"libp2p-peer-record"
PEER_RECORD_TYPE = b"\x03\x01"


class EnvelopeError(PeerError):
    """An envelope or record that is malformed, of another kind, or not signed by whom it speaks of."""

    code = "bad_envelope"


def signed_bytes(domain: bytes, payload_type: bytes, payload: bytes) -> bytes:
    """The bytes that the signature covers: each part with its length before it."""
    return b"".join(map(delimit, (domain, payload_type, payload)))


def seal(identity: Identity, domain: bytes, payload_type: bytes, payload: bytes) -> bytes:
    """A serialised envelope."""
    return envelope_pb2.Envelope(
        public_key=identity.public_key.to_protobuf(),
        payload_type=payload_type,
        payload=payload,
        signature=identity.sign(signed_bytes(domain, payload_type, payload)),
    ).SerializeToString()


def open_envelope(
    encoded: bytes, domain: bytes, payload_type: bytes, *, any_key: bool = False
) -> tuple[PublicKey, bytes]:
    """Return (signer's key, payload). Raises `EnvelopeError`, also for a payload of another type.

    Signers with other keys than Ed25519 are refused unverified unless `any_key`: a signature on P-521 costs fifteen
    times as much to check, and envelopes come by the dozen.
    """
    if len(encoded) > MAX_ENVELOPE:
        raise EnvelopeError(f"an envelope of {len(encoded)} bytes is over the limit of {MAX_ENVELOPE}")
    try:
        envelope = envelope_pb2.Envelope.FromString(encoded)
    except DecodeError:
        raise EnvelopeError("not an envelope") from None
    if envelope.payload_type != payload_type:
        raise EnvelopeError("the envelope holds another kind of payload")
    try:
        key = PublicKey.from_protobuf(envelope.public_key)
        if key.type is not KeyType.ED25519 and not any_key:
            raise EnvelopeError(f"{key.type.name} keys are not taken here")
        key.verify(signed_bytes(domain, payload_type, envelope.payload), envelope.signature)
    except PeerError as error:
        raise EnvelopeError(f"the envelope is refused: {error}") from error
    return key, envelope.payload


@attrs.frozen
class PeerRecord:
    """Where a peer says it can be reached. A higher `seq` (Unix nanoseconds in practice) replaces a lower one."""

    peer_id: PeerId
    seq: int
    addresses: tuple[Multiaddr, ...]

    def seal(self, identity: Identity) -> bytes:
        """A serialised, signed envelope. Raises `ValueError` for another peer's identity."""
        if identity.peer_id != self.peer_id:
            raise ValueError(f"{identity.peer_id} cannot sign a record of {self.peer_id}")
        record = envelope_pb2.PeerRecord(
            peer_id=self.peer_id.raw,
            seq=self.seq,
            addresses=[envelope_pb2.PeerRecord.AddressInfo(multiaddr=address.to_bytes()) for address in self.addresses],
        )
        return seal(identity, PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, record.SerializeToString())

    @classmethod
    def open(cls, encoded: bytes, *, any_key: bool = False) -> PeerRecord:
        """Verify and decode; addresses with unknown protocols are left out. Raises `EnvelopeError`.

        Records of peers with other keys than Ed25519 are refused unless `any_key`; see `open_envelope`.

        Whether the record is newer than one already known, and whether to keep it at all, is the caller's decision.
        """
        key, payload = open_envelope(encoded, PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, any_key=any_key)
        try:
            record = envelope_pb2.PeerRecord.FromString(payload)
            peer = PeerId.from_bytes(record.peer_id)
        except (DecodeError, PeerError) as error:
            raise EnvelopeError(f"not a peer record: {error}") from None
        if PeerId.from_public_key(key) != peer:
            raise EnvelopeError(f"a record of {peer} that somebody else signed")
        if len(record.addresses) > MAX_ADDRESSES:
            raise EnvelopeError(f"{len(record.addresses)} addresses are over the limit of {MAX_ADDRESSES}")
        return cls(peer, record.seq, tuple(_known(entry.multiaddr for entry in record.addresses)))


def _known(encoded: Iterable[bytes]) -> Iterable[Multiaddr]:
    for one in encoded:
        try:
            yield Multiaddr.from_bytes(one)
        except MultiaddrError:
            continue
