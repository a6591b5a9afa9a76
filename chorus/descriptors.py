"""How many descriptors a node needs, may have, and has (`RLIMIT_NOFILE`, /proc/self/fd)."""

from __future__ import annotations

import os
import resource

from chorus.errors import UserError

OWN = 48
"""Of a node without peers and tasks: 30 for reactor, database, log, threads and listeners; sockets of mDNS for each
network interface; files that are open for a moment."""
PER_TASK = 16
"""9 while a bubblewrap sandbox runs, more for a moment while its files are made and removed."""
FEW_CONNECTIONS = 16
"""Peers and HTTP clients together, without which a node is of no use."""
LEAST = OWN + PER_TASK + FEW_CONNECTIONS
"""Below this a start is refused: the node would fail in the middle of what others rely on."""
BLOB_FILES = 32
"""Blobs that are served and fetched at once."""
RESERVE = PER_TASK + FEW_CONNECTIONS
"""No new task is taken with fewer than these free."""


class TooFewDescriptors(UserError):
    """The limit of this process is below what a node needs; the text says how to raise it."""

    code = "too_few_descriptors"


def wanted(*, tasks: int, peers: int, http: int) -> int:
    """The descriptors of a node that is as busy as its configuration lets it be: `tasks` at once, connections to
    `peers`, and of `http` clients."""
    return OWN + PER_TASK * tasks + peers + http + BLOB_FILES


def limit() -> int:
    return _number(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def raise_to(number: int) -> int:
    """Raise this process's own limit to `number`, or as far as it may; the limit then. Never lowers it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    better = min(number, _number(hard))
    if _number(soft) >= better:
        return _number(soft)
    resource.setrlimit(resource.RLIMIT_NOFILE, (better, hard))
    return better


def require(number: int = LEAST) -> None:
    """Raise the limit to `number`. Raises `TooFewDescriptors` when that is not allowed."""
    found = raise_to(number)
    if found < number:
        raise TooFewDescriptors(
            f"this process may open {found} files and a node needs {number}: raise the limit, for example with "
            "`ulimit -n 4096` before the start, or LimitNOFILE=4096 in its systemd unit"
        )


def trouble() -> str | None:
    """One line when too few are free for another task, else None."""
    most = limit()
    try:
        used = len(os.listdir("/proc/self/fd"))
    except FileNotFoundError:
        return None  # no /proc to look into
    except OSError as error:
        return f"descriptors: {error.strerror} (limit {most})"
    return f"{used} of {most} descriptors are in use" if most - used < RESERVE else None


def _number(value: int) -> int:
    return 1 << 30 if value == resource.RLIM_INFINITY else value
