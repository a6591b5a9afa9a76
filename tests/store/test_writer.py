"""The writer alone: which errors cost it its connection, what it refuses, and what is left open."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from chorus.store import ballast, meta, whereabouts, writer
from chorus.store import connection as connection_module
from chorus.store.ballast import Ballast
from chorus.store.connection import CHECKPOINT_FRAMES, open_reader, open_writer
from chorus.store.errors import StoreBusy, StoreDamaged, StoreFull, StoreLost, StoreRefused, StoreUnavailable
from chorus.store.whereabouts import Whereabouts
from chorus.store.writer import StoreCounters, StoreJob, Writer
from tests.support import PureTestCase


def trouble(code: int, name: str = "SQLITE_TEST") -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(name)
    error.sqlite_errorcode, error.sqlite_errorname = code, name
    return error


class Faulty:
    """A connection that raises when it is told to, and says whether it was closed."""

    def __init__(self, path: Path) -> None:
        self._real = open_writer(path)
        self.faults: dict[str, BaseException] = {}
        self.closed = False

    def execute(self, statement: str, *arguments: Any) -> Any:
        for beginning, fault in self.faults.items():
            if statement.startswith(beginning):
                raise fault
        return self._real.execute(statement, *arguments)

    @property
    def in_transaction(self) -> bool:
        return self._real.in_transaction

    def close(self) -> None:
        self.closed = True
        self._real.close()
        if "close" in self.faults:
            raise self.faults["close"]


class WriterCase(PureTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        self.opened: list[Faulty] = []
        self.patch(writer, "open_writer", self.open_faulty)
        self.writer = Writer(self.path, StoreCounters())
        self.addCleanup(self.writer.close)

    def open_faulty(self, path: Path) -> Any:
        self.opened.append(Faulty(path))
        return self.opened[-1]

    def ready(self) -> Faulty:
        self.writer.open(False)
        self.writer.migrate(False)
        return self.opened[0]

    def commit(self, *works: Callable[[Any], object]) -> list[object]:
        jobs: list[StoreJob[Any]] = [StoreJob(work, Deferred()) for work in works]
        return [outcome for _, outcome in self.writer.commit(jobs)]

    def put(self, key: str) -> Callable[[Any], object]:
        return lambda connection: meta.put(connection, key, "x")

    def keys(self) -> set[str]:
        connection = open_reader(self.path)
        try:
            return {row[0] for row in connection.execute("SELECT key FROM meta")}
        finally:
            connection.close()

    def assert_refused(self, outcomes: list[object], error: type[Exception]) -> None:
        for outcome in outcomes:
            assert isinstance(outcome, Failure)
            self.assertIsInstance(outcome.value, error)


class Erasing(WriterCase):
    """What is erased is in no older page of the log."""

    def erase(self, *works: Callable[[Any], object]) -> list[object]:
        jobs: list[StoreJob[Any]] = [StoreJob(work, Deferred(), True) for work in works]
        outcomes = self.writer.commit([*jobs, StoreJob(self.put("other"), Deferred())])
        return [outcome for _, outcome in outcomes]

    def log(self) -> bytes:
        return Path(f"{self.path}-wal").read_bytes()

    def remove(self, connection: Any) -> None:
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("DELETE FROM meta WHERE key = 'gone'")

    def test_the_log_is_empty_after_it(self) -> None:
        self.ready()
        self.commit(lambda connection: meta.put(connection, "gone", "plaintext"))
        self.assertIn(b"plaintext", self.log())
        self.assertEqual(self.erase(self.remove), [None, None])
        self.assertEqual(self.log(), b"")
        self.assertNotIn(b"plaintext", self.path.read_bytes())
        self.assertEqual(self.commit(self.put("b")), [None])
        self.assertIsNone(self.writer.look())

    def test_a_reader_that_holds_the_log_fails_it_alone(self) -> None:
        first = self.ready()
        first.execute("PRAGMA busy_timeout = 1")
        self.commit(lambda connection: meta.put(connection, "gone", "plaintext"))
        reader = open_reader(self.path)
        self.addCleanup(reader.close)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM meta").fetchall()
        erased, other = self.erase(self.remove)
        self.assert_refused([erased], StoreBusy)
        self.assertIsNone(other)
        reader.execute("ROLLBACK")
        self.assertEqual(self.erase(self.remove), [None, None])
        self.assertEqual(self.log(), b"")

    def test_a_fault_of_emptying_fails_it_alone(self) -> None:
        first = self.ready()
        first.faults["PRAGMA wal_checkpoint"] = trouble(sqlite3.SQLITE_FULL, "FULL")
        erased, other = self.erase(self.remove)
        self.assert_refused([erased], StoreBusy)
        self.assertIsNone(other)


class Connections(WriterCase):
    def test_errors_of_the_file_cost_the_connection(self) -> None:
        for name in ("IOERR", "READONLY", "CORRUPT", "CANTOPEN", "NOTADB"):
            for statement in ("BEGIN", "COMMIT"):
                self.setUp()
                first = self.ready()
                first.faults[statement] = trouble(getattr(sqlite3, f"SQLITE_{name}"), name)
                self.assert_refused(self.commit(self.put("a")), StoreUnavailable)
                self.assertTrue(first.closed, (name, statement))
                self.assertEqual(self.commit(self.put("b")), [None])
                self.assertEqual((len(self.opened), self.keys()), (2, {"b"}), (name, statement))

    def test_others_do_not(self) -> None:
        for name in ("BUSY", "LOCKED", "FULL", "NOMEM", "INTERRUPT"):
            for statement in ("BEGIN", "COMMIT"):
                self.setUp()
                first = self.ready()
                first.faults[statement] = trouble(getattr(sqlite3, f"SQLITE_{name}"), name)
                self.assert_refused(self.commit(self.put("a")), StoreUnavailable)
                first.faults.clear()
                self.assertEqual(self.commit(self.put("b")), [None])
                self.assertFalse(first.closed, (name, statement))
                self.assertEqual((len(self.opened), self.keys()), (1, {"b"}), (name, statement))

    def test_a_job_that_fails_does_not(self) -> None:
        first = self.ready()
        outcomes = self.commit(self.put("a"), lambda _: 1 / 0, self.put("b"))
        self.assertEqual((outcomes[0], outcomes[2]), (None, None))
        self.assert_refused([outcomes[1]], ZeroDivisionError)
        self.assert_refused(self.commit(lambda _: 1 / 0), ZeroDivisionError)
        self.assertEqual((len(self.opened), first.closed, self.keys()), (1, False, {"a", "b"}))

    def test_one_that_cannot_be_rolled_back_is_given_up(self) -> None:
        first = self.ready()
        first.faults = {"COMMIT": trouble(sqlite3.SQLITE_FULL), "ROLLBACK": trouble(sqlite3.SQLITE_BUSY)}
        self.assert_refused(self.commit(self.put("a")), StoreFull)
        self.assertTrue(first.closed)
        self.assertEqual(self.commit(self.put("b")), [None])

    def test_one_that_cannot_even_be_closed_is_given_up(self) -> None:
        first = self.ready()
        first.faults = {"COMMIT": trouble(sqlite3.SQLITE_IOERR), "close": trouble(sqlite3.SQLITE_BUSY)}
        self.assert_refused(self.commit(self.put("a")), StoreUnavailable)
        self.assertEqual(self.commit(self.put("b")), [None])

    def test_what_cannot_be_committed_together_is_tried_alone(self) -> None:
        first = self.ready()
        first.faults["COMMIT"] = trouble(sqlite3.SQLITE_IOERR)
        self.assertEqual(self.commit(self.put("a"), self.put("b")), [None, None])
        self.assertEqual(self.keys(), {"a", "b"})
        self.assertIsNone(self.writer.trouble)

    def test_counters(self) -> None:
        first, counters = self.ready(), self.writer._counters
        self.commit(self.put("a"), self.put("b"))
        self.commit(lambda _: 1 / 0)
        first.faults["BEGIN"] = trouble(sqlite3.SQLITE_FULL)
        self.commit(self.put("c"))
        self.assertEqual((counters.writes, counters.commits), (4, 1))
        self.assertEqual((counters.failed_writes, counters.unavailable), (2, 1))

    def test_a_failed_open_leaves_nothing_open(self) -> None:
        self.path.write_bytes(b"no database" * 100)
        self.assertRaises(StoreRefused, self.writer.open, False)
        self.writer.close()
        self.path.unlink()
        connection = sqlite3.connect(self.path)
        connection.execute("PRAGMA application_id = 5")
        connection.close()
        self.writer.open(False)
        self.assertRaises(StoreRefused, self.writer.migrate, False)
        self.writer.close()
        self.assertEqual([each.closed for each in self.opened], [True])


class Lost(WriterCase):
    def take_away(self) -> dict[str, Callable[[], object]]:
        log = self.path.with_name(self.path.name + "-wal")
        other = self.path.with_name("other")
        return {
            "removed": self.path.unlink,
            "moved": lambda: self.path.rename(other),
            "replaced": lambda: (other.write_bytes(b"x"), other.rename(self.path)),
            "by a copy": lambda: (other.write_bytes(self.path.read_bytes()), other.rename(self.path)),
            "the log": log.unlink,
            "the folder": lambda: self.path.parent.rename(self.path.parent.with_name("elsewhere")),
        }

    def setUp(self) -> None:
        super().setUp()
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        self.path = folder / "chorus.db"
        self.writer = Writer(self.path, StoreCounters())
        self.addCleanup(self.writer.close)

    def test_nothing_more_is_acknowledged(self) -> None:
        for name in self.take_away():
            self.setUp()
            self.ready()
            self.assertEqual(self.commit(self.put("a")), [None])
            self.assertIsNone(self.writer.look())
            self.take_away()[name]()
            self.assertIn("while the node ran", self.writer.look() or "", name)
            self.assert_refused(self.commit(self.put("b"), self.put("c")), StoreLost)
            self.assertEqual(self.opened.pop().closed, False, "reads go on")

    def test_nor_what_was_being_committed(self) -> None:
        self.ready()

        def work(connection: Any) -> None:
            meta.put(connection, "a", "x")
            self.path.unlink()

        self.assert_refused(self.commit(work), StoreLost)

    def test_it_stays_lost(self) -> None:
        self.ready()
        away = self.path.with_name("away")
        self.path.rename(away)
        self.assertIsNotNone(self.writer.look())
        away.rename(self.path)
        self.assert_refused(self.commit(self.put("a")), StoreLost)

    def test_a_new_connection_makes_no_new_file(self) -> None:
        first = self.ready()
        first.faults["COMMIT"] = trouble(sqlite3.SQLITE_IOERR)
        self.assert_refused(self.commit(self.put("a")), StoreUnavailable)
        self.path.unlink()
        self.assert_refused(self.commit(self.put("b")), StoreLost)
        self.assertFalse(self.path.exists())
        self.assertRaises(sqlite3.OperationalError, open_reader, self.path)
        self.assertFalse(self.path.exists())

    def test_a_log_that_the_last_connection_removed_is_none_lost(self) -> None:
        first = self.ready()
        self.commit(self.put("a"))
        first.faults["COMMIT"] = trouble(sqlite3.SQLITE_IOERR)
        self.commit(self.put("b"))
        self.assertFalse(self.path.with_name("chorus.db-wal").exists())
        self.assertIsNone(self.writer.look())
        self.assertEqual(self.commit(self.put("c")), [None])
        self.assertEqual(self.commit(self.put("d")), [None])

    def test_a_second_name_is_no_loss(self) -> None:
        self.ready()
        os.link(self.path, self.path.with_name("backup"))
        self.assertEqual(self.commit(self.put("a")), [None])

    def large(self, key: str) -> Callable[[Any], object]:
        """More than a checkpoint is due after."""
        return lambda connection: meta.put(connection, key, "x" * (CHECKPOINT_FRAMES + 50) * 4096)

    def damages(self) -> dict[str, Callable[[], object]]:
        """In place: device and inode stay."""
        log = self.path.with_name("chorus.db-wal")
        with contextlib.closing(sqlite3.connect(self.path)) as source:
            old = self.path.with_name("old")
            old.unlink(missing_ok=True)
            source.execute("VACUUM INTO ?", (str(old),))
        return {
            "emptied": lambda: os.truncate(self.path, 0),
            "halved": lambda: os.truncate(self.path, self.path.stat().st_size // 2),
            "a copy over it": lambda: shutil.copyfile(old, self.path),
            "the log emptied": lambda: os.truncate(log, 0),
            # By two blocks of a file system and more: writing on behind it leaves a hole wherever the log ended.
            "the log cut": lambda: os.truncate(log, log.stat().st_size - 9000),
            "longer": lambda: os.truncate(self.path, self.path.stat().st_size + 4096),
        }

    def test_files_that_others_write_to_are_noticed(self) -> None:
        for size, work in (("short", self.put), ("long", self.large)):
            for name in ("emptied", "halved", "a copy over it", "the log emptied", "the log cut", "longer"):
                self.setUp()
                self.ready()
                self.assertEqual(self.commit(work("a"), self.put("b")), [None, None])
                self.assertIsNone(self.writer.look())
                self.damages()[name]()
                self.assertIn("was changed by another program", self.writer.look() or "", (size, name))
                self.assert_refused(self.commit(self.put("c"), self.put("d")), StoreLost)

    def test_also_within_a_transaction(self) -> None:
        for size in ("short", "long"):
            for name in ("emptied", "halved", "the log emptied", "the log cut", "a copy over it", "longer"):
                self.setUp()
                self.ready()
                self.commit(self.put("a"), self.put("b"))
                if size == "long":  # A long log, already begun anew.
                    self.commit(self.large("c"))
                    self.commit(self.put("d"))
                damage = self.damages()[name]

                def work(connection: Any, damage: Callable[[], object] = damage) -> None:
                    meta.put(connection, "e", "x" * 20_000)
                    damage()

                self.assert_refused(self.commit(work), StoreLost)
                self.assertIn("was changed by another program", self.writer.lost or "", (size, name))
                self.assert_refused(self.commit(self.put("f")), StoreLost)

    def test_damage_that_costs_the_connection_is_no_new_beginning(self) -> None:
        first = self.ready()
        self.commit(self.put("a"))

        def work(connection: Any) -> None:
            os.truncate(self.path, 0)
            raise trouble(sqlite3.SQLITE_CORRUPT)

        self.assert_refused(self.commit(work), StoreUnavailable)
        self.assertTrue(first.closed)
        self.assert_refused(self.commit(self.put("b")), StoreLost)

    def test_a_file_that_cannot_be_opened_again_is_damaged(self) -> None:
        first = self.ready()
        self.commit(self.put("a"))
        first.faults["COMMIT"] = trouble(sqlite3.SQLITE_IOERR)
        self.commit(self.put("b"))
        self.path.write_bytes(b"x" * self.path.stat().st_size)
        self.assert_refused(self.commit(self.put("c")), StoreDamaged)

    def test_own_work_is_no_damage(self) -> None:
        """Logs that are moved, begun anew, shortened to their limit and emptied; transactions that are too large for
        the memory, and undone."""
        self.patch(connection_module, "WAL_SIZE_LIMIT", 1 << 20)
        self.patch(whereabouts, "WAL_SIZE_LIMIT", 1 << 20)
        first = self.ready()
        log = self.path.with_name("chorus.db-wal")
        sizes = set()
        for number in range(6):
            self.assertEqual(self.commit(self.large("large"), self.put(str(number))), [None, None])
            self.assertIsNone(self.writer.look())
            self.assertEqual(self.commit(self.put("small")), [None])
            sizes.add(log.stat().st_size)
            self.commit(self.large("undone"), lambda _: 1 / 0)
            self.commit(lambda c: (self.large("undone")(c), 1 / 0))
            self.assertIsNone(self.writer.look())
        self.assertIn(1 << 20, sizes)
        first.faults["COMMIT"] = trouble(sqlite3.SQLITE_FULL)
        self.assert_refused(self.commit(self.large("x")), StoreFull)
        first.faults.clear()
        self.assertEqual(log.stat().st_size, 0, "made room")
        self.assertEqual(self.commit(self.put("last")), [None])
        self.assertIsNone(self.writer.look())

    def test_others_may_read_and_copy(self) -> None:
        self.ready()
        self.commit(self.large("a"), self.put("b"))
        script = (
            "import shutil, sqlite3, sys\n"
            "for to in sys.argv[2:]:\n"
            "    source, copy = sqlite3.connect(sys.argv[1]), sqlite3.connect(to)\n"
            "    source.backup(copy)\n"
            "    source.execute('SELECT count(*) FROM meta').fetchone()\n"
            "    copy.close(), source.close()\n"
            "    shutil.copy2(sys.argv[1], to), shutil.copy2(sys.argv[1] + '-wal', to + '-wal')\n"
        )
        copies = [str(self.path.with_name(name)) for name in ("one", "two")]
        subprocess.run([sys.executable, "-c", script, str(self.path), *copies], check=True)
        self.assertIsNone(self.writer.look())
        self.assertEqual(self.commit(self.put("c")), [None])

    def test_a_hole_that_was_there_before_is_no_damage(self) -> None:
        """What a crash of the machine can leave behind the end of the log."""
        self.ready()
        self.commit(self.put("a"))
        log = self.path.with_name("chorus.db-wal")
        self.writer.close()
        log.write_bytes(b"")
        os.truncate(log, 1 << 20)
        self.writer = Writer(self.path, StoreCounters())
        self.ready()
        for key in "bcd":
            self.assertEqual(self.commit(self.put(key)), [None])
            self.assertIsNone(self.writer.look())

    def test_what_was_never_noted_is_not_missed(self) -> None:
        self.assertIsNone(Whereabouts(Path("/nowhere/at/all")).trouble())


class Room(PureTestCase):
    """A full disk of 40 MiB, from which little is freed."""

    def setUp(self) -> None:
        if os.geteuid() != 0:
            self.skipTest("needs root to mount a small tmpfs")
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(self.folder)]
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
        if mounted.returncode:
            self.skipTest(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", str(self.folder)], check=True)
        self.path = self.folder / "chorus.db"
        self.number = 0

    def opened(self) -> Writer:
        found = Writer(self.path, StoreCounters())
        found.open(False)
        found.migrate(False)
        self.addCleanup(found.close)
        return found

    def put(self, to: Writer) -> bool:
        self.number += 1
        number = self.number
        job: StoreJob[Any] = StoreJob(lambda c: meta.put(c, str(number), "x" * 4000), Deferred())
        outcome = to.commit([job])[0][1]
        if isinstance(outcome, Failure):
            self.assertIsInstance(outcome.value, StoreFull)
        return outcome is None

    def fill(self, to: Writer) -> None:
        while any(self.put(to) for _ in range(5)):
            pass

    def test_what_is_freed_can_be_written_to_also_after_a_restart(self) -> None:
        little = [self.folder / f"little{number}" for number in range(4)]
        for file in little:
            file.write_bytes(bytes(400_000))
        first = self.opened()
        (self.folder / "filler").write_bytes(bytes(20 << 20))
        self.fill(first)
        for file in little[:2]:
            file.unlink()
            self.assertGreater(sum(self.put(first) for _ in range(20)), 10)
            self.fill(first)
        # As a killed process leaves it: nothing is tidied up by a close.
        second = self.opened()
        for file in little[2:]:
            file.unlink()
            self.assertGreater(sum(self.put(second) for _ in range(20)), 10)
            self.fill(second)

    def test_no_ballast_where_it_would_be_felt(self) -> None:
        (self.folder / "filler").write_bytes(bytes((40 << 20) - ballast.SHARE * ballast.SIZE + 4096))
        kept = Ballast(self.path)
        kept.keep()
        self.assertFalse(kept.give())
        kept.keep(again=True)
        self.assertTrue(kept.give())
        self.assertEqual([each.name for each in self.folder.iterdir()], ["filler"])

    def test_no_half_of_it_is_left(self) -> None:
        (self.folder / "filler").write_bytes(bytes((40 << 20) - ballast.SIZE // 2))
        kept = Ballast(self.path)
        kept.keep(again=True)
        self.assertEqual([each.name for each in self.folder.iterdir()], ["filler"])
