"""Reading, appending and subscribing, between the journal and the scheduler's parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed

from chorus.services.journal import LocalJournal
from chorus.services.scheduling.ledger import Ledger
from chorus.store.inline import InlineDatabase
from chorus.tasks import entries, ids
from chorus.tasks.applied import Applied, Audience, Change
from chorus.tasks.errors import StaleFence, UnknownTask
from chorus.tasks.journal import Entry
from tests.support import PureTestCase

A, B = ids.make(1, bytes), ids.make(2, bytes)


class LedgerTests(PureTestCase):
    def setUp(self) -> None:
        store = InlineDatabase(Path(self.mktemp()))
        self.addCleanup(store.close)
        self.journal = LocalJournal(store)
        self.successResultOf(self.journal.startService())
        self.ledger = Ledger(self.journal, self.journal.machine)

    def append(self, entry: Entry) -> Deferred[Applied]:
        return Deferred.fromCoroutine(self.ledger.append(entry))

    def submit(self, task_id: str, *depends: str) -> Applied:
        spec: dict[str, Any] = {"commands": ["true"], "depends_on": list(depends)}
        return self.successResultOf(self.append(entries.submitted(1.0, task_id, spec, "someone", max_attempts=3)))

    def test_it_returns_what_was_applied(self) -> None:
        applied = self.submit(A)
        self.assertEqual((applied.index, applied.entry.subject), (1, A))
        self.assertIs(applied.task, self.ledger.machine.get(A))
        self.assertEqual(applied.changes, (Change(None, applied.task),))

    def test_what_the_machine_refuses_is_not_written(self) -> None:
        self.failureResultOf(self.append(entries.cancelled(1.0, A, "x", "")), UnknownTask)
        self.assertEqual(self.journal.appended, 0)

    def test_an_entry_that_was_overtaken_raises_its_refusal(self) -> None:
        refusal = StaleFence("another owner has it")

        class Overtaken(LocalJournal):
            def append(self, entry: Entry) -> Deferred[Applied]:
                return succeed(Applied(2, entry, refusal=refusal))

        self.submit(A)
        overtaken = Overtaken(self.journal._store)  # type: ignore[arg-type]
        late = Ledger(overtaken, self.journal.machine).append(entries.cancelled(1.0, A, "x", ""))
        self.assertIs(self.failureResultOf(Deferred.fromCoroutine(late)).value, refusal)

    def test_a_change_that_a_subscriber_fails_on_keeps_no_other_from_it(self) -> None:
        self.submit(A)
        self.submit(B, A)
        heard: list[tuple[str, bool]] = []

        def failing(change: Change) -> None:
            heard.append((change.task_id, change.moved))
            if change.task_id == A:
                raise ZeroDivisionError

        self.ledger.subscribe(Audience.NODE, failing)
        self.successResultOf(self.append(entries.cancelled(2.0, A, "x", "")))
        self.assertEqual(heard, [(A, True), (B, True)])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
