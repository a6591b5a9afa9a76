"""The handshake pattern Noise_XX_25519_ChaChaPoly_SHA256, without libp2p's payloads (spec/wire.md 6). Pure.

Messages here have no length prefix. Keys and prologue are given, so published vectors can be replayed.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable

from nacl import bindings

from chorus.entropy import RandomBytes, system_random
from chorus.errors import PeerError
from chorus.protocols.noise.aead import Aead, AuthenticationError, Buffer, ChaCha20Poly1305

PROTOCOL_NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"
"""Exactly 32 bytes, so it is the first `h` itself, not its hash."""
KEY = 32
TAG = 16
NONCE_END = 2**64 - 1
"""Reserved by Noise: a cipher state ends before it."""

KeyPair = tuple[bytes, bytes]
"""X25519 (private, public), 32 bytes each."""
NewCipher = Callable[[bytes], Aead]

pack_nonce = struct.Struct("<4xQ").pack
"""4 zero bytes, 8 bytes little-endian."""

_PATTERN = (("e",), ("e", "ee", "s", "es"), ("s", "se"))


class NoiseError(PeerError):
    """The peer broke the handshake or the session; the connection is to be closed."""

    code = "noise_error"


class NonceExhausted(NoiseError):
    """2**64 - 1 messages went one way: the session has to end."""

    code = "nonce_exhausted"


def generate_keypair(random: RandomBytes = system_random) -> KeyPair:
    """X25519 key pair; its private half is 32 bytes of `random`."""
    private = random(KEY)
    return private, bindings.crypto_scalarmult_base(private)


def diffie_hellman(private: bytes, public: bytes) -> bytes:
    """Raises `NoiseError` where the result is all zeros: a public key of small order."""
    try:
        return bindings.crypto_scalarmult(private, public)
    except RuntimeError:
        raise NoiseError("the peer's X25519 key is of small order") from None


class CipherState:
    """Handshake encryption under one key. The counter moves only after success."""

    __slots__ = ("_cipher", "nonce")

    def __init__(self, cipher: Aead) -> None:
        self._cipher = cipher
        self.nonce = 0

    def encrypt(self, associated: bytes, plaintext: bytes) -> bytes:
        if self.nonce >= NONCE_END:
            raise NonceExhausted("no nonce is left")
        sealed = self._cipher.encrypt(pack_nonce(self.nonce), plaintext, associated)
        self.nonce += 1
        return sealed

    def decrypt(self, associated: bytes, ciphertext: Buffer) -> bytes:
        if self.nonce >= NONCE_END:
            raise NonceExhausted("no nonce is left")
        try:
            plaintext = self._cipher.decrypt(pack_nonce(self.nonce), ciphertext, associated)
        except AuthenticationError:
            raise NoiseError("a handshake message does not authenticate") from None
        self.nonce += 1
        return plaintext


class NoiseXX:
    """Write and read the three messages in turn; then `split`.

    `remote_static` is known once the message that carries it has been read, `handshake_hash` is final after the third.
    """

    __slots__ = (
        "_chaining",
        "_cipher",
        "_ephemeral",
        "_initiator",
        "_new_cipher",
        "_remote",
        "_static",
        "handshake_hash",
        "turn",
    )

    def __init__(
        self,
        *,
        initiator: bool,
        static: KeyPair,
        ephemeral: KeyPair,
        prologue: bytes = b"",
        new_cipher: NewCipher = ChaCha20Poly1305,
    ) -> None:
        self.handshake_hash = PROTOCOL_NAME
        self.turn = 0
        self._chaining = PROTOCOL_NAME
        self._cipher: CipherState | None = None
        self._initiator = initiator
        self._static = static
        self._ephemeral = ephemeral
        self._remote: dict[str, bytes] = {}
        self._new_cipher = new_cipher
        self._mix_hash(prologue)

    @property
    def finished(self) -> bool:
        return self.turn == len(_PATTERN)

    @property
    def remote_static(self) -> bytes:
        return self._remote["s"]

    def write_message(self, payload: bytes) -> bytes:
        message = bytearray()
        for token in self._tokens(writing=True):
            if token == "e":
                message += self._ephemeral[1]
                self._mix_hash(self._ephemeral[1])
            elif token == "s":
                message += self._encrypt_and_hash(self._static[1])
            else:
                self._mix_key(token)
        message += self._encrypt_and_hash(payload)
        self.turn += 1
        return bytes(message)

    def read_message(self, message: bytes) -> bytes:
        """Return the payload. Raises `NoiseError`; the handshake is then over."""
        offset = 0
        for token in self._tokens(writing=False):
            if token in {"e", "s"}:
                size = KEY if token == "e" or self._cipher is None else KEY + TAG
                part = message[offset : offset + size]
                if len(part) != size:
                    raise NoiseError("a handshake message is too short")
                offset += size
                if token == "s":
                    part = self._decrypt_and_hash(part)
                else:
                    self._mix_hash(part)
                self._remote[token] = part
            else:
                self._mix_key(token)
        payload = self._decrypt_and_hash(message[offset:])
        self.turn += 1
        return payload

    def split(self) -> tuple[Aead, Aead]:
        """Ciphers for (sending, receiving). The first key is the initiator's to send with."""
        first, second = self._derive(b"")
        keys = (first, second) if self._initiator else (second, first)
        return self._new_cipher(keys[0]), self._new_cipher(keys[1])

    def _tokens(self, *, writing: bool) -> tuple[str, ...]:
        initiators_turn = self.turn % 2 == 0
        if self.finished or (initiators_turn == self._initiator) != writing:
            raise RuntimeError("a handshake message out of turn")
        return _PATTERN[self.turn]

    def _mix_key(self, token: str) -> None:
        """The first letter of a DH token is the initiator's key, the second the responder's."""
        local, remote = (token[0], token[1]) if self._initiator else (token[1], token[0])
        private = (self._ephemeral if local == "e" else self._static)[0]
        self._chaining, key = self._derive(diffie_hellman(private, self._remote[remote]))
        self._cipher = CipherState(self._new_cipher(key))

    def _derive(self, material: bytes) -> tuple[bytes, bytes]:
        """Noise's HKDF with two outputs: no info string."""
        secret = hmac.digest(self._chaining, material, "sha256")
        first = hmac.digest(secret, b"\x01", "sha256")
        return first, hmac.digest(secret, first + b"\x02", "sha256")

    def _mix_hash(self, data: Buffer) -> None:
        self.handshake_hash = hashlib.sha256(self.handshake_hash + data).digest()

    def _encrypt_and_hash(self, plaintext: bytes) -> bytes:
        sealed = plaintext if self._cipher is None else self._cipher.encrypt(self.handshake_hash, plaintext)
        self._mix_hash(sealed)
        return sealed

    def _decrypt_and_hash(self, sealed: bytes) -> bytes:
        plaintext = sealed if self._cipher is None else self._cipher.decrypt(self.handshake_hash, sealed)
        self._mix_hash(sealed)
        return plaintext
