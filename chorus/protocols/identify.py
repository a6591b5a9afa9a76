"""identify: a peer describes itself, `/ipfs/id/1.0.0` and `/ipfs/id/push/1.0.0` (spec/wire.md 9).

The exchange is some messages, each preceded by its length, until the end of the stream. We send one of at most
4 KiB, which every implementation takes, and read up to ten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs
from google.protobuf.message import DecodeError

from chorus.errors import LimitExceeded, PeerError
from chorus.identity import PeerId, PublicKey
from chorus.multiformats.multiaddr import Multiaddr, MultiaddrError
from chorus.protocols.delimited import delimit
from chorus.protocols.proto.identify_pb2 import Identify
from chorus.protocols.starts import MAX_RECORD_BYTES as MAX_START_RECORD
from chorus.protocols.streamio import EndOfStream, StreamIO

PROTOCOL = "/ipfs/id/1.0.0"
PUSH_PROTOCOL = "/ipfs/id/push/1.0.0"
PROTOCOL_VERSION = "chorus/1"

TIMEOUT = 5.0
"""Seconds for a whole exchange, as in go-libp2p."""
MAX_SENT_BYTES = 4096
"""rust-libp2p reads no more."""
MAX_PARTS = 10
MAX_PART_BYTES = 8 * 1024
MAX_TOTAL_BYTES = 64 * 1024
MAX_ADDRESSES = 100
MAX_PROTOCOLS = 256
MAX_PROTOCOL_BYTES = 256
MAX_VERSION_BYTES = 256
MAX_RECORD_BYTES = 8 * 1024
OBSERVED_ROOM = 64
"""Bytes that the address at which we see the peer has in a message of ours."""
START_ROOM = 2 * (MAX_START_RECORD + 5)
"""Bytes that the two records of starts have in a message of ours."""

_OBSERVED_TAG = b"\x22"
"""Field 4, length-delimited."""


class IdentifyError(PeerError):
    """An identify message that cannot be decoded, or that is about another peer than the one on the connection."""

    code = "bad_identify"


@attrs.frozen
class Identification:
    """The content of one exchange. `None` and an empty list mean that the field was absent."""

    addresses: tuple[Multiaddr, ...] = ()
    """Listen addresses without `/p2p/…`, without those of protocols unknown here."""
    protocols: frozenset[str] = frozenset()
    observed: Multiaddr | None = None
    """Hearsay about our own address."""
    protocol_version: str | None = None
    agent_version: str | None = None
    signed_record: bytes | None = None
    """An envelope, not yet verified."""
    start_record: bytes | None = None
    """Of the peer's start (`protocols/starts`), not yet verified."""
    your_start_record: bytes | None = None
    """Of another start of ours, as the peer knows it; not yet verified."""

    def changed_by(self, push: Identification) -> Identification:
        """This one updated by a push: fields that it leaves out are unchanged."""
        said = {name: value for name, value in attrs.asdict(push, recurse=False).items() if value}
        return attrs.evolve(self, **said)


def build(
    key: PublicKey,
    addresses: Iterable[Multiaddr],
    protocols: Iterable[str],
    *,
    agent_version: str,
    signed_record: bytes | None = None,
    room: int = OBSERVED_ROOM,
) -> bytes:
    """Our message without its length and without what is another for each peer (see `with_observed`), which has `room`
    bytes.

    The record and then the last addresses are left out when the message would not fit 4 KiB; raises `ValueError`
    when the protocols alone do not fit.
    """
    message = Identify(
        publicKey=key.to_protobuf(),
        protocols=list(protocols),
        protocolVersion=PROTOCOL_VERSION,
        agentVersion=agent_version,
    )
    left = MAX_SENT_BYTES - room - message.ByteSize()
    if left < 0:
        raise ValueError("the protocols do not fit an identify message")
    if signed_record is not None and len(signed_record) + 4 <= left:
        message.signedPeerRecord = signed_record
        left -= len(signed_record) + 4
    for address in addresses:
        raw = address.to_bytes()
        left -= len(raw) + 3
        if left < 0:
            break
        message.listenAddrs.append(raw)
    return message.SerializeToString()


def with_observed(
    message: bytes, observed: Multiaddr, *, start: bytes | None = None, your_start: bytes | None = None
) -> bytes:
    """Add what is another for each peer, and the length prefix: ready for the stream. `observed` is the address that
    the peer is seen at; of starts see `Identification`."""
    own = Identify(startRecord=start, yourStartRecord=your_start).SerializeToString()
    return delimit(message + _OBSERVED_TAG + delimit(observed.to_bytes()) + own)


async def read(stream: StreamIO, peer: PeerId) -> Identification:
    """Read one exchange to its end, and check that it is about `peer`."""
    parts: list[bytes] = []
    total = 0
    while True:
        try:
            part = await stream.read_delimited(MAX_PART_BYTES, timeout=TIMEOUT)
        except EndOfStream:
            return parse(parts, peer)
        parts.append(part)
        total += len(part)
        _limit("identify_parts", len(parts), MAX_PARTS)
        _limit("identify_bytes", total, MAX_TOTAL_BYTES)


def parse(parts: Sequence[bytes], peer: PeerId) -> Identification:
    """Merge the parts of one exchange: scalars overwrite, lists append. Raises `IdentifyError`, `LimitExceeded`."""
    if not parts:
        raise IdentifyError("an identify exchange without a message")
    _limit("identify_parts", len(parts), MAX_PARTS)
    # Concatenated protobuf messages are their merge.
    encoded = parts[0] if len(parts) == 1 else b"".join(parts)
    _limit("identify_bytes", len(encoded), MAX_TOTAL_BYTES)
    message = Identify()
    try:
        message.ParseFromString(encoded)
        _check_key(message, peer)
        return Identification(
            addresses=_addresses(message.listenAddrs, peer),
            protocols=_protocols(message.protocols),
            observed=_address(message.observedAddr) if message.HasField("observedAddr") else None,
            protocol_version=_version(message, "protocolVersion"),
            agent_version=_version(message, "agentVersion"),
            signed_record=_record(message),
            start_record=_start_record(message.startRecord),
            your_start_record=_start_record(message.yourStartRecord),
        )
    except (DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IdentifyError(f"an identify message cannot be decoded: {error}") from None


def _limit(name: str, value: int, maximum: int) -> None:
    if value > maximum:
        raise LimitExceeded(name, value, maximum)


def _check_key(message: Identify, peer: PeerId) -> None:
    if not message.publicKey:
        return
    if PeerId.from_public_key(PublicKey.from_protobuf(message.publicKey)) != peer:
        raise IdentifyError("the public key is not that of the connection")


def _addresses(raw: Sequence[bytes], peer: PeerId) -> tuple[Multiaddr, ...]:
    _limit("identify_addresses", len(raw), MAX_ADDRESSES)
    return own_addresses((address for item in raw if (address := _address(item)) is not None), peer)


def own_addresses(addresses: Iterable[Multiaddr], peer: PeerId) -> tuple[Multiaddr, ...]:
    """Addresses that may be `peer`'s own, once each and without `/p2p/…`; those that name another peer are dropped."""
    found: dict[Multiaddr, None] = {}
    for address in addresses:
        named = address.peer_id()
        if named is None:
            found[address] = None
        elif named == peer and len(address.parts) > 1:
            found[address.without_peer()] = None
    return tuple(found)


def _address(raw: bytes) -> Multiaddr | None:
    try:
        return Multiaddr.from_bytes(raw)
    except MultiaddrError:
        return None


def _protocols(names: Sequence[str]) -> frozenset[str]:
    _limit("identify_protocols", len(names), MAX_PROTOCOLS)
    for name in names:
        _limit("identify_protocol_bytes", len(name.encode()), MAX_PROTOCOL_BYTES)
    return frozenset(name for name in names if name)


def _version(message: Identify, field: str) -> str | None:
    if not message.HasField(field):
        return None
    text: str = getattr(message, field)
    _limit("identify_version_bytes", len(text.encode()), MAX_VERSION_BYTES)
    return text


def _record(message: Identify) -> bytes | None:
    if not message.signedPeerRecord:
        return None
    _limit("identify_record_bytes", len(message.signedPeerRecord), MAX_RECORD_BYTES)
    return message.signedPeerRecord


def _start_record(encoded: bytes) -> bytes | None:
    _limit("identify_start_bytes", len(encoded), MAX_START_RECORD)
    return encoded or None
