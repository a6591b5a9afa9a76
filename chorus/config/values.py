"""Converters and checks of single settings. Each takes text and raises ValueError with the words of the error line."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from chorus.security.roles import BUILT_IN, MAX_ROLES, ROLE_PATTERN

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PROTOCOL_PREFIX = re.compile(r"(/[a-z0-9][a-z0-9._-]{0,31}){1,3}")
_NAMESPACE = re.compile(r"[a-z][a-z0-9-]{0,31}")
_IMAGE = re.compile(r"[a-z0-9][a-z0-9._/:@-]{0,254}")
_LANGUAGE = re.compile(r"[a-z][a-z0-9+-]{0,31}")
MIN_PASSPHRASE = 8
"""Characters of `CHORUS_KEYRING_PASSPHRASE`: fewer are guessed, whatever scrypt costs."""
MAX_WARM = 100
"""Warm containers per image: each one holds memory while it waits."""

MIN_SHARED_PREFIX = {4: 16, 6: 32}
"""By IP version, the widest network that members can be said to share: what one provider has for one NAT, or for one
site and its customers. A wider one would lift the count of peers of an address (P6) for half of the Internet."""

_DOCUMENTATION = tuple(
    map(ipaddress.ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"))
)
"""They stand for public networks in examples (RFC 5737, RFC 3849)."""


def split(value: object) -> object:
    """`a, b` as ("a", "b"); empty items are dropped."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def name(text: str) -> str:
    """An agent's, a role's or a capability's name."""
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"{text[:64]!r} is not a name (letters, digits, dots, hyphens and underscores, at most 64, "
            "starting with a letter or digit)"
        )
    return text


def own_roles(items: Sequence[str]) -> tuple[str, ...]:
    """Roles as `roles_by_name` reads them."""
    roles_by_name(items)
    return tuple(items)


def roles_by_name(items: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The built-in roles and those of `auditor:reads=developer+reviewer`, each with the others that it reads."""
    found = dict(BUILT_IN)
    for item in items:
        name, _, rest = item.partition(":")
        word, _, read = rest.partition("=")
        reads = tuple(sorted(filter(None, read.split("+"))))
        if not re.fullmatch(ROLE_PATTERN, name) or name == "any" or (rest and word != "reads") or name in reads:
            raise ValueError(
                f"{item[:64]!r} is no role with what it reads, for example auditor:reads=developer+reviewer"
            )
        found[name] = tuple(dict.fromkeys(reads))
    if unknown := {each for reads in found.values() for each in reads} - found.keys():
        raise ValueError(f"{min(unknown)[:64]!r} is read and is no role; there are {', '.join(sorted(found))}")
    if len(found) > MAX_ROLES:
        raise ValueError(f"more than {MAX_ROLES} roles")
    return found


def ip_address(text: str) -> str:
    """An IP address to listen on; `localhost` is the loopback one."""
    if text == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f"{text[:64]!r} is not an IP address") from None


def protocol_prefix(text: str) -> str:
    """The first part of a protocol id, for example `/chorus`."""
    if not _PROTOCOL_PREFIX.fullmatch(text):
        raise ValueError(f"{text[:64]!r} is not a prefix of a protocol, for example /chorus")
    return text


def test_namespaces(names: Sequence[str]) -> tuple[str, ...]:
    """Namespaces of DHT keys; those of CHORUS itself are never unvalidated."""
    for name in names:
        if not _NAMESPACE.fullmatch(name):
            raise ValueError(f"{name[:64]!r} is not a namespace (small letters, digits and hyphens, at most 32)")
        if name.startswith(("ucxl-", "chorus-")) or name == "pk":
            raise ValueError(f"{name!r} is a namespace whose records are always validated")
    return tuple(names)


def host_names(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if len(name) > 253 or not _HOST_NAME.fullmatch(name):
            raise ValueError(f"{name[:64]!r} is not a host name (without port)")
    return tuple(name.rstrip(".").lower() for name in names)


def multiaddrs(texts: Sequence[str]) -> tuple[str, ...]:
    """Multiaddrs that can be dialled over TCP."""
    from chorus.errors import ChorusError
    from chorus.multiformats.multiaddr import Multiaddr

    for text in texts:
        try:
            address = Multiaddr.parse(text)
        except (ChorusError, ValueError) as error:
            raise ValueError(f"{text[:100]!r} is not a multiaddr ({error})") from None
        if address.tcp_endpoint() is None:
            raise ValueError(f"{text[:100]!r} names no TCP address")
    return tuple(texts)


def peer_multiaddrs(texts: Sequence[str]) -> tuple[str, ...]:
    """Multiaddrs over TCP that end with a peer id."""
    from chorus.multiformats.multiaddr import Multiaddr

    for text in multiaddrs(texts):
        if Multiaddr.parse(text).peer_id() is None:
            raise ValueError(f"{text[:100]!r} has no peer id (/p2p/12D3Koo…) at its end")
    return tuple(texts)


def networks(texts: Sequence[str]) -> tuple[str, ...]:
    """Public addresses and networks (`192.0.2.0/24`) that members can share, in their usual form."""
    found = []
    for text in texts:
        try:
            network = ipaddress.ip_network(text)
        except ValueError as error:
            raise ValueError(f"{text[:64]!r} is no network: {error}") from None
        widest = MIN_SHARED_PREFIX[network.version]
        if network.prefixlen < widest:
            raise ValueError(
                f"{text[:64]!r} is wider than a shared network can be (/{widest} for IPv{network.version})"
            )
        if "%" in text or not _is_public(network):
            raise ValueError(f"{text[:64]!r} is not public: peers from there are not counted anyway")
        found.append(str(network))
    return tuple(dict.fromkeys(found))


def _is_public(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    if any(network.version == each.version and network.network_address in each for each in _DOCUMENTATION):
        return True
    return network.is_global and not network.is_multicast


def docker_host(text: str) -> str:
    if not re.fullmatch(r"(unix:///|tcp://|ssh://|http://|https://|npipe://)\S+", text):
        raise ValueError(f"{text[:64]!r} is not an engine's address (unix:///…, tcp://… or ssh://…)")
    return text


def image_map(value: object) -> object:
    """`python=image,go=image` as a dict."""
    if not isinstance(value, str):
        return value
    found: dict[str, str] = {}
    for language, image in _pairs(value):
        if not _LANGUAGE.fullmatch(language):
            raise ValueError(f"{language[:64]!r} is not the name of a language (small letters)")
        if not _IMAGE.fullmatch(image):
            raise ValueError(f"{image[:64]!r} is not the name of an image")
        found[language] = image
    return found


def warm_pool(value: object) -> object:
    """`image=2,other=1` as a dict; a single number is {"*": n}: that many of every image in the map."""
    if not isinstance(value, str):
        return value
    if value.strip().isdigit():
        return {"*": _count(value.strip())}
    found: dict[str, int] = {}
    for image, number in _pairs(value):
        if image != "*" and not _IMAGE.fullmatch(image):
            raise ValueError(f"{image[:64]!r} is not the name of an image")
        found[image] = _count(number)
    return found


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """`chorus` in XDG_DATA_HOME, else in ~/.local/share."""
    base = environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "chorus"
    home = environ.get("HOME") or os.path.expanduser("~")
    return Path(home) / ".local/share/chorus"


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = []
    for part in text.split(","):
        if not part.strip():
            continue
        # The last `=`: none is legal in an image's name, and a digest has none either.
        name, equals, value = part.strip().rpartition("=")
        if not equals:
            raise ValueError(f"{part.strip()[:64]!r} has no `=`")
        pairs.append((name.strip(), value.strip()))
    return pairs


def _count(text: str) -> int:
    if not text.isdigit() or len(text) > 4 or int(text) > MAX_WARM:
        raise ValueError(f"{text[:16]!r} is not a whole number from 0 to {MAX_WARM}")
    return int(text)
