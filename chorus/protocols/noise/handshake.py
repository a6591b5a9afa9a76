"""libp2p's Noise handshake, `/noise` (spec/wire.md 6). Pure: bytes in, bytes out, then a `HandshakeResult`.

Frames are `2-byte big-endian length ‖ Noise message`. Messages 2 and 3 carry a protobuf payload that binds the X25519
static key to the identity key. The static key is made once a process, never stored and never derived from the identity.
The time limit of a handshake and how many may run at once are its shell's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from weakref import WeakKeyDictionary

import attrs
from google.protobuf.message import DecodeError

from chorus.errors import PeerError
from chorus.identity import Identity, PeerId, PublicKey
from chorus.protocols.noise.session import MAX_PLAINTEXT, NoiseSession
from chorus.protocols.noise.xx import (
    KEY,
    TAG,
    KeyPair,
    NoiseError,
    NoiseXX,
    NonceExhausted,
    generate_keypair,
)
from chorus.protocols.proto.noise_pb2 import NoiseExtensions, NoiseHandshakePayload

__all__ = [
    "MAX_PLAINTEXT",
    "PROTOCOL",
    "HandshakeResult",
    "NoiseError",
    "NoiseHandshake",
    "NoiseSession",
    "NonceExhausted",
    "PeerIdMismatch",
    "SelfDial",
    "StaticKey",
]

PROTOCOL = "/noise"
SIGNATURE_PREFIX = b"noise-libp2p-static-key:"
MAX_HANDSHAKE_FRAME = 8192
"""Bytes: a key of 4 KiB, a signature of 1 KiB and extensions; a longer frame is refused at its length."""
MIN_FRAME = (KEY, KEY + KEY + TAG + TAG, KEY + TAG + TAG)
MAX_MUXERS = 16
"""Entries of a peer's `stream_muxers`."""
MAX_MUXER_NAME = 256


class PeerIdMismatch(NoiseError):
    """Another peer answered than the one that was dialled."""

    code = "peer_id_mismatch"

    def __init__(self, expected: PeerId, actual: PeerId) -> None:
        super().__init__(f"{actual} answered where {expected} was dialled")
        self.expected = expected
        self.actual = actual


class SelfDial(NoiseError):
    """The peer at the other end is this node."""

    code = "self_dial"


@attrs.frozen(repr=False)
class StaticKey:
    """An X25519 key pair with the payload by which an identity vouches for it."""

    pair: KeyPair
    payload: bytes

    @classmethod
    def make(cls, identity: Identity, pair: KeyPair) -> StaticKey:
        payload = NoiseHandshakePayload(
            identity_key=identity.public_key.to_protobuf(), identity_sig=identity.sign(SIGNATURE_PREFIX + pair[1])
        )
        return cls(pair, payload.SerializeToString())

    @classmethod
    def of_process(cls, identity: Identity) -> StaticKey:
        """The one key of this identity in this process; saves a key generation and a signature a connection."""
        static = _of_process.get(identity)
        if static is None:
            static = _of_process[identity] = cls.make(identity, generate_keypair())
        return static


_of_process: WeakKeyDictionary[Identity, StaticKey] = WeakKeyDictionary()


@attrs.frozen
class HandshakeResult:
    """An authenticated peer and the session with it."""

    peer_id: PeerId
    public_key: PublicKey
    handshake_hash: bytes
    """32 bytes, the same at both ends."""
    muxer: str | None
    """Negotiated early: both lists were there and share it. `None` means by multistream."""
    session: NoiseSession
    leftover: bytes
    """Bytes after the handshake: transport frames, to be fed to the session."""


class NoiseHandshake:
    """One side of a handshake. Feed `receive_data`, send `data_to_send`, until `result` is there.

    `muxers` are offered for early negotiation, best first; the initiator's order decides. Both ends must tell the peer
    its own identity apart from theirs: dialling oneself is refused, and so is any other peer than `expected_peer`.
    `prologue` is for published vectors; libp2p's is empty.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        initiator: bool,
        expected_peer: PeerId | None = None,
        muxers: Sequence[str] = (),
        static: StaticKey | None = None,
        generate_keypair: Callable[[], KeyPair] = generate_keypair,
        prologue: bytes = b"",
    ) -> None:
        self.result: HandshakeResult | None = None
        self._identity = identity
        self._initiator = initiator
        self._expected_peer = expected_peer
        self._muxers = tuple(muxers)
        self._static = static or StaticKey.of_process(identity)
        self._remote: tuple[PeerId, PublicKey, tuple[str, ...]] | None = None
        self._buffer = bytearray()
        self._out = bytearray()
        self._failure: NoiseError | None = None
        self._noise = NoiseXX(
            initiator=initiator,
            static=self._static.pair,
            ephemeral=generate_keypair(),
            prologue=prologue,
        )
        if initiator:
            self._write(b"")

    def data_to_send(self) -> bytes:
        """Drain what is to be sent."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def receive_data(self, data: bytes) -> None:
        """Raises `NoiseError`; the connection is then to be closed, and every further call raises it again."""
        if self._failure is not None:
            raise self._failure
        if self.result is not None:
            raise RuntimeError("the handshake is over: give its bytes to the session")
        self._buffer += data
        try:
            while self.result is None and (frame := self._next_frame()) is not None:
                self._receive_frame(frame)
        except NoiseError as error:
            self._failure = error
            raise
        except PeerError as error:
            self._failure = NoiseError(f"the peer's identity is refused: {error}")
            raise self._failure from error

    def _next_frame(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        length = buffer[0] << 8 | buffer[1]
        least = MIN_FRAME[self._noise.turn]
        if not least <= length <= MAX_HANDSHAKE_FRAME:
            number = self._noise.turn + 1
            raise NoiseError(
                f"handshake message {number} has {length} bytes; {least} to {MAX_HANDSHAKE_FRAME} are legal"
            )
        if len(buffer) < 2 + length:
            return None
        frame = bytes(buffer[2 : 2 + length])
        del buffer[: 2 + length]
        return frame

    def _receive_frame(self, frame: bytes) -> None:
        first = self._noise.turn == 0
        payload = self._noise.read_message(frame)
        if not first:  # the payload of message 1 is unauthenticated clear text
            self._remote = self._check_payload(payload)
        if not self._noise.finished:
            self._write(self._static.payload + _encode_muxers(self._muxers))
        if self._noise.finished:
            self._finish()

    def _write(self, payload: bytes) -> None:
        message = self._noise.write_message(payload)
        self._out += len(message).to_bytes(2, "big") + message

    def _check_payload(self, encoded: bytes) -> tuple[PeerId, PublicKey, tuple[str, ...]]:
        """The order matters: key, signature, peer id, and only then is an extension looked at."""
        try:
            payload = NoiseHandshakePayload.FromString(encoded)
        except DecodeError:
            raise NoiseError("the handshake payload is no protobuf message") from None
        key = PublicKey.from_protobuf(payload.identity_key)
        key.verify(SIGNATURE_PREFIX + self._noise.remote_static, payload.identity_sig)
        peer = PeerId.from_public_key(key)
        if peer == self._identity.peer_id:
            raise SelfDial("the peer at the other end is this node itself")
        if self._expected_peer is not None and peer != self._expected_peer:
            raise PeerIdMismatch(self._expected_peer, peer)
        return peer, key, _decode_muxers(payload.extensions)

    def _finish(self) -> None:
        assert self._remote is not None
        peer, key, theirs = self._remote
        offered, known = (self._muxers, theirs) if self._initiator else (theirs, self._muxers)
        self.result = HandshakeResult(
            peer_id=peer,
            public_key=key,
            handshake_hash=self._noise.handshake_hash,
            muxer=next((muxer for muxer in offered if muxer in known), None),
            session=NoiseSession(*self._noise.split()),
            leftover=bytes(self._buffer),
        )
        self._buffer.clear()


@lru_cache(maxsize=16)
def _encode_muxers(muxers: tuple[str, ...]) -> bytes:
    """Extensions as they stand in the payload; a field can be appended to an encoded message."""
    if not muxers:
        return b""
    return NoiseHandshakePayload(extensions=NoiseExtensions(stream_muxers=muxers)).SerializeToString()


def _decode_muxers(extensions: NoiseExtensions) -> tuple[str, ...]:
    if len(extensions.stream_muxers) > MAX_MUXERS:
        raise NoiseError(f"{len(extensions.stream_muxers)} muxers are over the limit of {MAX_MUXERS}")
    muxers = tuple(extensions.stream_muxers)
    if any(len(muxer) > MAX_MUXER_NAME for muxer in muxers):
        raise NoiseError(f"the name of a muxer is over {MAX_MUXER_NAME} characters")
    return muxers
