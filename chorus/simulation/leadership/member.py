"""A member of a simulated cluster: the shell that drives one `Replica`, its disk, its clock and its task machine."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import attrs

from chorus.errors import ChorusError
from chorus.protocols.ballot.effects import OfficeLost, OfficeWon
from chorus.protocols.ballot.messages import LogPosition, OfficeCertificate
from chorus.protocols.ballot.profiles import ElectionProfile
from chorus.protocols.ballot.roster import Roster, Voter, read_roster
from chorus.protocols.replica import Replica, ReplicaSettings, StoredReplica
from chorus.protocols.replication.log import StoredLog
from chorus.protocols.replication.messages import EntryKind, LogEntry, Pull, Pulled
from chorus.protocols.replication.outbox import Committed, ReplicaEvent, SnapshotWanted
from chorus.simulation.clock import NodeClock
from chorus.simulation.leadership.requests import FetchSnapshot, SnapshotCopy
from chorus.simulation.leadership.serving import RequestDesk, decode
from chorus.simulation.leadership.signer import SimAuthority, SimSigning
from chorus.simulation.leadership.storage import ReplicaDisk, ReplicaSnapshot
from chorus.simulation.leadership.watch import LeadershipWatch
from chorus.simulation.leadership.wires import Wires
from chorus.simulation.world import SECOND, World, nanoseconds
from chorus.tasks.applied import Applied
from chorus.tasks.journal import Fence
from chorus.tasks.machine import TaskMachine

PULL_S: Final = (0.2, 0.8)
"""Between two pulls of a learner; a real one waits at the voter instead."""


@attrs.frozen
class ReplicaSite:
    """What all members of one run share."""

    world: World
    wires: Wires
    watch: LeadershipWatch
    names: tuple[str, ...]
    settings: ReplicaSettings
    authority: SimAuthority
    snapshot_every: int

    def number(self, peer: str) -> int:
        return self.names.index(peer)


class SimReplica:
    """`start`, `crash`, `pause`; between them everything comes through `deliver` and timers."""

    pull_s: tuple[float, float] = PULL_S

    def __init__(self, site: ReplicaSite, number: int, disk: ReplicaDisk, clock: NodeClock) -> None:
        self.number = number
        self.peer = site.names[number]
        self.clock = clock
        self.disk = disk
        self.site = site
        self.settings = site.settings
        self.replica: Replica | None = None
        self.machine = TaskMachine(self.fence_of)
        self.applied = LogPosition()
        self.office: OfficeCertificate | None = None
        self.token: Fence | None = None
        """Of the office held, once its no-op is applied."""
        self.paused = 0
        self.stores = 0
        """How many stores this member has lost."""
        self.starts = 0
        self._rng = site.world.rng("member", number)
        self._desk = RequestDesk(self)
        self._inbox: list[Callable[[], None]] = []
        self._armed: int | None = None
        self._noop: int | None = None
        self._roster: Roster = disk.image.snapshot.roster
        self._snapshot_at = 0
        self._applying = Fence(0, 0, 0)

    def __str__(self) -> str:
        return self.peer

    @property
    def voter(self) -> Voter:
        return Voter(self.peer, f"{self.number:016x}{self.stores:016x}")

    @property
    def profile(self) -> ElectionProfile:
        return self.settings.profile

    def number_of(self, peer: str) -> int:
        return self.site.number(peer)

    def acknowledged(self, entry: LogEntry) -> None:
        self.site.watch.acknowledged(self, entry)

    @property
    def up(self) -> bool:
        return self.replica is not None

    @property
    def now(self) -> float:
        """What the node takes for the time."""
        return self.clock.seconds()

    def holds(self) -> bool:
        return self.replica is not None and self.replica.holds(self.now)

    def leases(self) -> bool:
        """True while its lease is valid by its own clock."""
        return self.replica is not None and self.replica.lease_left(self.now) > 0

    # Life

    def start(self) -> None:
        self.starts += 1
        image = self.disk.image
        self.machine = TaskMachine(self.fence_of)
        if image.snapshot.machine:
            self.machine.restore(image.snapshot.machine)
        self.applied = image.snapshot.position
        self._roster = image.snapshot.roster
        self._snapshot_at = self.applied.index
        self._desk = RequestDesk(self)
        self._armed = self._noop = self.office = self.token = None
        self._inbox = []
        rng = self.site.world.rng("replica", self.number, self.starts)
        self.replica = self._make(self.stored(), rng)
        self.site.watch.started(self)
        self._pull_later()
        self._pump()

    def stored(self) -> StoredReplica:
        image = self.disk.image
        return StoredReplica(
            image.hard_state, StoredLog(image.snapshot.position, image.snapshot.roster, tuple(image.entries))
        )

    def _make(self, stored: StoredReplica, rng: random.Random) -> Replica:
        return Replica(
            self.voter,
            self.settings,
            stored,
            SimSigning(self.peer),
            self.site.authority,
            rng,
            self.now,
        )

    def crash(self) -> None:
        """Everything that was not durable may be gone."""
        self.replica = self.office = self.token = None
        self.starts += 1
        self.paused = 0
        self._inbox = []
        self.disk.crash()

    def pause(self, seconds: float) -> None:
        """The machine stands still while true time runs on; its disk finishes what it was given."""
        self.paused += 1
        start = self.starts

        def over() -> None:
            if start == self.starts:
                self.paused -= 1
                if not self.paused:
                    inbox, self._inbox = self._inbox, []
                    for call in inbox:
                        self._do(call)

        self.site.world.after(nanoseconds(seconds), over)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """In this start only, after true seconds, and not while paused."""
        start = self.starts
        self.site.world.after(nanoseconds(seconds), lambda: self._run(start, call))

    def _run(self, start: int, call: Callable[[], None]) -> None:
        if start == self.starts and self.replica is not None:
            self._do(call)

    def _do(self, call: Callable[[], None]) -> None:
        if self.replica is None:
            return
        if self.paused:
            self._inbox.append(call)
            return
        call()
        self._pump()

    def ask(self, call: Callable[[Replica, float], object]) -> bool:
        """Let an operator's `call` happen now; false if the node is down or refuses."""
        if self.replica is None or self.paused:
            return False
        try:
            call(self.replica, self.now)
        except ChorusError:
            return False
        finally:
            self._pump()
        return True

    # What comes in

    def deliver(self, source: int, message: object) -> None:
        if self.replica is not None:
            self._do(lambda: self._take(source, message))

    def _take(self, source: int, message: object) -> None:
        assert self.replica is not None
        if isinstance(message, Pulled):
            self._pulled(source, message)
        elif isinstance(message, FetchSnapshot):
            self.send(source, SnapshotCopy(self.disk.image.snapshot))
        elif isinstance(message, SnapshotCopy):
            self._install(message.snapshot)
        elif not self._desk.take(source, message):
            self.replica.receive(self.site.names[source], message, self.now)  # type: ignore[arg-type]

    def serve(self, request: object) -> None:
        """A client's request arrives here."""
        self._do(lambda: self._desk.serve(request))  # type: ignore[arg-type]

    def send(self, target: int, message: object) -> None:
        self.site.wires.send(self.number, target, message)

    # What the replica wants done

    def _pump(self) -> None:
        replica = self.replica
        if replica is None:
            return
        while True:
            output = replica.drain()
            if output.write is not None:
                self._write(output.write.ticket, output.write)
            for peer, message in output.messages:
                self.site.watch.sent(self, peer, message)
                self.send(self.site.number(peer), message)
            for event in output.events:
                self._event(event)
            if output.write is None and not output.messages and not output.events:
                break
        self._arm(replica)
        self.site.watch.after(self)

    def _write(self, ticket: int, write: object) -> None:
        start = self.starts
        self.disk.write(write, lambda: self._run(start, lambda: self._persisted(ticket)))  # type: ignore[arg-type]

    def _persisted(self, ticket: int) -> None:
        assert self.replica is not None
        self.replica.persisted(ticket, self.now)

    def _arm(self, replica: Replica) -> None:
        due = replica.due()
        if due is None:
            return
        at = self.clock.true_ns(math.ceil(due * SECOND) + 1)
        if self._armed is None or at < self._armed:
            self._armed = at
            start = self.starts
            self.site.world.at(at, lambda: self._fired(start, at), self.number)

    def _fired(self, start: int, at: int) -> None:
        if start == self.starts and self._armed == at:
            self._armed = None
            self._run(start, self._tick)

    def _tick(self) -> None:
        replica = self.replica
        assert replica is not None
        due = replica.due()
        if due is not None and due <= self.now:
            replica.tick(self.now)

    def clock_changed(self) -> None:
        """Timers of the old rate are wrong now."""
        self._armed = None
        if self.replica is not None and not self.paused:
            self._arm(self.replica)

    # Events

    def _event(self, event: ReplicaEvent) -> None:
        self.site.watch.event(self, event)
        if isinstance(event, Committed):
            for entry in event.entries:
                self._apply(entry)
            self._maybe_snapshot()
        elif isinstance(event, OfficeWon):
            self.office, self._noop, self.token = event.certificate, event.noop_index, None
        elif isinstance(event, OfficeLost):
            self.office = self._noop = self.token = None
            self._desk.office_lost()
        elif isinstance(event, SnapshotWanted):
            self.send(self.site.number(event.peer), SnapshotCopy(self.disk.image.snapshot))

    def _apply(self, entry: LogEntry) -> None:
        self.applied = LogPosition(entry.term, entry.index)
        self._applying = Fence(self._roster.epoch, entry.term, entry.index)
        applied: Applied | None = None
        if entry.kind is EntryKind.ENTRY:
            applied = self.machine.apply(entry.index, decode(entry.data))
        elif entry.kind is EntryKind.ROSTER:
            self._roster = _roster(entry.data)
        elif entry.index == self._noop:
            assert self.replica is not None
            self.token = self.replica.fence(entry.index)
            self.site.watch.began(self, self.token)
        self.site.watch.applied(self, entry, applied)
        self._desk.applied(entry, applied)

    def fence_of(self, index: int) -> Fence:
        """That of the entry which is applied now."""
        assert index == self._applying.index
        return self._applying

    # Snapshots and pulls

    def _maybe_snapshot(self) -> None:
        if self.applied.index - self._snapshot_at < self.site.snapshot_every:
            return
        self._snapshot_at = self.applied.index
        snapshot = ReplicaSnapshot(self.applied, self._roster, self.machine.snapshot().encode())
        self.site.watch.snapshot(self, snapshot)
        start = self.starts
        self.disk.write(snapshot, lambda: self._run(start, lambda: self._compacted(snapshot.position)))

    def _compacted(self, position: LogPosition) -> None:
        assert self.replica is not None
        self.replica.compacted(position)

    def _install(self, snapshot: ReplicaSnapshot) -> None:
        if snapshot.position.index <= self.applied.index:
            return
        start = self.starts
        self.disk.write(snapshot, lambda: self._run(start, lambda: self._installed(snapshot)))

    def _installed(self, snapshot: ReplicaSnapshot) -> None:
        assert self.replica is not None
        if snapshot.position.index <= self.applied.index:
            return
        self.site.watch.counters["snapshot installed"] += 1
        self.machine = TaskMachine(self.fence_of)
        if snapshot.machine:
            self.machine.restore(snapshot.machine)
        self.applied, self._roster, self._snapshot_at = snapshot.position, snapshot.roster, snapshot.position.index
        self.replica.installed(snapshot.position, snapshot.roster, self.now)
        self._desk.advanced()

    def _pull_later(self) -> None:
        self.later(self._rng.uniform(*self.pull_s), self._pull)

    def _pull(self) -> None:
        replica = self.replica
        assert replica is not None
        if replica.role == "learner" or replica.admin is None:
            # A voter that was removed while it was down does not know it, and no admin speaks to it any more.
            voters = [peer for peer in replica.roster.by_peer if peer != self.peer]
            if voters:
                self.send(self.site.number(self._rng.choice(voters)), Pull(replica.pull_after))
        self._pull_later()

    def _pulled(self, source: int, message: Pulled) -> None:
        assert self.replica is not None
        if message.snapshot:
            self.send(source, FetchSnapshot())
        else:
            self.replica.learn(message, self.now)


@lru_cache(maxsize=1024)
def _roster(data: bytes) -> Roster:
    return read_roster(data)
