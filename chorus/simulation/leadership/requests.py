"""Messages between the shells of tier D beside the replicas' own: forwarded requests, read indexes and snapshots."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from chorus.simulation.leadership.face import MemberFace
from chorus.simulation.leadership.storage import ReplicaSnapshot

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from chorus.tasks.applied import Applied

Answering = Callable[[MemberFace, "Applied | None"], Any]
"""The answer, from the member right after it applied the entry; for a read there is no entry."""


@attrs.define(eq=False)
class ClientRequest:
    """`data` None: a read."""

    data: bytes | None
    answer: Answering
    done: Deferred[Any]


@attrs.frozen(eq=False)
class Forward:
    """To the admin: append this, or say up to where a reader has to have applied."""

    number: int
    data: bytes | None
    answer: Answering


@attrs.frozen
class Forwarded:
    """`index` None: refused, nothing was done. `unknown`: the office ended before the entry was committed."""

    number: int
    index: int | None
    answer: Any = None
    unknown: bool = False


@attrs.frozen
class FetchSnapshot:
    """Send me yours."""


@attrs.frozen(eq=False)
class SnapshotCopy:
    snapshot: ReplicaSnapshot
