"""The store against a killed process and a full disk: what was acknowledged is there, what was refused is not."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs
from twisted.trial.unittest import TestCase

from chorus.store import check, database, meta, rows, writer
from chorus.store.check import refuse_cut
from chorus.store.database import Database
from chorus.store.errors import StoreClosed, StoreDamaged, StoreFull, StoreLost, StoreRefused
from tests.support import ProcessTestCase, PureTestCase

SCRIPT = Path(__file__).with_name("writer_process.py")
ROOT = Path(__file__).parents[2]
PAGE = 4096


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments], stdout=subprocess.PIPE, text=True, env=environment
    )


def keys(path: Path) -> set[str]:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {row[0] for row in connection.execute("SELECT key FROM meta")}
    finally:
        connection.close()


class KilledTests(ProcessTestCase):
    def test_kill_loses_nothing_acknowledged(self) -> None:
        for lines in (1, 700, 2500):
            path = Path(self.mktemp())
            process = start(str(path), "kill")
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(lines)]
            process.send_signal(signal.SIGKILL)
            # What it had said before it died counts as well; a last line may be cut.
            said += [line for line in process.stdout if line.endswith("\n")]
            process.stdout.close()
            self.assertEqual(process.wait(), -signal.SIGKILL)
            acknowledged = {line.split()[1] for line in said if line.startswith("acknowledged ")}
            self.assertEqual(len(acknowledged), len(said), said[:3])
            self.assertGreaterEqual(len(acknowledged), lines)
            self.assertLessEqual(acknowledged, keys(path))


class DamagedTests(ProcessTestCase):
    def test_what_is_lost_to_others_is_said_at_once(self) -> None:
        """In the middle of a flood, also when it happens within a commit, and before the process is killed."""
        for name in ("chorus.db", "chorus.db-wal"):
            path = Path(self.mktemp()) / "chorus.db"
            path.parent.mkdir()
            process = start(str(path), "kill")
            assert process.stdout is not None
            for _ in range(700):
                self.assertIn("acknowledged", process.stdout.readline())
            os.truncate(path.with_name(name), 0)
            # Without an end where nothing is noticed: then the test's time is up.
            next(line for line in process.stdout if line.split()[-1] in ("store_lost", "store_damaged"))
            process.send_signal(signal.SIGKILL)
            rest = [line for line in process.stdout if line.endswith("\n")]
            process.stdout.close()
            process.wait()
            self.assertEqual([line for line in rest if not line.startswith("refused")], [], "it stays so")


class StarvedTests(ProcessTestCase):
    def test_a_limit_on_files(self) -> None:
        path = Path(self.mktemp())
        process = start(str(path), "starve", "400000")
        said = [line.split() for line in process.communicate(timeout=60)[0].splitlines()]
        acknowledged = {words[1] for words in said if words[0] == "acknowledged"}
        refused = {words[1]: words[2] for words in said if words[0] == "refused"}
        self.assertGreater(len(acknowledged), 20)
        self.assertEqual(set(refused.values()), {"store_unavailable"})
        self.assertEqual(
            [words for words in said if words[0] == "available"], [["available", "False"], ["available", "True"]]
        )
        self.assertIn("after", acknowledged)
        self.assertGreaterEqual(len(refused), 5)
        self.assertEqual(keys(path), acknowledged)


class FullDiskTests(TestCase):
    timeout = 240

    def setUp(self) -> None:
        if os.geteuid() != 0:
            self.skipTest("needs root to mount a small tmpfs")
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(self.folder)]
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
        if mounted.returncode:
            self.skipTest(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", str(self.folder)], check=True)

    def test_refused_while_full_and_well_again_after(self) -> Deferred[None]:
        filler = self.folder / "filler"
        filler.write_bytes(bytes(1 << 20))
        path = self.folder / "chorus.db"
        store = Database(path, reactor)  # type: ignore[arg-type]

        async def fill() -> None:
            await store.open()
            acknowledged = set()
            for number in range(10_000):
                try:
                    await store.write(lambda c, n=number: meta.put(c, str(n), "x" * 4000))  # type: ignore[misc]
                except StoreFull as problem:
                    self.assertEqual((problem.code, problem.http_status), ("store_unavailable", 507))
                    break
                acknowledged.add(str(number))
            self.assertGreater(len(acknowledged), 20)
            self.assertFalse(store.available)
            # Reading goes on.
            self.assertEqual(await store.read(lambda c: meta.get(c, "0")), "x" * 4000)
            filler.unlink()
            await store.write(lambda c: meta.put(c, "after", "x"))
            self.assertTrue(store.available)
            await store.close()
            self.assertEqual(keys(path), acknowledged | {"after"})

        return Deferred.fromCoroutine(fill())

    def test_a_big_write_fails_alone(self) -> Deferred[None]:
        store = Database(self.folder / "chorus.db", reactor)  # type: ignore[arg-type]

        async def check() -> None:
            await store.open()
            big = store.write(lambda c: meta.put(c, "big", "x" * (4 << 20)))
            small = [store.write(lambda c, n=n: meta.put(c, f"small{n}", "x")) for n in range(20)]  # type: ignore[misc]
            await self.assertFailure(big, StoreFull)
            for each in small:
                await each
            await store.close()
            self.assertEqual(keys(self.folder / "chorus.db"), {f"small{n}" for n in range(20)})

        return Deferred.fromCoroutine(check())


class DamageTests(TestCase):
    timeout = 240

    async def filled(self) -> Path:
        path = Path(self.mktemp())
        store = Database(path, reactor)  # type: ignore[arg-type]
        await store.open()
        for number in range(40):
            await store.write(lambda c, n=number: meta.put(c, str(n), "x" * 1000))  # type: ignore[misc]
        await store.close()
        return path

    async def refused(self, path: Path) -> str:
        store = Database(path, reactor, expected=True)  # type: ignore[arg-type]
        try:
            await store.open()
        except StoreRefused as problem:
            text = str(problem)
        else:
            text = ""
        await store.close()
        return text

    async def test_no_page_is_damaged_unnoticed(self) -> None:
        path = await self.filled()
        good = path.read_bytes()
        self.assertGreater(len(good), 20 * PAGE)
        for start in range(0, len(good), PAGE):
            for junk in (b"\xff", b"\0"):
                # The first bytes of the file say what it is; without them it is no database at all.
                at = start or 100
                path.write_bytes(good[:at] + junk * (start + PAGE - at) + good[start + PAGE :])
                text = await self.refused(path)
                if junk == b"\xff" or start == 0:
                    self.assertIn("restore the file from a backup", text, start)
                    self.assertNotIn("\n", text)
        for size in (len(good) - 1000, len(good) - PAGE, len(good) // 2, PAGE + 1, 100):
            path.write_bytes(good[:size])
            self.assertIn("restore the file from a backup", await self.refused(path), size)
        path.write_bytes(good)
        self.assertEqual(await self.refused(path), "")

    async def test_a_file_whose_log_is_left_may_end_anywhere(self) -> None:
        path = await self.filled()
        with path.open("ab") as file:
            file.write(b"x" * 1000)
        path.with_name(path.name + "-wal").write_bytes(b"x")
        refuse_cut(path)
        path.with_name(path.name + "-wal").write_bytes(b"")
        self.assertRaises(StoreRefused, refuse_cut, path)

    async def test_a_check_that_takes_long_goes_on_beside_the_node(self) -> None:
        path = await self.filled()
        go = threading.Event()
        self.patch(check, "trouble", lambda path: (go.wait(30), "page 7 is wrong")[1])
        self.patch(database, "CHECK_S", 0.01)
        store = Database(path, reactor)  # type: ignore[arg-type]
        await store.open()
        self.assertIsNone(store.damage)
        with capturedLogs() as said:
            go.set()
            while store.damage is None:
                await deferLater(reactor, 0.01)  # type: ignore[arg-type]
        self.assertEqual(store.damage, "page 7 is wrong")
        self.assertEqual([event.get("event") for event in said], ["store.damaged"])
        await store.close()

    async def test_damage_met_while_running(self) -> None:
        path = await self.filled()
        store = Database(path, reactor)  # type: ignore[arg-type]
        good = path.read_bytes()
        with closing(sqlite3.connect(path)) as connection:
            (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'meta'").fetchone()
        # The schema stays whole, so that it opens.
        path.write_bytes(good[: (root - 1) * PAGE] + b"\xff" * PAGE + good[root * PAGE :])
        self.patch(check, "trouble", lambda path: None)
        await store.open()
        with capturedLogs() as said:
            for operation in (store.read, store.write):
                with self.assertRaises(StoreDamaged) as caught:
                    await operation(lambda c: c.execute("SELECT sum(length(value)) FROM meta").fetchone())
                self.assertIn("backup", str(caught.exception))
                self.assertEqual((caught.exception.code, caught.exception.http_status), ("store_damaged", 503))
        self.assertEqual([event["event"] for event in said if "event" in event], ["store.damaged"])
        self.assertIn("malformed", store.damage or "")
        await store.close()


class LossTests(TestCase):
    timeout = 60

    async def opened(self) -> Database:
        store = Database(Path(self.mktemp()), reactor)  # type: ignore[arg-type]
        await store.open()
        self.addCleanup(store.close)
        return store

    async def test_a_write_to_a_file_that_is_gone_is_refused(self) -> None:
        store = await self.opened()
        await store.write(lambda c: meta.put(c, "a", "x"))
        store.path.unlink()
        with capturedLogs() as said:
            for _ in range(2):
                with self.assertRaises(StoreLost) as caught:
                    await store.write(lambda c: meta.put(c, "b", "x"))
        self.assertEqual((caught.exception.code, caught.exception.http_status), ("store_lost", 503))
        self.assertEqual([event.get("event") for event in said], ["store.lost"], "one line")
        self.assertIn("was removed while the node ran", store.damage or "")
        self.assertFalse(store.available)

    async def test_it_is_noticed_while_nothing_is_written(self) -> None:
        self.patch(database, "LOOK_S", 0.01)
        store = await self.opened()
        store.path.with_name("other").write_bytes(b"")
        store.path.with_name("other").rename(store.path)
        while store.damage is None:
            await deferLater(reactor, 0.01)  # type: ignore[arg-type]
        self.assertIn("was replaced while the node ran", store.damage)
        with self.assertRaises(StoreLost):
            await store.write(lambda c: meta.put(c, "b", "x"))

    async def test_it_is_noticed_that_others_wrote_while_nothing_is_written(self) -> None:
        self.patch(database, "LOOK_S", 0.01)
        store = await self.opened()
        await store.write(lambda c: meta.put(c, "a", "x"))
        os.truncate(store.path.with_name(store.path.name + "-wal"), 0)
        with capturedLogs() as said:
            while store.damage is None:
                await deferLater(reactor, 0.01)  # type: ignore[arg-type]
        self.assertIn("was changed by another program while the node ran", store.damage)
        self.assertEqual([event.get("event") for event in said], ["store.lost"])
        with self.assertRaises(StoreLost):
            await store.write(lambda c: meta.put(c, "b", "x"))

    async def test_a_failed_open_leaves_nothing_open(self) -> None:
        path, opened = Path(self.mktemp()), []
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA application_id = 5")
        connection.close()
        open_writer = writer.open_writer
        self.patch(writer, "open_writer", lambda path: opened.append(open_writer(path)) or opened[-1])
        store = Database(path, reactor)  # type: ignore[arg-type]
        with self.assertRaises(StoreRefused):
            await store.open()
        self.assertRaises(sqlite3.ProgrammingError, opened[0].execute, "SELECT 1")
        for operation in (store.read, store.write):
            with self.assertRaises(StoreClosed):
                await operation(lambda c: None)
        await store.close()


class RowTests(PureTestCase):
    def test_what_is_no_json(self) -> None:
        for text in (None, b"\xff", "", "{", 5, "[" * 100_000):
            self.assertRaises(StoreDamaged, rows.load, text)
