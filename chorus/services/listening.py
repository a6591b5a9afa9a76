"""Ports to listen on, and the one line that names the variable to change where one cannot be had (pure)."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import itertools
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import attrs
from twisted.internet.error import CannotListenError

from chorus.errors import UserError

T = TypeVar("T")


@attrs.frozen
class ListenAddress:
    """An address that the configuration wants."""

    variable: str
    """The first part of the names, as in `CHORUS_P2P`."""
    host: str
    port: int
    """0 is any that is free."""
    last_port: int = 0
    """Tried first where any will do; 0 for none."""


class PortInUse(UserError):
    """A port cannot be had; the text names its variable."""

    code = "port_in_use"


def first_free(listen: Callable[[int], T], asked: int, last: int) -> T:
    """`listen` on the port that is asked for; where that is any (0), on the one of the last start if it is free, so
    that what others were told stays true. Raises what `listen` raises."""
    if not asked and last:
        with contextlib.suppress(CannotListenError):
            return listen(last)
    return listen(asked)


def collision(bindings: Sequence[ListenAddress]) -> str | None:
    """The first two that want one port, which the system would refuse to the second."""
    for one, other in itertools.combinations(bindings, 2):
        if one.port == other.port and one.port and _overlap(one.host, other.host):
            return (
                f"{one.variable}_PORT and {other.variable}_PORT are both {one.port}: give one of them another, "
                f"for example {other.variable}_PORT={_another(one.port)} (0: any that is free)"
            )
    return None


def _overlap(one: str, other: str) -> bool:
    # The part after a % is an interface: the same link-local address on two of them is rare enough to be refused.
    first, second = (ipaddress.ip_address(host.partition("%")[0]) for host in (one, other))
    if first.version == second.version:
        return first == second or first.is_unspecified or second.is_unspecified
    # A socket that listens on :: takes IPv4 too.
    return (first if first.version == 6 else second).is_unspecified


def _another(port: int) -> int:
    return port + 10 if 0 < port < 65526 else 0


def cannot_listen(variable: str, host: str, port: int, error: OSError) -> str:
    """`variable` is the first part of the names, as in `CHORUS_P2P`."""
    failed = f"cannot listen on {host} port {port}"
    # asyncio says it in words of its own.
    why = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        local, everywhere = ("::1", "::") if ":" in host else ("127.0.0.1", "0.0.0.0")
        return (
            f"{variable}_BIND: {failed}: {why}; give an address of this machine, for example "
            f"{variable}_BIND={local} (this machine alone) or {variable}_BIND={everywhere} (all of its networks)"
        )
    if error.errno == errno.EACCES:
        return f"{variable}_PORT: {failed}: {why}; choose a port above 1023"
    return (
        f"{variable}_PORT: {failed}: {why}; choose another, for example {variable}_PORT={_another(port)} "
        f"(0: any that is free), or check {variable}_BIND"
    )
