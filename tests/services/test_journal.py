from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase

from chorus.services import journal as service
from chorus.services.journal import JournalUnreadable, LocalJournal
from chorus.services.store import StoreService
from chorus.store import journal as table
from chorus.store.errors import StoreDamaged
from chorus.store.inline import InlineDatabase
from chorus.tasks import entries, ids
from chorus.tasks.applied import Applied, Audience
from chorus.tasks.journal import Entry, Fence, NoQuorum
from chorus.tasks.machine import TaskMachine
from tests.support import PureTestCase

A, B = ids.make(1, bytes), ids.make(2, bytes)


def submission(task_id: str) -> Entry:
    return entries.submitted(1.5, task_id, {"commands": ["true"], "title": "ä"}, "someone", max_attempts=3)


class JournalTests(PureTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def start(self) -> tuple[LocalJournal, TaskMachine]:
        self.store = InlineDatabase(self.path)
        self.addCleanup(self.store.close)
        journal = LocalJournal(self.store)
        self.successResultOf(journal.startService())
        return journal, journal.machine

    def restart(self, journal: LocalJournal, *, clean: bool = True) -> tuple[LocalJournal, TaskMachine]:
        if clean:
            self.successResultOf(journal.stopService())
        self.store.close()
        return self.start()

    def append(self, journal: LocalJournal, entry: Entry) -> int:
        return self.successResultOf(journal.append(entry)).index

    def test_replay_is_the_same_machine(self) -> None:
        journal, machine = self.start()
        self.assertEqual(self.append(journal, submission(A)), 1)
        index = self.append(journal, entries.assigned(2.0, A, agent="x", attempt=1, lease_s=30))
        fence = machine.get(A).fence
        self.assertEqual(fence, Fence(0, 1, index))
        again, replayed = self.restart(journal, clean=False)
        self.assertEqual(list(replayed), list(machine))
        self.assertEqual(again.start_count, 2)
        self.assertEqual(replayed.get(A).fence, fence)

    def test_events_in_the_log(self) -> None:
        logged: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, logged.append)
        journal, _ = self.start()
        self.append(journal, submission(A))
        self.append(journal, entries.forgotten(2.0, B))
        self.restart(journal, clean=False)
        names = [each["event"] for each in logged if str(each.get("event", "")).startswith("journal.")]
        self.assertEqual(names, ["journal.replayed", "journal.ignored", "journal.replayed"])
        self.assertEqual((logged[-1]["entries"], logged[-1]["index"], logged[-1]["ignored"]), (2, 2, 1))

    def test_fences_grow_over_restarts(self) -> None:
        journal, _ = self.start()
        self.append(journal, submission(A))
        self.append(journal, submission(B))
        fences = [journal.fence_of(1), journal.fence_of(2)]
        for start in (2, 3):
            journal, _ = self.restart(journal)
            index = self.append(journal, entries.cancelled(3.0, (A, B)[start - 2], "x", ""))
            fences.append(journal.fence_of(index))
        self.assertEqual(fences, [Fence(0, 1, 1), Fence(0, 1, 2), Fence(0, 2, 3), Fence(0, 3, 4)])
        self.assertEqual([journal.fence_of(index) for index in range(1, 5)], fences)

    def test_a_start_without_entries_counts(self) -> None:
        journal, _ = self.start()
        for start in (2, 3, 4):
            journal, _ = self.restart(journal)
            self.assertEqual(journal.start_count, start)
        self.append(journal, submission(A))
        self.assertEqual(journal.fence_of(1), Fence(0, 4, 1))

    def test_snapshot_and_entries_after_it(self) -> None:
        self.patch(service, "SNAPSHOT_EVERY", 10)
        journal, machine = self.start()
        for number in range(25):
            self.append(journal, submission(ids.make(number, bytes)))
        kept = self.successResultOf(self.store.read(lambda c: [index for index, _ in table.entries(c, 0)]))
        # After 10 entries for 10 tasks; with 25 tasks the next is due after 25 more entries.
        self.assertEqual(kept, list(range(11, 26)))
        for number in range(10):
            self.append(journal, entries.cancelled(2.0, ids.make(number, bytes), "x", ""))
        kept = self.successResultOf(self.store.read(lambda c: [index for index, _ in table.entries(c, 0)]))
        self.assertEqual(kept, [])
        again, replayed = self.restart(journal, clean=False)
        self.assertEqual(list(replayed), list(machine))
        self.assertEqual(self.append(again, submission(A)), 36)

    def test_snapshot_when_stopped(self) -> None:
        self.patch(service, "SNAPSHOT_AT_STOP", 2)
        journal, machine = self.start()
        self.append(journal, submission(A))
        self.append(journal, entries.assigned(2.0, A, agent="x", attempt=1, lease_s=30))
        again, replayed = self.restart(journal)
        self.assertEqual(self.successResultOf(self.store.read(lambda c: list(table.entries(c, 0)))), [])
        self.assertEqual(list(replayed), list(machine))
        index = self.append(again, submission(B))
        self.assertEqual((index, again.fence_of(index), again.fence_of(2)), (3, Fence(0, 2, 3), Fence(0, 1, 2)))

    def test_an_unreadable_snapshot_stops_the_start(self) -> None:
        journal, _ = self.start()
        self.append(journal, submission(A))
        self.successResultOf(self.store.write(lambda c: table.put_snapshot(c, 1, b'{"version": 99}')))
        again = LocalJournal(self.store)
        self.assertIn("version 99", str(self.failureResultOf(again.startService(), JournalUnreadable).value))
        self.failureResultOf(again.append(submission(B)), NoQuorum)

    def test_entries_that_are_not_what_was_written_stop_the_start(self) -> None:
        for body in (None, "[]", "{", b"\0"):
            self.path = Path(self.mktemp())
            journal, _ = self.start()
            self.append(journal, submission(A))
            self.successResultOf(journal.stopService())
            # What a page that lost its content reads as.
            connection = self.store._connection
            assert connection is not None
            schema = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'journal'").fetchone()[0]
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute(
                "UPDATE sqlite_master SET sql = ? WHERE name = 'journal'",
                (schema.replace("NOT NULL", "").replace("STRICT", ""),),
            )
            self.store.close()
            changed = sqlite3.connect(self.path)
            changed.execute("UPDATE journal SET body = ?", (body,))
            changed.commit()
            changed.close()
            self.store = InlineDatabase(self.path)
            self.addCleanup(self.store.close)
            journal = LocalJournal(self.store)
            failure = self.failureResultOf(journal.startService())
            self.assertIsInstance(failure.value, (JournalUnreadable, StoreDamaged), body)

    def test_a_start_that_failed_keeps_no_snapshot(self) -> None:
        """What it had read until then is not the state, and would take the place of the entries after it."""
        journal, _machine = self.start()
        for number in range(service.SNAPSHOT_AT_STOP + 5):
            self.append(journal, submission(ids.make(number + 1, bytes)))
        self.store.close()
        self.store = InlineDatabase(self.path)
        self.addCleanup(self.store.close)
        failing = LocalJournal(self.store)
        machine = failing.machine
        apply = machine.apply

        def until_the_last(index: int, entry: Entry) -> Applied:
            if index > service.SNAPSHOT_AT_STOP + 4:
                raise KeyError("spec")
            return apply(index, entry)

        self.patch(machine, "apply", until_the_last)
        self.failureResultOf(failing.startService(), JournalUnreadable)
        self.successResultOf(failing.stopService())
        self.assertIsNone(self.successResultOf(self.store.read(table.snapshot)))
        entries_left = self.successResultOf(self.store.read(lambda c: len(list(table.entries(c, 0)))))
        self.assertEqual(entries_left, service.SNAPSHOT_AT_STOP + 5)

    def test_only_while_open(self) -> None:
        journal, _ = self.start()
        self.successResultOf(journal.stopService())
        self.failureResultOf(journal.append(submission(A)), NoQuorum)

    def test_subscribers_hear_what_is_new(self) -> None:
        journal, machine = self.start()
        self.append(journal, submission(A))
        journal, machine = self.restart(journal)
        heard: list[Applied] = []
        journal.subscribe(Audience.NODE, lambda applied: 1 / 0)  # type: ignore[arg-type, return-value]
        journal.subscribe(Audience.NODE, heard.append)
        self.append(journal, entries.cancelled(3.0, A, "x", ""))
        self.append(journal, entries.cancelled(3.0, A, "y", ""))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertEqual(
            [(each.index, each.refusal is None, len(each.changes)) for each in heard], [(2, True, 1), (3, False, 0)]
        )
        self.assertEqual((heard[0].changes[0].before.state, heard[0].task.state), ("submitted", "cancelled"))  # type: ignore[union-attr]
        self.assertEqual(machine.get(A).detail, "cancelled by x")

    def test_every_nodes_subscribers_hear_before_the_schedulers(self) -> None:
        """Whenever they subscribed; and an append returns after all of them."""
        journal, _ = self.start()
        heard: list[str] = []
        for audience, name in ((Audience.SCHEDULER, "placement"), (Audience.NODE, "one"), (Audience.NODE, "two")):
            journal.subscribe(audience, lambda applied, name=name: heard.append(name))  # type: ignore[misc]
        journal.append(submission(A)).addCallback(lambda applied: heard.append(str(applied.task.state)))
        self.assertEqual(heard, ["one", "two", "placement", "submitted"])

    def test_what_is_no_json_is_refused_and_leaves_no_hole(self) -> None:
        journal, _ = self.start()
        self.failureResultOf(journal.append(Entry("task.x", A, {"a": float("nan")}, 1.0)), ValueError)
        self.assertEqual(self.append(journal, submission(A)), 1)


class ThreadedJournalTests(TestCase):
    timeout = 120

    async def test_applied_in_the_order_of_indexes(self) -> None:
        store = StoreService(Path(self.mktemp()), reactor)  # type: ignore[arg-type]
        await store.startService()
        self.addCleanup(store.stopService)
        journal = LocalJournal(store.database)
        await journal.startService()
        applied: list[int] = []
        journal.subscribe(Audience.NODE, lambda what: applied.append(what.index))
        task_ids = [ids.make(number, bytes) for number in range(300)]
        bad = self.assertFailure(journal.append(Entry("task.x", A, {"a": float("inf")}, 1.0)), ValueError)
        done = await gatherResults([journal.append(submission(each)) for each in task_ids])
        await bad
        self.assertEqual([each.index for each in done], list(range(1, 301)))
        self.assertEqual(applied, list(range(1, 301)))
        self.assertEqual([task.id for task in journal.machine], task_ids)
        self.assertLess(store.database.counters.commits, 50)
        stored = await store.database.read(lambda c: c.execute("SELECT count(*) FROM journal").fetchone())
        self.assertEqual(stored, (300,))
        await journal.stopService()


class JournalTableTests(PureTestCase):
    def test_indexes_go_on_after_a_snapshot_of_everything(self) -> None:
        store = InlineDatabase(Path(self.mktemp()))
        self.addCleanup(store.close)

        def work(connection: sqlite3.Connection) -> list[int]:
            first = [table.append(connection, submission(A)) for _ in range(3)]
            table.put_snapshot(connection, 3, b"x")
            return [*first, table.append(connection, submission(B))]

        self.assertEqual(self.successResultOf(store.write(work)), [1, 2, 3, 4])
