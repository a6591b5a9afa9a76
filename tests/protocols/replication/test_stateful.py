"""Four logs under loss, reordering, duplicates, crashes, elections, roster changes and snapshots, in any order.

The election is an oracle that follows Raft's rules: a candidate needs a majority of the roster in force in its own log,
whose logs are not ahead of its own. Terms and votes are durable at once, after the writes before them.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from chorus.protocols.ballot.messages import LogPosition
from chorus.protocols.journal import JournalCore
from chorus.protocols.replication.limits import JournalLimits
from chorus.protocols.replication.log import StoredLog
from chorus.protocols.replication.messages import Append, AppendReply, LogEntry
from chorus.protocols.replication.outbox import Committed, LogContradiction, ReplicaMessage, SnapshotWanted
from chorus.protocols.replication.refusals import RosterRefused, StaleAppend
from tests.protocols.replication.support import A, B, C, D, Replica, applied, roster
from tests.support import PureTestCase

MEMBERS = (A, B, C, D)
LIMITS = JournalLimits(window=3, kept=2)
SEEDS = 100
members = st.integers(0, len(MEMBERS) - 1)


@attrs.define
class Letter:
    sender: int
    to: int
    message: ReplicaMessage


class Logs(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        stored = StoredLog(LogPosition(), roster(A, B, C))
        self.replicas = [Replica(each, stored, LIMITS) for each in MEMBERS]
        self.number = {each.peer: at for at, each in enumerate(MEMBERS)}
        self.terms = [0] * len(MEMBERS)
        self.leads = [0] * len(MEMBERS)
        """The term that each leads, or 0."""
        self.letters: list[Letter] = []
        self.ledger: list[LogEntry] = []
        """All that was ever delivered anywhere."""
        self.applied = [0] * len(MEMBERS)
        self.now = 0.0

    def _collect(self, at: int) -> None:
        replica = self.replicas[at]
        replica.drain()
        self.letters += [Letter(at, self.number[peer], message) for peer, message in replica.messages]
        replica.messages.clear()
        events, replica.events = replica.events, []
        for event in events:
            assert not isinstance(event, LogContradiction)
            if isinstance(event, Committed):
                self._deliver(at, event.entries)
            elif isinstance(event, SnapshotWanted):
                self._install(self.number[event.peer], at)

    def _deliver(self, at: int, found: tuple[LogEntry, ...]) -> None:
        for entry in found:
            if entry.index <= self.applied[at]:
                continue
            assert entry.index == self.applied[at] + 1
            self.applied[at] = entry.index
            if entry.index > len(self.ledger):
                self.ledger.append(entry)
            assert self.ledger[entry.index - 1] == entry

    def _write(self, at: int, most: int = 100) -> None:
        replica = self.replicas[at]
        self._collect(at)
        for write in replica.unwritten[:most]:
            replica.rows = [row for row in applied(replica.rows, write) if row.index > replica.stored.snapshot.index]
            replica.outbox.persisted(write.ticket)
            replica.core.persisted(write.ticket, self.now)
        del replica.unwritten[:most]
        self._collect(at)

    @rule(at=members)
    def elect(self, at: int) -> None:
        core = self.replicas[at].core
        in_force = core.roster
        term = max(self.terms) + 1
        willing = [
            voter
            for voter in in_force.voters
            if (core.last.term, core.last.index)
            >= (self._core(voter.peer).last.term, self._core(voter.peer).last.index)
        ]
        if MEMBERS[at] not in in_force.voters or len(willing) < in_force.quorum:
            return
        for voter in willing:
            number = self.number[voter.peer]
            self._write(number)
            self._term(number, term)
        assert all(core.term_at(entry.index) in (None, entry.term) for entry in self.ledger)
        assert core.last.index >= len(self.ledger), "whoever leads has all that is committed"
        core.lead(term, self.now)
        self.leads[at] = term
        self._collect(at)

    def _core(self, peer: str) -> JournalCore:
        return self.replicas[self.number[peer]].core

    def _term(self, at: int, term: int) -> None:
        if term > self.terms[at]:
            self.terms[at] = term
            self.leads[at] = 0
            self.replicas[at].core.follow()

    @precondition(lambda self: any(self.leads))
    @rule(pick=members, count=st.integers(1, 4))
    def propose(self, pick: int, count: int) -> None:
        at = self._a_leader(pick)
        first = self.replicas[at].core.last.index + 1
        found = [b"%d.%d" % (self.leads[at], first + each) for each in range(count)]
        self.replicas[at].core.propose(found, self.now)
        self._collect(at)

    def _a_leader(self, pick: int) -> int:
        leaders = [at for at, term in enumerate(self.leads) if term]
        return leaders[pick % len(leaders)]

    @precondition(lambda self: any(self.leads))
    @rule(pick=members, changed=members)
    def change(self, pick: int, changed: int) -> None:
        at = self._a_leader(pick)
        core, voter = self.replicas[at].core, MEMBERS[changed]
        try:
            core.propose_roster(sorted({*core.roster.voters} ^ {voter}), self.now)
        except RosterRefused:
            return
        self._collect(at)

    @precondition(lambda self: self.letters)
    @rule(pick=st.integers(0, 99), keep=st.booleans())
    def deliver(self, pick: int, keep: bool) -> None:
        at = pick % len(self.letters)
        self._receive(self.letters[at] if keep else self.letters.pop(at))

    @rule(some=st.sets(members, min_size=2), rounds=st.integers(1, 4))
    def exchange(self, some: set[int], rounds: int) -> None:
        """Some write, and hear each other; the letters to others wait."""
        for _ in range(rounds):
            for at in sorted(some):
                self._write(at)
            letters, self.letters = self.letters, []
            for letter in letters:
                if {letter.sender, letter.to} <= some:
                    self._receive(letter)
                else:
                    self.letters.append(letter)

    def _receive(self, letter: Letter) -> None:
        message, core = letter.message, self.replicas[letter.to].core
        if isinstance(message, Append):
            if message.term < self.terms[letter.to] or letter.to == letter.sender:
                return
            self._term(letter.to, message.term)
            with contextlib.suppress(StaleAppend):
                core.receive_append(MEMBERS[letter.sender].peer, message)
        elif isinstance(message, AppendReply):
            core.receive_reply(MEMBERS[letter.sender].peer, message, self.now)
        self._collect(letter.to)

    @precondition(lambda self: self.letters)
    @rule(at=members)
    def lose(self, at: int) -> None:
        self.letters = [letter for letter in self.letters if at not in (letter.sender, letter.to)]

    @rule(at=members, most=st.integers(1, 3))
    def write(self, at: int, most: int) -> None:
        self._write(at, most)

    @rule(at=members)
    def crash(self, at: int) -> None:
        replica = self.replicas[at]
        self._collect(at)
        replica.start()
        self.leads[at] = 0
        self.applied[at] = replica.stored.snapshot.index

    @rule(at=members)
    def learn(self, at: int) -> None:
        core = self.replicas[at].core
        source = self.replicas[(at + 1) % len(MEMBERS)].core
        if not core.learn(source.pulled(core.pull_after)):
            self._install(at, (at + 1) % len(MEMBERS))
        self._collect(at)

    @rule(at=members)
    def compact(self, at: int) -> None:
        """A snapshot of what is applied, with the rows under it removed."""
        replica = self.replicas[at]
        self._collect(at)
        index = self.applied[at]
        term = replica.core.term_at(index)
        if term is not None and index > replica.stored.snapshot.index:
            position = LogPosition(term, index)
            replica.stored = StoredLog(position, replica.core.roster_at(index))
            replica.rows = [row for row in replica.rows if row.index > index]
            replica.core.compacted(position)

    def _install(self, at: int, source: int) -> None:
        """The source's snapshot becomes that of `at`, whose rows stay only where they attach to it."""
        snapshot, replica = self.replicas[source].stored, self.replicas[at]
        if self.leads[at] or snapshot.snapshot.index <= self.applied[at]:
            return
        position = snapshot.snapshot
        attached = any((row.term, row.index) == (position.term, position.index) for row in replica.rows)
        replica.rows = [row for row in replica.rows if attached and row.index > position.index]
        replica.stored = snapshot
        self.applied[at] = position.index
        replica.core.installed(position, snapshot.roster)
        self._collect(at)

    @rule(seconds=st.sampled_from((0.005, 0.4, 3.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for at, replica in enumerate(self.replicas):
            replica.core.tick(self.now)
            self._collect(at)

    @invariant()
    def what_is_delivered_is_durable(self) -> None:
        for at, replica in enumerate(self.replicas):
            assert replica.core.commit >= self.applied[at]
            assert max([replica.stored.snapshot.index, *(row.index for row in replica.rows)]) >= self.applied[at]

    def teardown(self) -> None:
        """Once nothing is lost any more, all voters end with one log."""
        for _ in range(3):
            self._settle()
        leaders = [at for at, term in enumerate(self.leads) if term and term == max(self.terms)]
        if leaders:
            (at,) = leaders
            core = self.replicas[at].core
            core.propose([b"last"], self.now)
            self._collect(at)
            for _ in range(3):
                self._settle()
            assert core.commit == core.last.index
            for voter in core.roster.voters:
                assert self._core(voter.peer).commit == core.commit

    def _settle(self) -> None:
        for _ in range(60):
            for at in range(len(MEMBERS)):
                self._write(at)
            if not self.letters:
                break
            self.exchange(set(range(len(MEMBERS))), 1)
        self.wait(3.0)


def walk(seed: int, steps: int) -> Logs:
    """A random schedule in which more happens than in most that hypothesis draws."""
    logs, rng = Logs(), random.Random(seed)

    def anyone() -> int:
        return rng.randrange(len(MEMBERS))

    def some() -> set[int]:
        return set(rng.sample(range(len(MEMBERS)), rng.randint(2, len(MEMBERS))))

    acts: list[tuple[int, Callable[[], object]]] = [
        (10, lambda: any(logs.leads) and logs.propose(anyone(), rng.randint(1, 4))),
        (12, lambda: logs.exchange(some(), rng.randint(1, 4))),
        (5, lambda: logs.elect(anyone())),
        (4, lambda: any(logs.leads) and logs.change(anyone(), anyone())),
        (6, lambda: logs.letters and logs.deliver(rng.randrange(100), rng.random() < 0.2)),
        (4, lambda: logs.letters and logs.lose(anyone())),
        (4, lambda: logs.write(anyone(), rng.randint(1, 3))),
        (4, lambda: logs.crash(anyone())),
        (3, lambda: logs.learn(anyone())),
        (2, lambda: logs.compact(anyone())),
        (4, lambda: logs.wait(rng.choice((0.005, 0.4, 3.0)))),
    ]
    weights = [weight for weight, _ in acts]
    for _ in range(steps):
        rng.choices(acts, weights)[0][1]()
        logs.what_is_delivered_is_durable()
    logs.teardown()
    return logs


class Stateful(PureTestCase):
    def test_any_order(self) -> None:
        run_state_machine_as_test(Logs, settings=settings(max_examples=30, stateful_step_count=50, deadline=None))

    def test_random_walks(self) -> None:
        committed = 0
        for seed in range(SEEDS):
            try:
                committed += len(walk(seed, 60).ledger)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}") from error
        self.assertGreater(committed, 5 * SEEDS, "most schedules commit something")
