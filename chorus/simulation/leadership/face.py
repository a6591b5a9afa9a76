"""A simulated member as its watchers and its desk see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from chorus.protocols.ballot.messages import LogPosition, OfficeCertificate
from chorus.protocols.ballot.profiles import ElectionProfile
from chorus.protocols.ballot.roster import Voter
from chorus.protocols.replica import Replica
from chorus.protocols.replication.messages import LogEntry
from chorus.simulation.leadership.storage import ReplicaDisk
from chorus.tasks.journal import Fence
from chorus.tasks.machine import TaskMachine


class MemberFace(Protocol):
    peer: str
    starts: int
    paused: int
    """How many pauses hold it now."""
    disk: ReplicaDisk
    replica: Replica | None
    """None while it is down."""
    machine: TaskMachine
    applied: LogPosition
    office: OfficeCertificate | None
    token: Fence | None

    @property
    def now(self) -> float: ...

    @property
    def voter(self) -> Voter: ...

    @property
    def profile(self) -> ElectionProfile: ...

    @property
    def up(self) -> bool: ...

    def holds(self) -> bool: ...

    def leases(self) -> bool: ...

    def pause(self, seconds: float) -> None: ...

    def later(self, seconds: float, call: Callable[[], None]) -> None: ...

    def send(self, target: int, message: object) -> None: ...

    def number_of(self, peer: str) -> int: ...

    def acknowledged(self, entry: LogEntry) -> None: ...

    def fence_of(self, index: int) -> Fence: ...

    def serve(self, request: object) -> None: ...
