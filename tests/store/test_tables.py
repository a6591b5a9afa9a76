from __future__ import annotations

from pathlib import Path
from unittest import mock

from chorus.store import blobs, events, meta, pins, publications, runs
from chorus.store.inline import InlineDatabase
from chorus.store.pins import Pin, PinQuota
from chorus.store.publications import PublicationRow, PublicationState
from chorus.store.rows import dump, load
from tests.support import PureTestCase


class TableCase(PureTestCase):
    def setUp(self) -> None:
        store = InlineDatabase(Path(self.mktemp()))
        self.addCleanup(store.close)
        assert store._connection is not None
        self.connection = store._connection


class EventTests(TableCase):
    def add(self, task: str, *kinds: str) -> list[int]:
        return [row.id for row in events.append(self.connection, task, [(kind, 1.5, {"n": kind}) for kind in kinds])]

    def test_ids_grow_by_one_per_task(self) -> None:
        self.assertEqual(self.add("a", "x", "y"), [1, 2])
        self.assertEqual(self.add("b", "x"), [1])
        self.assertEqual(self.add("a", "z"), [3])
        self.assertEqual(self.add("a"), [])
        self.assertEqual((events.last_id(self.connection, "a"), events.last_id(self.connection, "c")), (3, 0))

    def test_after(self) -> None:
        self.add("a", *"uvwxyz")
        found = events.after(self.connection, "a", 2, 3)
        self.assertEqual(
            [(row.id, row.type, row.time, row.data) for row in found],
            [(3, "w", 1.5, {"n": "w"}), (4, "x", 1.5, {"n": "x"}), (5, "y", 1.5, {"n": "y"})],
        )
        self.assertEqual(events.after(self.connection, "a", 6), [])
        self.assertEqual(events.after(self.connection, "b", 0), [])

    def test_forget(self) -> None:
        self.add("a", "x", "y")
        self.add("b", "x")
        self.assertEqual(events.forget(self.connection, "a"), 2)
        self.assertEqual(events.after(self.connection, "a", 0), [])
        self.assertEqual(len(events.after(self.connection, "b", 0)), 1)


class DroppedNumberTests(TableCase):
    def drop(self, address: str, seq: int, state: PublicationState = PublicationState.WAITING) -> None:
        row = PublicationRow(bytes([seq]) * 32, address, b"signed", state, 0.0, seq=seq)
        publications.insert(self.connection, row)
        publications.drop_waiting(self.connection, row.content)

    def test_the_numbers_of_attempts_that_waited_stay_taken(self) -> None:
        for seq in (4, 3):
            self.drop("a", seq)
        self.drop("b", 5, PublicationState.DUE)
        self.assertEqual([publications.dropped(self.connection, each) for each in "ab"], [4, 0])
        self.assertEqual([row.seq for row in publications.every(self.connection)], [5])

    def test_of_too_many_the_oldest_go(self) -> None:
        with mock.patch.object(publications, "MAX_DROPPED", 2):
            for seq, address in enumerate("abc", 1):
                self.drop(address, seq)
        self.assertEqual([publications.dropped(self.connection, each) for each in "abc"], [0, 2, 3])


class RunTests(TableCase):
    def insert(self, task: str, fence: str, now: float = 1.0) -> bool:
        return runs.insert(
            self.connection,
            task_id=task,
            fence=fence,
            attempt=2,
            scheduler="12D3",
            spec={"a": [1, "ä"]},
            state="accepted",
            now=now,
        )

    def test_life(self) -> None:
        self.assertTrue(self.insert("a", "0.1.2"))
        self.assertFalse(self.insert("a", "0.1.2", 9.0))
        self.assertTrue(runs.update(self.connection, "a", "0.1.2", "running", 2.0))
        self.assertTrue(runs.update(self.connection, "a", "0.1.2", "ended", 3.0, {"exit_code": 0}))
        self.assertTrue(runs.update(self.connection, "a", "0.1.2", "delivered", 4.0))
        row = runs.get(self.connection, "a", "0.1.2")
        self.assertEqual(
            row, runs.StoredRun("a", "0.1.2", 2, "12D3", {"a": [1, "ä"]}, "delivered", {"exit_code": 0}, 1.0, 4.0)
        )
        self.assertTrue(runs.forget(self.connection, "a", "0.1.2"))
        self.assertFalse(runs.forget(self.connection, "a", "0.1.2"))
        self.assertFalse(runs.update(self.connection, "a", "0.1.2", "x", 5.0))
        self.assertIsNone(runs.get(self.connection, "a", "0.1.2"))

    def test_two_fences_of_one_task(self) -> None:
        self.insert("a", "0.1.9", 2.0)
        self.insert("a", "0.1.2", 1.0)
        self.assertEqual([row.fence for row in runs.unfinished(self.connection)], ["0.1.2", "0.1.9"])


class BlobTests(TableCase):
    def test_life(self) -> None:
        one, two = "11" * 32, "22" * 32
        self.assertTrue(blobs.insert(self.connection, one, 5, b"{}", 1.0))
        self.assertTrue(blobs.insert(self.connection, two, 6, b"{}", 2.0))
        self.assertFalse(blobs.insert(self.connection, one, 5, b"other", 3.0))
        self.assertEqual(blobs.get(self.connection, one), blobs.BlobRow(one, 5, 1.0, 3.0))
        self.assertEqual(blobs.manifest(self.connection, one), b"{}")
        self.assertEqual([row.sha256 for row in blobs.every(self.connection)], [two, one])
        self.assertTrue(blobs.forget(self.connection, one))
        self.assertFalse(blobs.forget(self.connection, one))
        self.assertIsNone(blobs.get(self.connection, one))
        self.assertIsNone(blobs.manifest(self.connection, one))
        blobs.forget_all(self.connection, [one, two])
        self.assertEqual(blobs.every(self.connection), [])


class RowTests(TableCase):
    def test_meta(self) -> None:
        self.assertIsNone(meta.get(self.connection, "a"))
        meta.put(self.connection, "a", "1")
        meta.put(self.connection, "a", "2")
        self.assertEqual(meta.get(self.connection, "a"), "2")

    def test_json(self) -> None:
        value = {"a": [1, 2.5, None, True, "ä\u2028\0"]}
        self.assertEqual(load(dump(value)), value)  # type: ignore[arg-type]
        with self.assertRaises(ValueError):
            dump(float("nan"))


class PinTests(TableCase):
    def put(
        self, number: int, by: str = "", size: int = 10, until: float | None = None, quota: PinQuota | None = None
    ) -> bool:
        return pins.put(self.connection, Pin(f"{number:064x}", "r", by, size, until), 100.0, quota)

    def test_kept_until_their_end(self) -> None:
        for number, until in ((1, None), (2, 150.0), (3, 101.0)):
            self.assertTrue(self.put(number, until=until))
        self.assertEqual([pin.until for pin in pins.every(self.connection, 101.0)], [None, 150.0])
        self.assertEqual(len(pins.every(self.connection, 0.0)), 2, "ended ones are gone")

    def test_quota_of_a_peer(self) -> None:
        quota = PinQuota(25, 3)
        self.assertEqual([self.put(number, "a", quota=quota) for number in (1, 2, 3)], [True, True, False])
        self.assertTrue(self.put(2, "a", 15, quota=quota), "the same blob counts once")
        self.assertTrue(self.put(3, "b", quota=quota))
        self.assertTrue(self.put(4), "this node has none")
        self.assertTrue(self.put(2, "a", 1, quota=quota))
        self.assertEqual([self.put(number, "a", 0, quota=quota) for number in (5, 6)], [True, False], "nor more pins")

    def test_ended_ones_do_not_count(self) -> None:
        quota = PinQuota(10, 1)
        self.assertTrue(self.put(1, "a", until=99.0, quota=quota))
        self.assertTrue(self.put(2, "a", quota=quota))

    def test_drop(self) -> None:
        for by in ("", "a", "b"):
            self.put(1, by)
        pins.drop(self.connection, f"{1:064x}", "r", "a")
        self.assertEqual({pin.by for pin in pins.every(self.connection, 0.0)}, {"", "b"})
        pins.drop(self.connection, f"{1:064x}", "other")
        pins.drop(self.connection, f"{1:064x}", "r")
        self.assertEqual(pins.every(self.connection, 0.0), [])

    def test_sealed(self) -> None:
        for _ in range(2):
            pins.mark_sealed(self.connection, "ab" * 32)
        self.assertEqual(pins.sealed(self.connection), ["ab" * 32])
        pins.forget_sealed(self.connection, "ab" * 32)
        self.assertEqual(pins.sealed(self.connection), [])
