"""The security layers of simulated nodes: Noise with keys drawn from the seed, and none at all for tier C.

`PlainHandshake` proves nothing and hides nothing. Nothing outside this package and the tests may pass it to a host
(`tests/simulation/test_lint.py`), and no protocol id selects it: it answers to Noise's own name, inside one world.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any, Final, cast

from chorus.identity import Identity, PeerId, PublicKey
from chorus.protocols.connection.core import MakeHandshake
from chorus.protocols.noise.aead import Buffer
from chorus.protocols.noise.handshake import HandshakeResult, NoiseHandshake, PeerIdMismatch, SelfDial, StaticKey
from chorus.protocols.noise.xx import KeyPair, generate_keypair

NONCE: Final = 16


class SeededNoise:
    """`MakeHandshake`: real Noise of one node, whose keys come from `rng`."""

    def __init__(self, identity: Identity, rng: random.Random) -> None:
        self._rng = rng
        self._static = StaticKey.make(identity, self._generate())

    def __call__(self, identity: Identity, **options: Any) -> NoiseHandshake:
        return NoiseHandshake(identity, static=self._static, generate_keypair=self._generate, **options)

    def _generate(self) -> KeyPair:
        return generate_keypair(self._rng.randbytes)


class PlainSession:
    """Stands in for `NoiseSession`: bytes pass as they are."""

    partial = False

    def seal(self, parts: Sequence[Buffer]) -> bytes:
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def open(self, data: bytes) -> list[bytes]:
        return [data] if data else []


class PlainHandshake:
    """Both ends say their key and a nonce, the initiator first: `2-byte length ‖ key ‖ nonce`."""

    def __init__(
        self,
        identity: Identity,
        rng: random.Random,
        *,
        initiator: bool,
        expected_peer: PeerId | None = None,
        muxers: Sequence[str] = (),
    ) -> None:
        self.result: HandshakeResult | None = None
        self._identity = identity
        self._initiator = initiator
        self._expected_peer = expected_peer
        self._muxers = tuple(muxers)
        self._buffer = b""
        self._hello = identity.public_key.to_protobuf() + rng.randbytes(NONCE)
        self._out = self._framed() if initiator else b""

    def data_to_send(self) -> bytes:
        data, self._out = self._out, b""
        return data

    def receive_data(self, data: bytes) -> None:
        """Raises `NoiseError`, and `BadKey` for what is no key."""
        self._buffer += data
        if len(self._buffer) < 2:
            return
        end = 2 + int.from_bytes(self._buffer[:2], "big")
        if len(self._buffer) < end:
            return
        hello, leftover = self._buffer[2:end], self._buffer[end:]
        key = PublicKey.from_protobuf(hello[:-NONCE])
        peer = PeerId.from_public_key(key)
        self._check(peer)
        if not self._initiator:
            self._out = self._framed()
        first, second = (self._hello, hello) if self._initiator else (hello, self._hello)
        self.result = HandshakeResult(
            peer_id=peer,
            public_key=key,
            handshake_hash=hashlib.sha256(first + second).digest(),
            muxer=self._muxers[0] if self._muxers else None,
            session=cast("Any", PlainSession()),
            leftover=leftover,
        )

    def _check(self, peer: PeerId) -> None:
        if peer == self._identity.peer_id:
            raise SelfDial("the peer at the other end is this node itself")
        if self._expected_peer is not None and peer != self._expected_peer:
            raise PeerIdMismatch(self._expected_peer, peer)

    def _framed(self) -> bytes:
        return len(self._hello).to_bytes(2, "big") + self._hello


def plain(rng: random.Random) -> MakeHandshake:
    """`MakeHandshake` of tier C."""

    def make(identity: Identity, **options: Any) -> NoiseHandshake:
        return cast("NoiseHandshake", PlainHandshake(identity, rng, **options))

    return make
