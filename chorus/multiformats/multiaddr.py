"""Multiaddr: a path of protocols, `/ip4/127.0.0.1/tcp/9000/p2p/12D3Koo…` (spec/wire.md 3)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from functools import lru_cache

import attrs

from chorus.errors import PeerError
from chorus.identity import PeerId
from chorus.multiformats import multibase, multihash, varint

MAX_BYTES = 1024
MAX_TEXT = 4096
MAX_PARTS = 12
"""Protocols of one address: the longest in use (WebTransport with two certificates through a relay, or an address with
its zone) have 11. Each costs some microseconds, and peers send addresses by the hundred."""


class MultiaddrError(PeerError):
    """A text or bytes that are no multiaddr, or that use a protocol unknown here."""

    code = "bad_multiaddr"


NONE, VARIABLE = 0, -1


@attrs.frozen
class _Kind:
    """`size` in bytes: `NONE`, `VARIABLE` (length-prefixed), or fixed."""

    name: str
    code: int
    size: int
    to_bytes: Callable[[str], bytes] = str.encode
    to_text: Callable[[bytes], str] = bytes.decode
    is_path: bool = False
    check: Callable[[bytes], object] | None = None
    """Raises for bytes that are no value; given where it is cheaper than `to_text`."""


def _port_to_bytes(text: str) -> bytes:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise ValueError(f"{text!r} is not a port")
    return int(text).to_bytes(2, "big")


def _port_to_text(value: bytes) -> str:
    return str(int.from_bytes(value, "big"))


def _ip6_to_bytes(text: str) -> bytes:
    if "%" in text:
        raise ValueError("a zone goes in /ip6zone/ before the address")
    return ipaddress.IPv6Address(text).packed


def _name_to_text(value: bytes) -> str:
    text = value.decode()
    if not text or "/" in text or not text.isprintable():
        raise ValueError("a name is not empty and holds no slash or control character")
    return text


def _name_to_bytes(text: str) -> bytes:
    value = text.encode()
    _name_to_text(value)
    return value


def _path_to_text(value: bytes) -> str:
    text = value.decode()
    if not text.startswith("/") or not text.isprintable():
        raise ValueError("a path begins with a slash and holds no control character")
    return text.removeprefix("/")


def _path_to_bytes(text: str) -> bytes:
    value = ("/" + text).encode()
    _path_to_text(value)
    return value


def _onion3_to_bytes(text: str) -> bytes:
    host, _, port = text.partition(":")
    key = multibase.decode("b" + host)
    if len(key) != 35 or port == "0":
        raise ValueError(f"{text!r} is not an onion address with its port")
    return key + _port_to_bytes(port)


def _onion3_to_text(value: bytes) -> str:
    return multibase.encode("base32", value[:35])[1:] + ":" + _port_to_text(value[35:])


def _hash_to_bytes(text: str) -> bytes:
    value = multibase.decode(text)
    multihash.decode(value)
    return value


def _hash_to_text(value: bytes) -> str:
    multihash.decode(value)
    return multibase.encode("base64url", value)


_KINDS = (
    _Kind("ip4", 4, 4, lambda text: ipaddress.IPv4Address(text).packed, lambda v: str(ipaddress.IPv4Address(v))),
    _Kind("tcp", 6, 2, _port_to_bytes, _port_to_text),
    _Kind("ip6", 41, 16, _ip6_to_bytes, lambda v: str(ipaddress.IPv6Address(v))),
    _Kind("ip6zone", 42, VARIABLE, _name_to_bytes, _name_to_text),
    _Kind("dns", 53, VARIABLE, _name_to_bytes, _name_to_text),
    _Kind("dns4", 54, VARIABLE, _name_to_bytes, _name_to_text),
    _Kind("dns6", 55, VARIABLE, _name_to_bytes, _name_to_text),
    _Kind("dnsaddr", 56, VARIABLE, _name_to_bytes, _name_to_text),
    _Kind("udp", 273, 2, _port_to_bytes, _port_to_text),
    _Kind("webrtc-direct", 280, NONE),
    _Kind("webrtc", 281, NONE),
    _Kind("p2p-circuit", 290, NONE),
    _Kind("unix", 400, VARIABLE, _path_to_bytes, _path_to_text, is_path=True),
    _Kind(
        "p2p",
        421,
        VARIABLE,
        lambda text: PeerId.parse(text).raw,
        lambda v: str(PeerId.from_bytes(v)),
        check=PeerId.from_bytes,
    ),
    _Kind("onion3", 445, 37, _onion3_to_bytes, _onion3_to_text),
    _Kind("tls", 448, NONE),
    _Kind("sni", 449, VARIABLE, _name_to_bytes, _name_to_text),
    _Kind("noise", 454, NONE),
    _Kind("quic", 460, NONE),
    _Kind("quic-v1", 461, NONE),
    _Kind("webtransport", 465, NONE),
    _Kind("certhash", 466, VARIABLE, _hash_to_bytes, _hash_to_text, check=multihash.decode),
    _Kind("ws", 477, NONE),
    _Kind("wss", 478, NONE),
    _Kind("memory", 777, VARIABLE, _name_to_bytes, _name_to_text),
)
_BY_NAME = {kind.name: kind for kind in _KINDS} | {"ipfs": next(kind for kind in _KINDS if kind.name == "p2p")}
_BY_CODE = {kind.code: kind for kind in _KINDS}
_IP4, _TCP, _IP6, _ZONE, _P2P = (_BY_NAME[name].code for name in ("ip4", "tcp", "ip6", "ip6zone", "p2p"))
_DNS = frozenset(_BY_NAME[name].code for name in ("dns", "dns4", "dns6"))

Part = tuple[int, bytes]


@attrs.frozen(order=True)
class Multiaddr:
    """Immutable, hashable, compared by its bytes. Make one with `parse`, `from_bytes` or `tcp`."""

    raw: bytes
    parts: tuple[Part, ...] = attrs.field(eq=False, order=False, repr=False)
    """(code, value) of each protocol."""

    @classmethod
    def parse(cls, text: str) -> Multiaddr:
        """Raises `MultiaddrError`."""
        if len(text) > MAX_TEXT:
            raise MultiaddrError(f"multiaddr of {len(text)} characters is over the limit of {MAX_TEXT}")
        return _parse(text)

    @classmethod
    def from_bytes(cls, data: bytes) -> Multiaddr:
        """Raises `MultiaddrError`, for unknown codes too: skip that address."""
        if not 0 < len(data) <= MAX_BYTES:
            raise MultiaddrError(f"a multiaddr has 1 to {MAX_BYTES} bytes, not {len(data)}")
        return _from_bytes(bytes(data))

    @classmethod
    def tcp(cls, host: str, port: int) -> Multiaddr:
        """`host` is an IP address (`fe80::1%eth0` with its zone) or a DNS name."""
        address, _, zone = host.partition("%")
        try:
            version = ipaddress.ip_address(address).version
        except ValueError:
            return cls.parse(f"/dns/{host}/tcp/{port}")
        return cls.parse((f"/ip6zone/{zone}" if zone else "") + f"/ip{version}/{address}/tcp/{port}")

    def __str__(self) -> str:
        return "".join(_part_to_text(code, value) for code, value in self.parts)

    def to_bytes(self) -> bytes:
        return self.raw

    def tcp_endpoint(self) -> tuple[str, int] | None:
        """Host and port when this is plain TCP (nothing but `/p2p/…` after the port), else `None`."""
        parts = self.parts
        zone = ""
        if parts[0][0] == _ZONE:
            zone = "%" + parts[0][1].decode()
            parts = parts[1:]
        if len(parts) < 2 or parts[1][0] != _TCP or not all(code == _P2P for code, _ in parts[2:]) or len(parts) > 3:
            return None
        code, value = parts[0]
        if code == _IP6:
            host = str(ipaddress.IPv6Address(value)) + zone
        elif zone:
            return None
        elif code == _IP4:
            host = str(ipaddress.IPv4Address(value))
        elif code in _DNS:
            host = value.decode()
        else:
            return None
        return host, int.from_bytes(parts[1][1], "big")

    def peer_id(self) -> PeerId | None:
        """The peer that the last `/p2p/…` names, when the address ends with it."""
        code, value = self.parts[-1]
        return PeerId.from_bytes(value) if code == _P2P else None

    def with_peer(self, peer: PeerId) -> Multiaddr:
        """End in `/p2p/<peer>`, in place of whatever peer was there."""
        base = self if self.parts[-1][0] != _P2P else self.without_peer()
        return _build((*base.parts, (_P2P, peer.raw)))

    def without_peer(self) -> Multiaddr:
        """Raises `MultiaddrError` when nothing is left."""
        if self.parts[-1][0] != _P2P:
            return self
        if len(self.parts) == 1:
            raise MultiaddrError("a multiaddr of a peer id alone has no address")
        return _build(self.parts[:-1])

    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The address that it begins with; an IPv4-mapped IPv6 address counts as IPv4."""
        code, value = self.parts[1] if self.parts[0][0] == _ZONE and len(self.parts) > 1 else self.parts[0]
        if code == _IP4:
            return ipaddress.IPv4Address(value)
        if code == _IP6:
            address = ipaddress.IPv6Address(value)
            return address.ipv4_mapped or address
        return None

    @property
    def is_loopback(self) -> bool:
        address = self.ip()
        return address.is_loopback if address is not None else self._is_localhost()

    @property
    def is_private(self) -> bool:
        """Not reachable from the public Internet: loopback, RFC 1918, unique local, link local, carrier NAT, …"""
        address = self.ip()
        return not address.is_global if address is not None else self._is_localhost()

    def _is_localhost(self) -> bool:
        code, value = self.parts[0]
        return code in _DNS and value.decode().lower().rstrip(".").rpartition(".")[2] == "localhost"


def _build(parts: tuple[Part, ...]) -> Multiaddr:
    if len(parts) > MAX_PARTS:
        raise MultiaddrError(f"a multiaddr has at most {MAX_PARTS} parts")
    raw = bytearray()
    for code, value in parts:
        raw += varint.encode(code)
        if _BY_CODE[code].size == VARIABLE:
            raw += varint.encode(len(value))
        raw += value
    if len(raw) > MAX_BYTES:
        raise MultiaddrError(f"a multiaddr has at most {MAX_BYTES} bytes, not {len(raw)}")
    return Multiaddr(bytes(raw), parts)


def _part_to_text(code: int, value: bytes) -> str:
    kind = _BY_CODE[code]
    return f"/{kind.name}" if kind.size == NONE else f"/{kind.name}/{kind.to_text(value)}"


@lru_cache(maxsize=512)
def _parse(text: str) -> Multiaddr:
    words = text.split("/")
    if words[0] or len(words) < 2:
        raise MultiaddrError(f"{text!r} is no multiaddr: it begins with a slash, like /ip4/192.0.2.1/tcp/9000")
    parts: list[Part] = []
    position = 1
    while position < len(words):
        name = words[position]
        if not name and parts and position == len(words) - 1:
            break
        kind = _BY_NAME.get(name)
        if kind is None:
            raise MultiaddrError(f"{text!r} uses {name!r}, which is no known protocol")
        position += 1
        if kind.size == NONE:
            parts.append((kind.code, b""))
            continue
        if position == len(words):
            raise MultiaddrError(f"{text!r} ends where a value of {name} should follow")
        end = len(words) if kind.is_path else position + 1
        try:
            parts.append((kind.code, kind.to_bytes("/".join(words[position:end]))))
        except (ValueError, PeerError) as error:
            raise MultiaddrError(f"{text!r}: {error}") from None
        position = end
    return _build(tuple(parts))


@lru_cache(maxsize=512)
def _from_bytes(data: bytes) -> Multiaddr:
    parts: list[Part] = []
    offset = 0
    while offset < len(data):
        if len(parts) == MAX_PARTS:
            raise MultiaddrError(f"a multiaddr has at most {MAX_PARTS} parts")
        try:
            code, offset = varint.decode(data, offset)
            kind = _BY_CODE.get(code)
            if kind is None:
                raise MultiaddrError(f"protocol code {code} is unknown")
            size = kind.size
            if size == VARIABLE:
                size, offset = varint.decode(data, offset, MAX_BYTES)
            value = data[offset : offset + size]
            if len(value) != size:
                raise MultiaddrError(f"multiaddr ends inside the value of {kind.name}")
            # Of a fixed size any bytes are a value.
            if kind.size == VARIABLE:
                (kind.check or kind.to_text)(value)
        except MultiaddrError:
            raise
        except (ValueError, PeerError) as error:
            raise MultiaddrError(f"bad multiaddr: {error}") from None
        parts.append((code, value))
        offset += size
    return Multiaddr(data, tuple(parts))
