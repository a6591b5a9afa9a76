"""Join tokens (cluster id, a member's peer id and addresses, the secret), and secrets as text.

A token is one word that can be copied: `chorus1` and base58 of a version byte, the fields and a checksum. It is as
secret as the cluster's secret, so no error here repeats it.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import string
from collections.abc import Iterable

import attrs

from chorus.errors import PeerError, UserError
from chorus.identity import PeerId
from chorus.multiformats import base58, varint
from chorus.multiformats.multiaddr import Multiaddr

PREFIX = "chorus1"
_VERSION = b"\x01"
_CHECKSUM = 4
CLUSTER_ID = 32
"""Bytes of a cluster id."""
MIN_SECRET_BITS = 128
MAX_SECRET = 128
"""Bytes."""
MAX_ADDRESSES = 8
MAX_ADDRESS_BYTES = 512
"""All addresses of a token together, so that it stays one line."""


class TokenError(UserError):
    """A text that is no join token of this version."""

    code = "bad_join_token"


class WeakSecret(UserError):
    """A secret below 128 bits."""

    code = "weak_secret"


def parse_secret(text: str, *, source: str) -> bytes:
    """The secret that a person configured: hexadecimal digits are its bytes, any other text is itself in UTF-8.

    Raises `WeakSecret` when even a random text of that length and those kinds of characters is below 128 bits.
    """
    text = text.strip()
    is_hex = len(text) % 2 == 0 and all(character in string.hexdigits for character in text)
    secret = bytes.fromhex(text) if is_hex else text.encode()
    if len(secret) > MAX_SECRET:
        raise WeakSecret(f"{source}: a secret has at most {MAX_SECRET} bytes, not {len(secret)}")
    if _bits_at_most(text, is_hex=is_hex) < MIN_SECRET_BITS or len(set(text)) < 8:
        raise WeakSecret(
            f"{source}: a secret needs {MIN_SECRET_BITS} bits, for example what `openssl rand -hex 32` prints"
        )
    return secret


def _bits_at_most(text: str, *, is_hex: bool) -> float:
    if is_hex:
        return len(text) * 4.0
    kinds = (string.digits, string.ascii_lowercase, string.ascii_uppercase)
    alphabet = sum(len(kind) for kind in kinds if any(character in kind for character in text))
    if any(not character.isascii() or not character.isalnum() for character in text):
        alphabet += 33
    return len(text) * math.log2(max(alphabet, 2))


@attrs.frozen
class JoinToken:
    """`addresses` are without `/p2p/…`; all of them are `peer_id`'s."""

    cluster_id: bytes
    peer_id: PeerId
    secret: bytes = attrs.field(repr=False)
    addresses: tuple[Multiaddr, ...]

    @classmethod
    def make(cls, cluster_id: bytes, peer_id: PeerId, secret: bytes, addresses: Iterable[Multiaddr]) -> JoinToken:
        """Keep the addresses that another machine can use best: those of this machine alone come last, wildcards not
        at all."""
        usable = {address.without_peer() for address in addresses if not _is_wildcard(address)}
        ordered = sorted(usable, key=lambda address: (address.is_loopback, address.is_private, address.raw))
        kept: list[Multiaddr] = []
        for address in ordered[:MAX_ADDRESSES]:
            if sum(len(one.raw) for one in kept) + len(address.raw) <= MAX_ADDRESS_BYTES:
                kept.append(address)
        return cls(cluster_id, peer_id, secret, tuple(kept))

    def dialable(self) -> tuple[Multiaddr, ...]:
        """The addresses with the peer that has to answer there."""
        return tuple(address.with_peer(self.peer_id) for address in self.addresses)

    def text(self) -> str:
        """The token as one word."""
        body = _VERSION + self.cluster_id + _field(self.peer_id.raw) + _field(self.secret)
        body += varint.encode(len(self.addresses)) + b"".join(_field(address.raw) for address in self.addresses)
        return PREFIX + base58.encode(body + _checksum(body))

    def describe(self) -> str:
        """The same for people, a line a fact. Shows the secret."""
        rows = [("cluster", self.cluster_id.hex()), ("peer", str(self.peer_id)), ("secret", self.secret.hex())]
        rows += [("address", str(address)) for address in self.addresses]
        return "\n".join(f"{name:<8} {value}" for name, value in rows)

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Raises `TokenError`."""
        text = "".join(text.split())
        if not text.startswith(PREFIX):
            newer = text.startswith("chorus") and text[6:7].isdigit()
            raise TokenError(
                "the join token was made by another version of CHORUS"
                if newer
                else f"a join token begins with {PREFIX}: copy the whole line that `chorus token` prints"
            )
        try:
            whole = base58.decode(text.removeprefix(PREFIX))
        except ValueError:
            raise TokenError("the join token holds a wrong character: copy it again") from None
        body, checksum = whole[:-_CHECKSUM], whole[-_CHECKSUM:]
        if not hmac.compare_digest(_checksum(body), checksum):
            raise TokenError("the join token is incomplete or mistyped: copy it again")
        try:
            return cls._decode(body)
        except PeerError as error:
            raise TokenError(f"the join token cannot be used: {error}") from None

    @classmethod
    def _decode(cls, body: bytes) -> JoinToken:
        if body[:1] != _VERSION:
            raise TokenError("the join token was made by another version of CHORUS")
        offset = 1 + CLUSTER_ID
        cluster_id = body[1:offset]
        peer, offset = _take(body, offset)
        secret, offset = _take(body, offset)
        count, offset = varint.decode(body, offset, MAX_ADDRESSES)
        addresses: list[Multiaddr] = []
        for _ in range(count):
            address, offset = _take(body, offset)
            addresses.append(Multiaddr.from_bytes(address))
        if offset != len(body):
            raise TokenError("the join token holds more than this version knows")
        if not MIN_SECRET_BITS <= len(secret) * 8 <= MAX_SECRET * 8:
            raise TokenError(f"the secret in the join token does not have {MIN_SECRET_BITS} bits")
        return cls(cluster_id, PeerId.from_bytes(peer), secret, tuple(addresses))


def _is_wildcard(address: Multiaddr) -> bool:
    ip = address.ip()
    return ip is not None and ip.is_unspecified


def _field(value: bytes) -> bytes:
    return varint.encode(len(value)) + value


def _take(body: bytes, offset: int) -> tuple[bytes, int]:
    size, offset = varint.decode(body, offset, len(body))
    if offset + size > len(body):
        raise varint.VarintError("a field is cut off")
    return body[offset : offset + size], offset + size


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(b"chorus-join-token" + body).digest()[:_CHECKSUM]
