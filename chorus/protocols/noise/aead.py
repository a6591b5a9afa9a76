"""ChaCha20-Poly1305 behind one small seam: two libraries, chosen by measurement (`benchmarks/noise_aead.py`).

`cryptography` takes 0.7 µs for a small frame and 20 µs for one of 64 KiB where PyNaCl takes 3.7 µs and 52 µs, so it is
the default; PyNaCl's stays as the second opinion that the tests compare it with.
"""

from __future__ import annotations

from typing import Protocol

from cryptography.exceptions import InvalidTag as AuthenticationError
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from nacl import bindings
from nacl.exceptions import CryptoError

__all__ = ["Aead", "AuthenticationError", "ChaCha20Poly1305", "SodiumChaCha20Poly1305"]

Buffer = bytes | bytearray | memoryview


class Aead(Protocol):
    """One key. Nonces have 12 bytes, tags 16; `decrypt` raises `AuthenticationError`."""

    def encrypt(self, nonce: bytes, data: Buffer, associated_data: bytes | None) -> bytes: ...

    def decrypt(self, nonce: bytes, data: Buffer, associated_data: bytes | None) -> bytes: ...


class SodiumChaCha20Poly1305:
    """libsodium's implementation, through PyNaCl."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encrypt(self, nonce: bytes, data: Buffer, associated_data: bytes | None) -> bytes:
        return bindings.crypto_aead_chacha20poly1305_ietf_encrypt(bytes(data), associated_data, nonce, self._key)

    def decrypt(self, nonce: bytes, data: Buffer, associated_data: bytes | None) -> bytes:
        try:
            return bindings.crypto_aead_chacha20poly1305_ietf_decrypt(bytes(data), associated_data, nonce, self._key)
        except CryptoError:
            raise AuthenticationError from None
