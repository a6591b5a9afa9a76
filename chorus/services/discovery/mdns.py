"""mDNS in libp2p's private form (spec/wire.md 11, spec/cluster.md): announces this node, finds others.

Service `_p2p-<32 hex digits>._udp.local`, a random instance name, TXT attributes `dnsaddr=/…/p2p/<peer id>`.
Announcements are unauthenticated: each is dialled with the peer id check and has to pass admission. The `zeroconf`
library does the DNS (its cache and queues are bounded) and needs the asyncio reactor; it is imported when the service
starts.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import random
import string
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from chorus.errors import LocalError
from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr, MultiaddrError

if TYPE_CHECKING:
    from zeroconf import Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

ATTRIBUTE = b"dnsaddr="
MAX_STRING = 255
"""Bytes of a TXT string, by DNS."""
MAX_TXT = 1000
"""Bytes of TXT announced, so that a packet stays under 1,500."""
MAX_ADDRESSES = 16
"""Addresses used of one announcement."""
MAX_LOOKUPS = 16
"""Look-ups at the same time; announcements beyond wait for the next repetition."""
MAX_KNOWN = 256
"""Names remembered."""
REPEAT = 60.0
"""Seconds after which every known name is looked up again: discovery forgets what it could not reach."""
LOOKUP_TIMEOUT_MS = 3000
NAME_LENGTH = 40

Found = Callable[[PeerId, tuple[Multiaddr, ...]], None]


class MdnsUnavailable(LocalError):
    """mDNS cannot run here; the text says why."""

    code = "mdns_unavailable"


def service_type(cluster_id: bytes) -> str:
    """The DNS service of one cluster, which does not reveal the cluster to others."""
    return f"_p2p-{hashlib.sha256(b'chorus' + cluster_id).hexdigest()[:32]}._udp.local."


def instance_name(rng: random.Random) -> str:
    """Random, not the peer id, so that names do not link sightings."""
    return "".join(rng.choices(string.ascii_lowercase + string.digits, k=NAME_LENGTH))


def encode_txt(peer: PeerId, addresses: Iterable[Multiaddr]) -> bytes:
    """TXT record data; addresses that do not fit are left out."""
    data = bytearray()
    for address in addresses:
        if address.tcp_endpoint() is None:
            continue
        text = ATTRIBUTE + str(address.with_peer(peer)).encode()
        if len(text) <= MAX_STRING and len(data) + 1 + len(text) <= MAX_TXT:
            data.append(len(text))
            data += text
    return bytes(data)


def decode_txt(data: bytes, *, loopback: bool) -> dict[PeerId, tuple[Multiaddr, ...]]:
    """Peers and their addresses. Loopback addresses count only where this node itself listens on loopback
    alone: from anybody else they would lead to our own ports."""
    found: dict[PeerId, tuple[Multiaddr, ...]] = {}
    offset = count = 0
    while offset < len(data) and count < MAX_ADDRESSES:
        text = data[offset + 1 : offset + 1 + data[offset]]
        offset += 1 + data[offset]
        if not text.startswith(ATTRIBUTE):
            continue
        count += 1
        try:
            address = Multiaddr.parse(text.removeprefix(ATTRIBUTE).decode())
            peer = address.peer_id()
        except (MultiaddrError, UnicodeDecodeError):
            continue
        if peer is None or address.tcp_endpoint() is None or address.is_loopback != loopback:
            continue
        found[peer] = (*found.get(peer, ()), address)
    return found


class MdnsService(Service):
    """Announces `addresses` and reports others by `found`, while it runs.

    A node that listens on loopback alone speaks mDNS on loopback alone. Start it from inside the reactor's loop.
    """

    _log = Logger()

    def __init__(
        self, *, peer: PeerId, cluster_id: bytes, addresses: Sequence[Multiaddr], found: Found, rng: random.Random
    ) -> None:
        self._peer = peer
        self._type = service_type(cluster_id)
        self._name = instance_name(rng)
        self._addresses = tuple(addresses)
        self._found = found
        self._loopback = all(address.is_loopback for address in self._addresses)
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._lookups: set[asyncio.Task[None]] = set()
        self._known: dict[str, None] = {}
        self._repeat: asyncio.TimerHandle | None = None

    def startService(self) -> Deferred[None]:
        """Fires once the node is announced; fails with `MdnsUnavailable`."""
        super().startService()  # type: ignore[no-untyped-call]
        return _deferred(self._start())

    def stopService(self) -> Deferred[None]:
        """Fires once the goodbye has been sent."""
        super().stopService()  # type: ignore[no-untyped-call]
        return succeed(None) if self._zeroconf is None else _deferred(self._stop())

    async def _start(self) -> None:
        from zeroconf import Error, ServiceInfo
        from zeroconf.asyncio import AsyncServiceBrowser

        hosts = self._hosts()
        self._zeroconf = _listen(hosts, fall_back=not self._loopback)
        endpoint = next((address.tcp_endpoint() for address in self._addresses), None)
        info = ServiceInfo(
            self._type,
            f"{self._name}.{self._type}",
            addresses=[ipaddress.ip_address(host).packed for host in hosts],
            port=endpoint[1] if endpoint is not None else 0,
            properties=encode_txt(self._peer, self._addresses),
            server=f"{self._name}.local.",
        )
        try:
            announced = await self._zeroconf.async_register_service(info, strict=False)
            self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, self._type, handlers=[self._changed])
            await announced
        except (OSError, Error) as error:
            await self._stop()
            raise MdnsUnavailable(f"mDNS cannot announce this node: {error}") from error
        self._repeat = asyncio.get_running_loop().call_later(REPEAT, self._look_again)
        self._log.info("announced by mDNS as {name} on {hosts}", name=self._name, hosts=", ".join(hosts))

    async def _stop(self) -> None:
        zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is None:
            return
        if self._repeat is not None:
            self._repeat.cancel()
        for task in self._lookups:
            task.cancel()
        browser, self._browser = self._browser, None
        if browser is not None:
            await browser.async_cancel()
        await zeroconf.async_unregister_all_services()
        await zeroconf.async_close()

    def _hosts(self) -> list[str]:
        """The IPv4 addresses of this node. Raises `MdnsUnavailable` when there is nothing to announce."""
        if not encode_txt(self._peer, self._addresses):
            raise MdnsUnavailable("this node has no address that mDNS could announce")
        ips = {ip for address in self._addresses if (ip := address.ip()) is not None and not ip.is_unspecified}
        return sorted(str(ip) for ip in ips if ip.version == 4 and (self._loopback or not ip.is_loopback))

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: Any) -> None:
        from zeroconf import ServiceStateChange

        if name.removesuffix("." + self._type) == self._name:
            return
        if state_change is ServiceStateChange.Removed:
            self._known.pop(name, None)
        elif name in self._known or len(self._known) < MAX_KNOWN:
            self._known[name] = None
            self._look_up_soon(name)

    def _look_again(self) -> None:
        self._repeat = asyncio.get_running_loop().call_later(REPEAT, self._look_again)
        for name in list(self._known):
            self._look_up_soon(name)

    def _look_up_soon(self, name: str) -> None:
        if self._zeroconf is None or len(self._lookups) >= MAX_LOOKUPS:
            return
        # Those that found no room this time come first the next.
        self._known[name] = self._known.pop(name, None)
        task = asyncio.ensure_future(self._look_up(self._zeroconf.zeroconf, name))
        self._lookups.add(task)
        task.add_done_callback(self._lookups.discard)

    async def _look_up(self, zeroconf: Zeroconf, name: str) -> None:
        from zeroconf.asyncio import AsyncServiceInfo

        try:
            info = AsyncServiceInfo(self._type, name)
            await info.async_request(zeroconf, LOOKUP_TIMEOUT_MS)
            heard = decode_txt(info.text or b"", loopback=self._loopback)
        except Exception:
            # A stranger's packet may break one look-up, never the next.
            self._log.failure("mDNS look-up of {name} failed", name=name)
            return
        for peer, addresses in heard.items():
            if peer != self._peer and self.running:
                self._found(peer, addresses)


def _listen(hosts: list[str], *, fall_back: bool) -> AsyncZeroconf:
    """Speak on the interfaces of `hosts`, or on the default one where they are not this machine's own (an announced
    address behind NAT, a name, IPv6 alone). Raises `MdnsUnavailable`."""
    from zeroconf import InterfaceChoice
    from zeroconf.asyncio import AsyncZeroconf

    choices: list[list[str] | InterfaceChoice] = [hosts] if hosts else []
    if fall_back:
        choices.append(InterfaceChoice.Default)
    reason = "this node listens on no IPv4 address"
    for choice in choices:
        try:
            return AsyncZeroconf(interfaces=choice)
        except (OSError, RuntimeError) as error:
            reason = str(error)
    raise MdnsUnavailable(f"mDNS cannot use port 5353: {reason}")


def _deferred(coroutine: Any) -> Deferred[None]:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        coroutine.close()
        raise MdnsUnavailable("mDNS needs the asyncio reactor, running") from None
    return Deferred.fromFuture(loop.create_task(coroutine))
