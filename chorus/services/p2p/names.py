"""IP addresses of a name that is to be dialled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IResolutionReceiver
from zope.interface import implementer

from chorus.protocols.dialing import MAX_ADDRESSES_PER_DIAL
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

RESOLVE_TIMEOUT = 5.0
"""Seconds for the addresses of a name."""
_FAMILIES: dict[int, tuple[type, ...]] = {54: (IPv4Address,), 55: (IPv6Address,)}
"""By multiaddr code: /dns4 and /dns6; /dns takes both."""


@implementer(IResolutionReceiver)
class _Answers:
    def __init__(self, done: Callable[[Sequence[str]], None], clock: IReactorTime) -> None:
        self._done: Callable[[Sequence[str]], None] | None = done
        self._hosts: dict[str, None] = {}
        self._limit = Timer(clock, self.resolutionComplete)
        self._limit.arm(RESOLVE_TIMEOUT)

    def resolutionBegan(self, resolution: object) -> None:
        """There is nothing to keep."""

    def addressResolved(self, address: IAddress) -> None:
        if len(self._hosts) < MAX_ADDRESSES_PER_DIAL:
            self._hosts[address.host] = None  # type: ignore[attr-defined]

    def resolutionComplete(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            self._limit.cancel()
            done(list(self._hosts))


def look_up(reactor: Any, host: str, code: int, done: Callable[[Sequence[str]], None]) -> None:
    """Call `done` with the IP addresses of a name, none when it has none or the resolver is too slow. `code` is that of
    the multiaddr."""
    types = _FAMILIES.get(code, (IPv4Address, IPv6Address))
    reactor.nameResolver.resolveHostName(_Answers(done, reactor), host, 0, types, "TCP")
