from __future__ import annotations

import sqlite3
import stat
import threading
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from chorus.store import connection as store_connection
from chorus.store import database, meta
from chorus.store.connection import APPLICATION_ID, Migration, migrate, migrations, open_writer
from chorus.store.database import Database
from chorus.store.errors import StoreBusy, StoreClosed, StoreRefused, StoreUnavailable
from chorus.store.inline import InlineDatabase
from tests.support import PureTestCase


class DatabaseTests(TestCase):
    timeout = 120

    async def opened(self) -> Database:
        database = Database(Path(self.mktemp()), reactor)  # type: ignore[arg-type]
        await database.open()
        self.addCleanup(database.close)
        return database

    async def test_durable_when_acknowledged(self) -> None:
        store = await self.opened()
        await store.write(lambda connection: meta.put(connection, "a", "1"))
        other = sqlite3.connect(store.path)
        self.addCleanup(other.close)
        self.assertEqual(other.execute("SELECT value FROM meta").fetchall(), [("1",)])
        self.assertEqual(other.execute("PRAGMA journal_mode").fetchone(), ("wal",))
        self.assertEqual(await store.read(lambda connection: meta.get(connection, "a")), "1")
        self.assertEqual(await store.write(lambda c: c.execute("PRAGMA synchronous").fetchone()), (2,))
        self.assertEqual(await store.write(lambda c: c.execute("PRAGMA foreign_keys").fetchone()), (1,))
        self.assertEqual(stat.S_IMODE(store.path.stat().st_mode), 0o600)

    async def held(self, store: Database) -> tuple[threading.Event, Deferred[None]]:
        """Keep the writer busy until the event is set."""
        go = threading.Event()
        return go, store.write(lambda connection: (go.wait(60), None)[1])

    async def test_group_commit(self) -> None:
        store = await self.opened()
        go, first = await self.held(store)
        before = store.counters.commits
        rest = [store.write(lambda c, n=n: meta.put(c, str(n), "x")) for n in range(200)]  # type: ignore[misc]
        go.set()
        await gatherResults([first, *rest])
        self.assertLessEqual(store.counters.commits - before, 2)
        self.assertEqual(await store.read(lambda c: c.execute("SELECT count(*) FROM meta").fetchone()), (200,))

    async def test_one_failing_write_fails_alone(self) -> None:
        store = await self.opened()
        go, first = await self.held(store)

        def half(connection: sqlite3.Connection) -> None:
            meta.put(connection, "half", "x")
            raise KeyError("mine")

        def constraint(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO meta VALUES ('before', 'again')")

        good = store.write(lambda connection: meta.put(connection, "before", "x"))
        bad = self.assertFailure(store.write(half), KeyError)
        also_bad = self.assertFailure(store.write(constraint), sqlite3.IntegrityError)
        after = store.write(lambda connection: meta.put(connection, "after", "x"))
        go.set()
        await gatherResults([first, good, bad, also_bad, after])
        kept = await store.read(lambda c: c.execute("SELECT key FROM meta ORDER BY key").fetchall())
        self.assertEqual(kept, [("after",), ("before",)])

    async def test_a_write_that_commits_by_itself_is_refused(self) -> None:
        store = await self.opened()
        go, first = await self.held(store)
        bad = self.assertFailure(store.write(lambda connection: connection.commit()), AssertionError)
        good = store.write(lambda connection: meta.put(connection, "good", "x"))
        go.set()
        await gatherResults([first, bad, good])
        self.assertEqual(await store.read(lambda connection: meta.get(connection, "good")), "x")

    async def test_reads_are_snapshots_and_cannot_write(self) -> None:
        store = await self.opened()
        inside, go = threading.Event(), threading.Event()

        def slow(connection: sqlite3.Connection) -> tuple[str | None, str | None]:
            first = meta.get(connection, "a")
            inside.set()
            go.wait(60)
            return first, meta.get(connection, "a")

        reading = store.read(slow)
        await store.read(lambda connection: inside.wait(60))
        await store.write(lambda connection: meta.put(connection, "a", "1"))
        go.set()
        self.assertEqual(await reading, (None, None))
        await self.assertFailure(store.read(lambda c: meta.put(c, "a", "2")), StoreUnavailable)
        self.assertEqual(await store.read(lambda connection: meta.get(connection, "a")), "1")

    async def test_limit_waiting(self) -> None:
        self.patch(database, "MAX_WAITING_WRITES", 3)
        store = await self.opened()
        go, first = await self.held(store)
        while store.waiting_writes:
            await store.read(lambda connection: None)
        waiting = [store.write(lambda connection: None) for _ in range(3)]
        await self.assertFailure(store.write(lambda connection: None), StoreBusy)
        go.set()
        await gatherResults([first, *waiting])

    async def test_close_settles_what_waits(self) -> None:
        store = await self.opened()
        go, first = await self.held(store)
        waiting = store.write(lambda connection: meta.put(connection, "a", "1"))
        closing = store.close()
        await self.assertFailure(store.write(lambda connection: None), StoreClosed)
        await self.assertFailure(store.read(lambda connection: None), StoreClosed)
        go.set()
        await gatherResults([first, waiting, closing])
        with InlineDatabase(store.path)._connection or self.fail() as connection:
            self.assertEqual(meta.get(connection, "a"), "1")

    async def test_not_open(self) -> None:
        store = Database(Path(self.mktemp()), reactor)  # type: ignore[arg-type]
        await self.assertFailure(store.write(lambda connection: None), StoreClosed)
        await store.close()

    def test_a_foreign_file_is_refused(self) -> Deferred[None]:
        path = Path(self.mktemp())
        content = b"not a database at all" * 100
        path.write_bytes(content)
        store = Database(path, reactor)  # type: ignore[arg-type]

        async def check() -> None:
            await self.assertFailure(store.open(), StoreRefused)
            await self.assertFailure(store.write(lambda connection: None), StoreClosed)
            await store.close()

        def untouched(_: None) -> None:
            self.assertEqual(path.read_bytes(), content)

        return Deferred.fromCoroutine(check()).addCallback(untouched)

    def test_a_lost_file_is_refused_where_one_is_expected(self) -> Deferred[None]:
        missing, empty, blank = (Path(self.mktemp()) for _ in range(3))
        empty.touch()
        log = Path(f"{empty}-wal")
        log.write_bytes(b"kept")
        open_writer(blank).close()

        async def check() -> None:
            for path in (missing, empty, blank):
                store = Database(path, reactor, expected=True)  # type: ignore[arg-type]
                problem = await self.assertFailure(store.open(), StoreRefused)
                self.assertIn("restore the file", str(problem))
                await store.close()

        def untouched(_: None) -> None:
            self.assertFalse(missing.exists())
            self.assertEqual((empty.stat().st_size, log.read_bytes()), (0, b"kept"))

        return Deferred.fromCoroutine(check()).addCallback(untouched)

    async def test_an_expected_file_is_opened(self) -> None:
        first = await self.opened()
        await first.write(lambda connection: meta.put(connection, "a", "1"))
        await first.close()
        again = Database(first.path, reactor, expected=True)  # type: ignore[arg-type]
        await again.open()
        self.assertEqual(await again.read(lambda connection: meta.get(connection, "a")), "1")
        await again.close()

    async def test_missing_directory(self) -> None:
        store = Database(Path(self.mktemp()) / "x" / "chorus.db", reactor)  # type: ignore[arg-type]
        await self.assertFailure(store.open(), StoreUnavailable)
        await store.close()


class MigrationTests(PureTestCase):
    def fresh(self) -> tuple[sqlite3.Connection, Path]:
        path = Path(self.mktemp())
        connection = open_writer(path)
        self.addCleanup(connection.close)
        return connection, path

    def test_numbered_without_gaps(self) -> None:
        known = migrations()
        self.assertEqual([each.version for each in known], list(range(1, len(known) + 1)))

    def test_again_changes_nothing(self) -> None:
        connection, path = self.fresh()
        newest = migrate(connection, path)
        schema = connection.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
        self.assertEqual(migrate(connection, path), newest)
        self.assertEqual(connection.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall(), schema)
        self.assertEqual(connection.execute("PRAGMA application_id").fetchone(), (APPLICATION_ID,))

    def test_from_one_version_to_the_next(self) -> None:
        connection, path = self.fresh()
        first = Migration(1, "0001_a.sql", "CREATE TABLE a (x); INSERT INTO a\nVALUES (';');")
        second = Migration(2, "0002_b.sql", "ALTER TABLE a ADD y;\nUPDATE a SET y = 2;\n-- end\n")
        self.assertEqual(migrate(connection, path, [first]), 1)
        self.assertEqual(migrate(connection, path, [first, second]), 2)
        self.assertEqual(connection.execute("SELECT * FROM a").fetchall(), [(";", 2)])

    def test_a_failing_migration_leaves_nothing(self) -> None:
        connection, path = self.fresh()
        good = Migration(1, "0001_a.sql", "CREATE TABLE a (x);")
        bad = Migration(2, "0002_b.sql", "CREATE TABLE b (x);\nINSERT INTO nowhere VALUES (1);")
        with self.assertRaises(sqlite3.OperationalError):
            migrate(connection, path, [good, bad])
        self.assertEqual(connection.execute("SELECT name FROM sqlite_master").fetchall(), [("a",)])
        self.assertEqual(connection.execute("PRAGMA user_version").fetchone(), (1,))

    def test_a_newer_database_is_refused(self) -> None:
        connection, path = self.fresh()
        migrate(connection, path)
        connection.execute("PRAGMA user_version = 9999")
        with self.assertRaisesRegex(StoreRefused, f"{path} was written by a newer version .schema 9999"):
            migrate(connection, path)

    def test_another_programs_database_is_refused(self) -> None:
        for statement in ("CREATE TABLE x (y)", "PRAGMA application_id = 7"):
            connection, path = self.fresh()
            connection.execute(statement)
            with self.assertRaises(StoreRefused):
                migrate(connection, path)

    def test_half_a_statement(self) -> None:
        connection, path = self.fresh()
        for text in ("CREATE TABLE a (x", "CREATE TABLE a (x);\nCREATE", "INSERT INTO a VALUES (';"):
            with self.assertRaises(AssertionError):
                migrate(connection, path, [Migration(1, "0001_a.sql", text)])

    def test_gap_in_the_numbers(self) -> None:
        class Folder:
            def joinpath(self, name: str) -> Path:
                return folder

        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "0002_x.sql").write_text("")
        self.patch(store_connection.resources, "files", lambda package: Folder())
        with self.assertRaises(AssertionError):
            migrations()


class InlineTests(PureTestCase):
    def test_the_same_contract(self) -> None:
        store = InlineDatabase(Path(self.mktemp()))
        self.successResultOf(store.write(lambda connection: meta.put(connection, "a", "1")))

        def broken(connection: sqlite3.Connection) -> None:
            meta.put(connection, "a", "2")
            raise KeyError

        self.failureResultOf(store.write(broken), KeyError)
        self.assertEqual(self.successResultOf(store.read(lambda connection: meta.get(connection, "a"))), "1")
        store.close()
        self.failureResultOf(store.read(lambda connection: None), StoreClosed)
