"""Keys, signatures and peer ids (spec/wire.md 2).

A node's own identity is Ed25519. Signatures of all four libp2p key types are verified; `cryptography` is imported only
when a peer shows another type than Ed25519. One Ed25519 verifier for every node and purpose, libsodium's: it refuses
non-canonical S, non-canonical and small-order public keys, so that all nodes agree on what is valid.
"""

from __future__ import annotations

import hmac
from enum import IntEnum
from functools import lru_cache
from pathlib import Path

import attrs
from nacl import bindings
from nacl.exceptions import BadSignatureError

from chorus.entropy import RandomBytes, system_random
from chorus.errors import PeerError, UserError
from chorus.files import create_once, read_plain
from chorus.multiformats import base58, multibase, multihash, varint

MAX_KEY_PROTOBUF = 4096
"""A serialised public key longer than this is refused before it is decoded."""
MAX_RSA_SPKI = 1120
"""SubjectPublicKeyInfo of an RSA key of 8,192 bits with room for its exponent."""
MAX_ECDSA_SPKI = 256
RSA_BITS = (2048, 8192)
MAX_RSA_EXPONENT = 2**32
MAX_SIGNATURE = 1024
"""Bytes; an RSA-8192 signature."""
MAX_INLINE_KEY = 42
"""A serialised key up to this long is a peer id by itself, a longer one by its SHA-256."""
MAX_PEER_ID_TEXT = 256
LIBP2P_KEY = 0x72
"""CID codec of peer ids."""


class KeyType(IntEnum):
    RSA = 0
    ED25519 = 1
    SECP256K1 = 2
    ECDSA = 3


class BadKey(PeerError):
    """A key that cannot be decoded, or is of a size or curve that is not accepted."""

    code = "bad_key"


class SignatureError(PeerError):
    """A signature that does not verify."""

    code = "bad_signature"


class PeerIdError(PeerError):
    """Bytes or a text that are no peer id."""

    code = "bad_peer_id"


class IdentityError(UserError):
    """The identity file cannot be read, written or trusted."""

    code = "identity"


def _serialise(key_type: int, data: bytes) -> bytes:
    """Encode PublicKey or PrivateKey: both fields, in order, the type also when zero."""
    return b"\x08" + varint.encode(key_type) + b"\x12" + varint.encode(len(data)) + data


def _parse(encoded: bytes) -> tuple[KeyType, bytes]:
    """Decode exactly what `_serialise` writes: the encoding is hashed and signed, so there is only one."""
    if len(encoded) > MAX_KEY_PROTOBUF:
        raise BadKey(f"a key of {len(encoded)} bytes is over the limit of {MAX_KEY_PROTOBUF}")
    if len(encoded) < 4 or encoded[0] != 0x08 or encoded[2] != 0x12:
        raise BadKey("not a canonical key message")
    try:
        key_type = KeyType(encoded[1])
        length, offset = varint.decode(encoded, 3, MAX_KEY_PROTOBUF)
    except ValueError:
        raise BadKey(f"unknown key type {encoded[1]}") from None
    except varint.VarintError as error:
        raise BadKey(f"not a canonical key message: {error}") from None
    if len(encoded) - offset != length:
        raise BadKey(f"a key of {length} bytes in a message that holds {len(encoded) - offset}")
    return key_type, bytes(encoded[offset:])


@attrs.frozen
class PublicKey:
    """A peer's public key. Decoding checks size and form; curve and modulus are checked when it verifies."""

    type: KeyType
    data: bytes

    @classmethod
    def from_protobuf(cls, encoded: bytes) -> PublicKey:
        """Raises `BadKey`."""
        key_type, data = _parse(encoded)
        size = len(data)
        fits = {
            KeyType.ED25519: size == 32,
            KeyType.SECP256K1: size == 33,
            KeyType.ECDSA: 0 < size <= MAX_ECDSA_SPKI,
            KeyType.RSA: 0 < size <= MAX_RSA_SPKI,
        }[key_type]
        if not fits:
            raise BadKey(f"an {key_type.name} key does not have {size} bytes")
        return cls(key_type, data)

    def to_protobuf(self) -> bytes:
        return _serialise(self.type, self.data)

    def verify(self, message: bytes, signature: bytes) -> None:
        """Raises `SignatureError`, or `BadKey` for a key that is not acceptable."""
        if self.type is KeyType.ED25519:
            if len(signature) != 64:
                raise SignatureError(f"an Ed25519 signature has 64 bytes, not {len(signature)}")
            try:
                bindings.crypto_sign_open(signature + message, self.data)
            except BadSignatureError:
                raise SignatureError("signature does not verify") from None
            return
        if not 0 < len(signature) <= MAX_SIGNATURE:
            raise SignatureError(f"a signature has 1 to {MAX_SIGNATURE} bytes, not {len(signature)}")
        _verify_other(self, message, signature)


def _verify_other(key: PublicKey, message: bytes, signature: bytes) -> None:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    sha256 = hashes.SHA256()
    try:
        if key.type is KeyType.SECP256K1:
            public: object = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), key.data)
        else:
            public = serialization.load_der_public_key(key.data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadKey(f"not an {key.type.name} key: {error}") from None
    try:
        if key.type is KeyType.RSA and isinstance(public, rsa.RSAPublicKey):
            if not RSA_BITS[0] <= public.key_size <= RSA_BITS[1]:
                raise BadKey(f"an RSA key of {public.key_size} bits; {RSA_BITS[0]} to {RSA_BITS[1]} are accepted")
            if public.public_numbers().e > MAX_RSA_EXPONENT:
                raise BadKey("the exponent of the RSA key is too large")
            public.verify(signature, message, padding.PKCS1v15(), sha256)
        elif isinstance(public, ec.EllipticCurvePublicKey):
            on_k1 = isinstance(public.curve, ec.SECP256K1)
            if on_k1 != (key.type is KeyType.SECP256K1) or key.type is KeyType.RSA:
                raise BadKey(f"an {key.type.name} key on the curve {public.curve.name}")
            if not isinstance(public.curve, (ec.SECP256K1, ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)):
                raise BadKey(f"the curve {public.curve.name} is not accepted")
            public.verify(signature, message, ec.ECDSA(sha256))
        else:
            raise BadKey(f"the key is labelled {key.type.name} and is something else")
    except InvalidSignature:
        raise SignatureError("signature does not verify") from None


@lru_cache(maxsize=4096)
def _base58(raw: bytes) -> str:
    return base58.encode(raw)


@attrs.frozen(order=True, repr=False)
class PeerId:
    """Multihash of a serialised public key. Ordered by its bytes."""

    raw: bytes

    @classmethod
    def from_public_key(cls, key: PublicKey) -> PeerId:
        encoded = key.to_protobuf()
        if len(encoded) <= MAX_INLINE_KEY:
            return cls(bytes((multihash.IDENTITY, len(encoded))) + encoded)
        return cls(multihash.sha2_256(encoded))

    @classmethod
    def from_bytes(cls, raw: bytes) -> PeerId:
        """Raises `PeerIdError` unless it is a SHA-256 or an identity multihash of at most 42 bytes."""
        try:
            code, digest = multihash.decode(raw)
        except PeerError as error:
            raise PeerIdError(f"not a peer id: {error}") from None
        if code == multihash.SHA2_256:
            if len(digest) != 32:
                raise PeerIdError("a peer id holds the whole SHA-256")
        elif code != multihash.IDENTITY:
            raise PeerIdError(f"a peer id is no multihash of code {code}")
        elif not 0 < len(digest) <= MAX_INLINE_KEY:
            raise PeerIdError(f"an inline peer id holds 1 to {MAX_INLINE_KEY} bytes, not {len(digest)}")
        return cls(bytes(raw))

    @classmethod
    def parse(cls, text: str) -> PeerId:
        """Accept base58btc and CIDv1 in any multibase; raises `PeerIdError`."""
        if len(text) > MAX_PEER_ID_TEXT:
            raise PeerIdError(f"a peer id of {len(text)} characters is over the limit of {MAX_PEER_ID_TEXT}")
        try:
            if text.startswith(("1", "Qm")):
                return cls.from_bytes(base58.decode(text))
            cid = multibase.decode(text)
            version, offset = varint.decode(cid)
            codec, offset = varint.decode(cid, offset)
        except (ValueError, varint.VarintError) as error:
            raise PeerIdError(f"{text!r} is not a peer id: {error}") from None
        if (version, codec) != (1, LIBP2P_KEY):
            raise PeerIdError(f"{text!r} is a CID of another kind than a peer id")
        return cls.from_bytes(cid[offset:])

    def __str__(self) -> str:
        return _base58(self.raw)

    def __repr__(self) -> str:
        return f"PeerId({self})"

    def to_cid(self) -> str:
        """CIDv1 in base32."""
        return multibase.encode("base32", bytes((1, LIBP2P_KEY)) + self.raw)

    def public_key(self) -> PublicKey | None:
        """The key that an identity multihash holds, else `None`. Raises `BadKey` when it holds something else."""
        code, digest = multihash.decode(self.raw)
        return PublicKey.from_protobuf(digest) if code == multihash.IDENTITY else None


@attrs.frozen(repr=False)
class Identity:
    """A node's own Ed25519 key pair. Signing always uses the pair that was made together (RUSTSEC-2022-0093)."""

    _seed: bytes = attrs.field(validator=attrs.validators.instance_of(bytes))
    _pair: bytes = attrs.field(init=False, eq=False)
    public_key: PublicKey = attrs.field(init=False)
    peer_id: PeerId = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        if len(self._seed) != 32:
            raise ValueError("an Ed25519 seed has 32 bytes")
        public, pair = bindings.crypto_sign_seed_keypair(self._seed)
        key = PublicKey(KeyType.ED25519, public)
        object.__setattr__(self, "_pair", pair)
        object.__setattr__(self, "public_key", key)
        object.__setattr__(self, "peer_id", PeerId.from_public_key(key))

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"

    @classmethod
    def generate(cls, random: RandomBytes = system_random) -> Identity:
        return cls(random(32))

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        return cls(seed)

    @classmethod
    def from_private_key(cls, encoded: bytes) -> Identity:
        """Decode a PrivateKey message: seed ‖ public, or the legacy seed ‖ public ‖ public. Raises `BadKey`."""
        key_type, data = _parse(encoded)
        if key_type is not KeyType.ED25519:
            raise BadKey(f"an identity is an Ed25519 key, not {key_type.name}")
        if len(data) not in (64, 96):
            raise BadKey(f"an Ed25519 private key has 64 bytes, not {len(data)}")
        identity = cls(data[:32])
        for start in range(32, len(data), 32):
            if not hmac.compare_digest(data[start : start + 32], identity.public_key.data):
                raise BadKey("the private key does not belong to the public key beside it")
        return identity

    def to_private_key(self) -> bytes:
        """PrivateKey message, 68 bytes. Secret."""
        return _serialise(KeyType.ED25519, self._pair)

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""
        return bindings.crypto_sign(message, self._pair)[:64]

    @classmethod
    def load_or_create(cls, path: Path, random: RandomBytes = system_random) -> Identity:
        """Read the identity file, or make it once: mode 0600, complete and on disk before it has its name.

        Raises `IdentityError` when the file is damaged, readable by others, or cannot be made.
        """
        try:
            return cls._load(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise IdentityError(f"identity file {path}: {error.strerror}") from error
        identity = cls.generate(random)
        try:
            create_once(path, identity.to_private_key())
        except FileExistsError:
            return cls._load(path)
        except OSError as error:
            raise IdentityError(f"identity file {path} cannot be made: {error.strerror}") from error
        return identity

    @classmethod
    def _load(cls, path: Path) -> Identity:
        encoded, mode = read_plain(path, MAX_KEY_PROTOBUF + 1)
        if mode & 0o077:
            raise IdentityError(f"identity file {path} is open to others (mode {mode:04o}): chmod 600 it")
        try:
            return cls.from_private_key(encoded)
        except BadKey as error:
            raise IdentityError(f"identity file {path} is damaged: {error}") from error
