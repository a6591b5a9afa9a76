from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from twisted.internet.defer import Deferred, maybeDeferred

from chorus.errors import PeerError
from chorus.identity import Identity, PeerId
from chorus.protocols.blobs import (
    CHUNK,
    PROTOCOL,
    Answer,
    ChunksRequest,
    HaveRequest,
    Manifest,
    ManifestBuilder,
    ManifestRequest,
    decode_request,
)
from chorus.protocols.stream import ProtocolOptions
from chorus.protocols.streamio import StreamIO
from chorus.services.blobs import fetch as blob_fetch
from chorus.services.blobs import files as blob_files
from chorus.services.blobs import quarantine as blob_quarantine
from chorus.services.blobs import serving as blob_serving
from chorus.services.blobs import upload as blob_upload
from chorus.services.blobs.fetch import BlobTooLarge, BlobUnavailable, UnknownBlob
from chorus.services.blobs.files import BlobStoreFull, BlobStoreUnavailable
from chorus.services.blobs.service import BlobService
from chorus.services.blobs.serving import BlobLimits
from chorus.services.blobs.sources import SourceUnreadable
from chorus.services.blobs.upload import DigestMismatch
from chorus.store import blobs as table
from chorus.store.errors import StoreUnavailable
from chorus.store.inline import InlineDatabase
from tests.services.memory_host import MemoryConnection, MemoryHost, connect
from tests.support import PureTestCase

T = TypeVar("T")


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def manifest_of(data: bytes) -> Manifest:
    builder = ManifestBuilder()
    builder.update(data)
    return builder.finish()


def offload(work: Callable[[], T]) -> Deferred[T]:
    return maybeDeferred(work)


def peer_id(number: int) -> PeerId:
    return Identity.from_seed(bytes([number] * 32)).peer_id


class Node:
    """A blob service with its store, on one clock with others."""

    def __init__(self, case: BlobCase, number: int, limits: BlobLimits | None = None, root: Path | None = None) -> None:
        self.case = case
        self.root = root or Path(case.mktemp())
        self.root.mkdir(exist_ok=True)
        self.host = MemoryHost(peer_id(number), case.fake)
        self.store = InlineDatabase(self.root / "chorus.db")
        case.addCleanup(self.store.close)
        self.blobs = BlobService(
            directory=self.root / "blobs",
            store=self.store,
            host=self.host,
            clock=case.fake,
            offload=offload,
            wall=lambda: 1e9 + case.fake.seconds(),
            limits=limits,
        )
        case.successResultOf(self.blobs.startService())

    def stop(self) -> None:
        self.case.successResultOf(self.blobs.stopService())
        self.store.close()

    def restarted(self, number: int = 99, *, database: Path | None = None) -> Node:
        """With `database` in the place of the one it had."""
        self.stop()
        if database is not None:
            shutil.copyfile(database, self.root / "chorus.db")
        return Node(self.case, number, self.blobs.limits, self.root)

    def files(self) -> list[str]:
        """Every file under blobs/, without folders and what is in the quarantine."""
        found = [path for path in (self.root / "blobs").rglob("*") if path.is_file()]
        found = [path for path in found if path.parent.name != "quarantine"]
        return sorted(str(path.relative_to(self.root / "blobs")) for path in found if "." in path.name) + sorted(
            path.name for path in found if "." not in path.name
        )


class BlobCase(PureTestCase):
    def setUp(self) -> None:
        self.fake = self.clock()
        self.addCleanup(self.run_for, 0.2)

    def run_for(self, seconds: float, step: float = 0.05) -> None:
        """Let the network run: messages take a turn, not time."""
        end = self.fake.seconds() + seconds
        while self.fake.seconds() < end:
            for _ in range(400):
                if not any(call.getTime() <= self.fake.seconds() for call in self.fake.getDelayedCalls()):
                    break
                self.fake.advance(0)
            self.fake.advance(step)

    def until(self, deferred: Deferred[T], limit: float = 60.0) -> Deferred[T]:
        end = self.fake.seconds() + limit
        while not deferred.called and self.fake.seconds() < end:
            self.run_for(0.05)
        return deferred


class LocalTests(BlobCase):
    def setUp(self) -> None:
        super().setUp()
        self.node = Node(self, 1)
        self.blobs = self.node.blobs
        self.addCleanup(self.node.stop)

    def test_put_and_read(self) -> None:
        for size in (0, 1, CHUNK, 3 * CHUNK + 7):
            data = noise(size)
            ref = self.successResultOf(self.blobs.put_bytes(data))
            self.assertEqual((ref.sha256, ref.size), (sha(data), size))
            path = self.blobs.path_of(ref.sha256)
            assert path is not None
            self.assertEqual(path.read_bytes(), data)
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
            self.assertEqual(self.successResultOf(self.blobs.stat(ref.sha256)), {"sha256": ref.sha256, "size": size})
            file, found = self.successResultOf(self.blobs.open(ref.sha256))
            self.assertEqual((file.read(), found), (data, size))
            file.close()
            stored = self.successResultOf(self.node.store.read(lambda c, s=ref.sha256: table.manifest(c, s)))
            self.assertEqual(stored, manifest_of(data).encode())

    def test_synced_before_it_is_acknowledged(self) -> None:
        done: list[str] = []
        (self.node.root / "blobs" / sha(b"x")[:2]).mkdir()
        real_sync, real_replace = os.fsync, os.replace
        with (
            mock.patch("os.fsync", lambda fd: (done.append(os.readlink(f"/proc/self/fd/{fd}")), real_sync(fd))),
            mock.patch("os.replace", lambda a, b: (done.append("rename"), real_replace(a, b))),
        ):
            self.successResultOf(self.blobs.put_bytes(b"x"))
        self.assertIn("/tmp/", done[0])
        self.assertEqual(done[1], "rename")
        self.assertEqual(Path(done[2]).name, sha(b"x")[:2])

    def test_twice_is_once(self) -> None:
        for _ in range(2):
            self.successResultOf(self.blobs.put_bytes(b"again"))
        self.assertEqual((self.blobs.used, self.blobs.counters.stored), (5, 1))
        self.assertEqual(self.node.files(), [sha(b"again")])

    def test_put_file(self) -> None:
        source = Path(self.mktemp())
        source.write_bytes(noise(CHUNK + 1))
        ref = self.successResultOf(self.blobs.put_file(source))
        self.assertEqual(ref.sha256, sha(noise(CHUNK + 1)))
        self.assertTrue(source.exists())

    def test_put_file_takes_regular_files_only(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "link").symlink_to("/etc/passwd")
        os.mkfifo(folder / "pipe")
        for name in ("link", "pipe", "missing", "."):
            self.failureResultOf(self.blobs.put_file(folder / name), SourceUnreadable)
        self.assertEqual(self.node.files(), [])

    def test_upload(self) -> None:
        data = noise(2 * CHUNK + 9)
        writer = self.blobs.writer(sha(data))
        for start in range(0, len(data), 10_000):
            writer.write(data[start : start + 10_000])
        document = self.successResultOf(writer.finish())
        self.assertEqual(document, {"sha256": sha(data), "size": len(data)})
        self.assertEqual(self.blobs._reserved, 0)

    def test_empty_upload(self) -> None:
        self.assertEqual(self.successResultOf(self.blobs.writer(None).finish())["sha256"], sha(b""))

    def test_upload_of_something_else(self) -> None:
        writer = self.blobs.writer(sha(b"announced"))
        writer.write(b"sent")
        self.failureResultOf(writer.finish(), DigestMismatch)
        self.assertEqual((self.node.files(), self.blobs.used, self.blobs._reserved), ([], 0, 0))

    def test_aborted_upload_leaves_nothing(self) -> None:
        writer = self.blobs.writer(None)
        writer.write(b"half")
        writer.abort()
        writer.abort()
        self.assertEqual((self.node.files(), self.blobs._reserved), ([], 0))
        with self.assertRaises(ValueError):
            writer.write(b"more")

    def test_unknown(self) -> None:
        for name in ("ab" * 32, "../../../etc/passwd", ""):
            self.failureResultOf(self.blobs.open(name), UnknownBlob)
            self.assertIsNone(self.successResultOf(self.blobs.stat(name)))
            self.assertIsNone(self.blobs.path_of(name))
            self.assertFalse(self.successResultOf(self.blobs.remove(name)))

    def test_remove(self) -> None:
        self.successResultOf(self.blobs.put_bytes(b"x"))
        file, _ = self.successResultOf(self.blobs.open(sha(b"x")))
        self.assertTrue(self.successResultOf(self.blobs.remove(sha(b"x"))))
        self.assertEqual(file.read(), b"x")
        file.close()
        self.assertEqual((self.node.files(), self.blobs.used), ([], 0))
        self.failureResultOf(self.blobs.open(sha(b"x")), UnknownBlob)
        self.successResultOf(self.blobs.put_bytes(b"x"))
        self.assertEqual(self.blobs.used, 1)

    def test_a_file_that_vanished(self) -> None:
        self.successResultOf(self.blobs.put_bytes(b"x"))
        path = self.blobs.path_of(sha(b"x"))
        assert path is not None
        path.unlink()
        self.failureResultOf(self.blobs.open(sha(b"x")), UnknownBlob)
        self.assertEqual(self.blobs.used, 0)

    def test_a_file_of_another_size_is_lost(self) -> None:
        self.successResultOf(self.blobs.put_bytes(b"whole"))
        path = self.blobs.path_of(sha(b"whole"))
        assert path is not None
        path.write_bytes(b"cut")
        self.failureResultOf(self.blobs.open(sha(b"whole")), UnknownBlob)
        self.assertEqual((self.blobs.used, self.node.files()), (0, []))
        self.successResultOf(self.blobs.put_bytes(b"whole"))
        file, size = self.successResultOf(self.blobs.open(sha(b"whole")))
        self.assertEqual((file.read(), size), (b"whole", 5))
        file.close()

    def test_fresh_bytes_replace_a_damaged_file(self) -> None:
        self.successResultOf(self.blobs.put_bytes(b"whole"))
        path = self.blobs.path_of(sha(b"whole"))
        assert path is not None
        for damaged in (b"", b"wrong", b"whole and more", None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            self.successResultOf(self.blobs.put_bytes(b"whole"))
            self.assertEqual(path.read_bytes(), b"whole", damaged)
        self.assertEqual((self.blobs.used, self.node.files()), (5, [sha(b"whole")]))

    def test_restart_keeps_what_was_acknowledged_and_nothing_else(self) -> None:
        self.successResultOf(self.blobs.put_bytes(b"kept"))
        self.successResultOf(self.blobs.put_bytes(b"lost"))
        self.successResultOf(self.blobs.put_bytes(b"cut short"))
        folder = self.node.root / "blobs"
        (folder / "tmp" / "left").write_bytes(b"half an upload")
        orphan = sha(b"no row")
        (folder / orphan[:2]).mkdir(exist_ok=True)
        (folder / orphan[:2] / orphan).write_bytes(b"no row")
        (folder / sha(b"lost")[:2] / sha(b"lost")).unlink()
        (folder / sha(b"cut short")[:2] / sha(b"cut short")).write_bytes(b"cut")
        again = self.node.restarted()
        self.assertEqual(again.files(), [sha(b"kept")])
        self.assertEqual(again.blobs.used, 4)
        self.failureResultOf(again.blobs.open(sha(b"lost")), UnknownBlob)
        again.stop()

    def copy(self, database: Path) -> Path:
        path = Path(self.mktemp())
        connection = sqlite3.connect(database)
        connection.execute("VACUUM INTO ?", (str(path),))
        connection.close()
        return path

    def quarantined(self) -> list[str]:
        return sorted(path.name for path in (self.node.root / "blobs" / "quarantine").glob("*"))

    def test_a_file_without_a_row_is_put_aside_for_a_time(self) -> None:
        orphan = sha(b"no row")
        path = self.node.root / "blobs" / orphan[:2] / orphan
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"no row")
        again = self.node.restarted()
        self.assertEqual((again.files(), again.blobs.used, self.quarantined()), ([], 0, [orphan]))
        self.failureResultOf(again.blobs.open(orphan), UnknownBlob)
        self.fake.advance(blob_quarantine.QUARANTINE_S - 1)
        again = again.restarted()
        self.assertEqual(self.quarantined(), [orphan])
        self.fake.advance(2)
        again = again.restarted()
        self.assertEqual(self.quarantined(), [])
        again.stop()

    def test_an_older_database_costs_no_newer_blob(self) -> None:
        """Restored, found to be too old, and replaced by the newer one again."""
        self.successResultOf(self.blobs.put_bytes(b"old"))
        database = self.node.root / "chorus.db"
        old = self.copy(database)
        self.successResultOf(self.blobs.put_bytes(b"newer"))
        new = self.copy(database)
        again = self.node.restarted(database=old)
        self.assertEqual((again.files(), self.quarantined()), ([sha(b"old")], [sha(b"newer")]))
        again = again.restarted(database=new)
        self.assertEqual((again.files(), self.quarantined()), (sorted([sha(b"old"), sha(b"newer")]), []))
        self.assertEqual(again.blobs.used, 8)
        file, _ = self.successResultOf(again.blobs.open(sha(b"newer")))
        self.assertEqual(file.read(), b"newer")
        file.close()
        again.stop()

    def test_or_it_is_taken_in_again_by_hand(self) -> None:
        self.successResultOf(self.blobs.put_bytes(b"old"))
        old = self.copy(self.node.root / "chorus.db")
        self.successResultOf(self.blobs.put_bytes(b"newer"))
        again = self.node.restarted(database=old)
        path = again.root / "blobs" / "quarantine" / sha(b"newer")
        self.successResultOf(again.blobs.put_file(path))
        again = again.restarted()
        self.assertEqual(again.files(), sorted([sha(b"old"), sha(b"newer")]))
        again.stop()

    def test_what_was_damaged_in_place_comes_back_whole(self) -> None:
        self.successResultOf(self.blobs.put_bytes(b"whole"))
        path = self.blobs.path_of(sha(b"whole"))
        assert path is not None
        aside = self.node.root / "blobs" / "quarantine"
        aside.mkdir()
        (aside / sha(b"whole")).write_bytes(b"whole")
        (aside / "notes.txt").write_bytes(b"whose?")
        path.write_bytes(b"cut")
        again = self.node.restarted()
        self.assertEqual((path.read_bytes(), again.files()), (b"whole", [sha(b"whole")]))
        self.assertEqual(self.quarantined(), ["notes.txt"])
        again.stop()

    def test_uploads_press_back(self) -> None:
        waiting: list[tuple[Callable[[], Any], Deferred[Any]]] = []

        def slow(work: Callable[[], Any]) -> Deferred[Any]:
            waiting.append((work, Deferred()))
            return waiting[-1][1]

        self.blobs._offload = slow  # type: ignore[assignment]
        heard: list[bool] = []
        writer = self.blobs.writer(None)
        writer.on_pressure = heard.append
        piece = noise(1 << 20)
        sent = 0
        while not heard:
            writer.write(piece)
            sent += len(piece)
        self.assertEqual(sent, blob_upload.HIGH_WATER + len(piece))
        while waiting:
            work, done = waiting.pop(0)
            done.callback(work())
        self.assertEqual(heard, [True, False])
        writer.abort()
        while waiting:
            work, done = waiting.pop(0)
            done.callback(work())
        self.assertEqual(self.node.files(), [])

    def test_a_sender_that_does_not_pause_is_held_at_the_disks_speed(self) -> None:
        self.patch(blob_upload, "MAX_BUFFERED", 1000)
        never: Deferred[Any] = Deferred()
        real = self.blobs._offload
        self.blobs._offload = lambda work: never  # type: ignore[assignment]
        writer = self.blobs.writer(None)
        for _ in range(100):
            writer.write(b"x" * 100)
            self.assertLessEqual(writer._buffered, 1000)
        writer._offload = self.blobs._offload = real
        never.callback(0)
        self.assertEqual(self.successResultOf(writer.finish())["size"], 10_000)


class QuotaTests(BlobCase):
    def test_limit_blob(self) -> None:
        node = Node(self, 1, BlobLimits(max_blob=100))
        self.addCleanup(node.stop)
        self.successResultOf(node.blobs.put_bytes(b"x" * 100))
        self.failureResultOf(node.blobs.put_bytes(b"x" * 101), BlobTooLarge)
        writer = node.blobs.writer(None)
        writer.write(b"y" * 100)
        with self.assertRaises(BlobTooLarge) as caught:
            writer.write(b"y")
        self.assertEqual(caught.exception.http_status, 413)
        with self.assertRaises(BlobTooLarge):
            writer.write(b"y")
        writer.abort()
        self.assertEqual(node.files(), [sha(b"x" * 100)])
        self.assertEqual(node.blobs._reserved, 0)

    def test_limit_store(self) -> None:
        node = Node(self, 1, BlobLimits(max_store=100))
        self.addCleanup(node.stop)
        self.successResultOf(node.blobs.put_bytes(b"x" * 60))
        self.failureResultOf(node.blobs.put_bytes(b"y" * 41), BlobStoreFull)
        first, second = node.blobs.writer(None), node.blobs.writer(None)
        first.write(b"1" * 30)
        with self.assertRaises(BlobStoreFull) as caught:
            second.write(b"2" * 11)
        self.assertEqual(caught.exception.http_status, 507)
        first.abort()
        self.successResultOf(node.blobs.remove(sha(b"x" * 60)))
        self.successResultOf(node.blobs.put_bytes(b"z" * 100))
        self.assertEqual(node.files(), [sha(b"z" * 100)])

    def broken_disk(self, node: Node, name: str, number: int, error: type[Exception]) -> None:
        def fail(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        with mock.patch.object(blob_files, "write_all", fail) if name == "write" else mock.patch(f"os.{name}", fail):
            self.failureResultOf(node.blobs.put_bytes(b"data"), error)
            writer = node.blobs.writer(None)
            try:
                writer.write(b"data")
            except error:
                writer.abort()
            else:
                self.failureResultOf(writer.finish(), error)
        self.assertEqual((node.files(), node.blobs.used, node.blobs._reserved), ([], 0, 0))

    def test_disk_full_leaves_nothing_and_recovers(self) -> None:
        node = Node(self, 1)
        self.addCleanup(node.stop)
        for name in ("write", "fsync", "replace"):
            self.broken_disk(node, name, errno.ENOSPC, BlobStoreFull)
            self.broken_disk(node, name, errno.EIO, BlobStoreUnavailable)
        self.successResultOf(node.blobs.put_bytes(b"data"))

    def test_store_unavailable_leaves_nothing(self) -> None:
        node = Node(self, 1)
        self.addCleanup(node.stop)
        with mock.patch.object(table, "insert", side_effect=StoreUnavailable("no")):
            self.failureResultOf(node.blobs.put_bytes(b"data"), StoreUnavailable)
        self.assertEqual((node.files(), node.blobs.used), ([], 0))

    def test_full_disk_of_its_own(self) -> None:
        # A real file system that is full, where this process may mount one.
        if os.geteuid() != 0:
            self.skipTest("needs root to mount a small tmpfs")
        import subprocess

        folder = Path(self.mktemp())
        folder.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, check=False
        )
        if mounted.returncode:
            self.skipTest(f"a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", str(folder)], check=True)
        node = Node(self, 1, root=folder)
        self.addCleanup(node.stop)
        self.failureResultOf(node.blobs.put_bytes(noise(4 << 20)), BlobStoreFull)
        self.assertEqual(node.files(), [])
        self.successResultOf(node.blobs.put_bytes(noise(1 << 19)))


class Scripted:
    """A holder that says what a test wants."""

    def __init__(self, case: BlobCase, number: int, manifest: bytes, chunk: Callable[[int], bytes]) -> None:
        self.host = MemoryHost(peer_id(number), case.fake)
        self.asked: list[object] = []
        self.manifest = manifest
        self.chunk = chunk
        self.head: Callable[[int], Answer] = lambda length: Answer("ok", length)
        self._clock = case.fake
        self.host.register(PROTOCOL, self._opened, ProtocolOptions())

    def _opened(self, stream: Any) -> None:
        io = StreamIO(stream, self._clock, timeout=1e6)
        Deferred.fromCoroutine(self._talk(io)).addErrback(lambda reason: None)

    async def _talk(self, io: StreamIO) -> None:
        while True:
            request = decode_request(await io.read_delimited(512))
            self.asked.append(request)
            if isinstance(request, ManifestRequest):
                body = self.manifest
            else:
                body = b"".join(self.chunk(index) for index in range(request.first, request.first + request.count))
            answer = self.head(len(body))
            await io.write_delimited(answer.encode() if isinstance(answer, Answer) else answer)
            if answer.status == "ok":
                await io.write(body)


class FetchTests(BlobCase):
    def setUp(self) -> None:
        super().setUp()
        self.here = Node(self, 1)
        self.addCleanup(self.here.stop)
        self.data = noise(9 * CHUNK + 100)
        self.blob = sha(self.data)

    def holder(self, number: int = 2, data: bytes | None = None) -> Node:
        node = Node(self, number)
        self.addCleanup(node.stop)
        if data != b"":
            self.successResultOf(node.blobs.put_bytes(self.data if data is None else data))
        connect(self.here.host, node.host)
        return node

    def scripted(
        self, number: int, manifest: bytes | None = None, chunk: Callable[[int], bytes] | None = None
    ) -> Scripted:
        holder = Scripted(
            self,
            number,
            manifest_of(self.data).encode() if manifest is None else manifest,
            chunk or (lambda index: self.data[index * CHUNK :][:CHUNK]),
        )
        connect(self.here.host, holder.host)
        return holder

    def fetch(self, *holders: Node | Scripted, limit: int = 2**40) -> Deferred[Path]:
        return self.until(self.here.blobs.fetch(self.blob, limit, [each.host.peer_id for each in holders]))

    def assert_here(self, path: Path) -> None:
        self.assertEqual(path.read_bytes(), self.data)
        self.assertEqual(self.here.files(), [self.blob])
        self.assertEqual(self.here.blobs._reserved, 0)

    def test_from_one_holder(self) -> None:
        holder = self.holder()
        self.assert_here(self.successResultOf(self.fetch(holder)))
        self.assertEqual(holder.blobs.counters.served_bytes, len(self.data))
        self.assertEqual(self.here.blobs.counters.fetched, 1)
        # And now it is here: nobody is asked.
        self.successResultOf(self.here.blobs.fetch(self.blob, 2**40, []))

    def test_sizes_at_the_edges(self) -> None:
        for size in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1):
            self.data = noise(size, size)
            self.blob = sha(self.data)
            holder = self.holder(10 + size % 7)
            self.assertEqual(self.successResultOf(self.fetch(holder)).read_bytes(), self.data)

    def test_from_several_at_once(self) -> None:
        holders = [self.scripted(number) for number in (2, 3, 4)]
        self.assert_here(self.successResultOf(self.fetch(*holders)))
        served = [sum(isinstance(each, ChunksRequest) for each in holder.asked) for holder in holders]
        self.assertGreaterEqual(sum(count > 0 for count in served), 2)

    def test_the_one_that_has_it_among_others(self) -> None:
        empty, gone, holder = self.holder(2, b""), self.scripted(3), self.holder(4)
        gone.host.unregister(PROTOCOL)
        self.assert_here(self.successResultOf(self.fetch(empty, gone, holder)))

    def test_nobody_has_it(self) -> None:
        self.failureResultOf(self.fetch(self.holder(2, b""), self.holder(3, b"")), UnknownBlob)
        self.failureResultOf(self.fetch(), UnknownBlob)

    def test_not_connected(self) -> None:
        holder = self.holder()
        connection = self.here.host.connection(holder.host.peer_id)
        assert isinstance(connection, MemoryConnection)
        connection.close()
        self.failureResultOf(self.fetch(holder), BlobUnavailable)

    def test_lying_chunks_are_refused_and_counted(self) -> None:
        liar = self.scripted(2, chunk=lambda index: bytes(manifest_of(self.data).length(index)))
        reason = self.failureResultOf(self.fetch(liar), BlobUnavailable)
        self.assertIn("chunk 0 is not what its manifest says", str(reason.value))
        self.assertEqual(self.here.blobs.counters.lies, 1)
        self.assertEqual(sum(isinstance(each, ChunksRequest) for each in liar.asked), 1)
        self.assert_here(self.successResultOf(self.fetch(liar, self.holder(3))))

    def test_lying_length(self) -> None:
        liar = self.scripted(2, chunk=lambda index: b"short")
        self.failureResultOf(self.fetch(liar), BlobUnavailable)
        self.assertEqual(self.here.blobs.counters.lies, 1)

    def test_a_lying_manifest_costs_its_holder_alone(self) -> None:
        other = noise(len(self.data), 2)
        forged = Manifest(self.blob, len(other), manifest_of(other).chunks).encode()
        liars = [self.scripted(number, forged, lambda index: other[index * CHUNK :][:CHUNK]) for number in (2, 3)]
        honest = self.holder(4)
        self.assert_here(self.successResultOf(self.fetch(*liars, honest)))
        self.assertEqual(self.here.blobs.counters.lies, 2)
        self.assertEqual(honest.blobs.counters.refused_peers, 0)

    def test_limit_of_the_caller(self) -> None:
        holder = self.holder()
        self.failureResultOf(self.fetch(holder, limit=len(self.data) - 1), BlobTooLarge)
        self.assertEqual(holder.blobs.counters.served_bytes, 0)
        self.successResultOf(self.fetch(holder, limit=len(self.data)))
        self.failureResultOf(self.fetch(holder, limit=5), BlobTooLarge)

    def test_bomb_of_a_manifest(self) -> None:
        bomb = self.scripted(2)
        bomb.head = lambda length: Answer("ok", 2**50)
        self.failureResultOf(self.fetch(bomb), BlobTooLarge)

    def test_quota_here(self) -> None:
        small = Node(self, 7, BlobLimits(max_store=len(self.data) - 1))
        self.addCleanup(small.stop)
        holder = self.holder()
        connect(small.host, holder.host)
        self.failureResultOf(self.until(small.blobs.fetch(self.blob, 2**40, [holder.host.peer_id])), BlobStoreFull)
        self.assertEqual((small.files(), small.blobs._reserved), ([], 0))

    def test_disk_full_here_blames_nobody(self) -> None:
        holder = self.holder()
        with mock.patch("os.pwrite", side_effect=OSError(errno.ENOSPC, "full")):
            self.failureResultOf(self.fetch(holder), BlobStoreFull)
        self.assertEqual(self.here.blobs.counters.lies, 0)
        self.assert_here(self.successResultOf(self.fetch(holder)))

    def interrupt(self, holder: Scripted, after: int) -> None:
        """Break the connection after some chunks, for good."""

        def chunk(index: int) -> bytes:
            if index >= after:
                connection = self.here.host.connection(holder.host.peer_id)
                if isinstance(connection, MemoryConnection):
                    self.fake.callLater(0.01, connection.close)
                raise PeerError("cut")
            return self.data[index * CHUNK :][:CHUNK]

        holder.chunk = chunk

    def test_resumed_on_a_new_connection(self) -> None:
        holder = self.scripted(2)
        self.interrupt(holder, 4)
        fetching = self.here.blobs.fetch(self.blob, 2**40, [holder.host.peer_id])
        self.run_for(0.5)
        self.assertNoResult(fetching)
        holder.chunk = lambda index: self.data[index * CHUNK :][:CHUNK]
        holder.asked.clear()
        connect(self.here.host, holder.host)
        self.assert_here(self.successResultOf(self.until(fetching)))
        self.assertEqual(min(each.first for each in holder.asked if isinstance(each, ChunksRequest)), 4)

    def test_resumed_after_a_restart(self) -> None:
        holder = self.scripted(2)
        self.interrupt(holder, 4)
        self.failureResultOf(self.fetch(holder), BlobUnavailable)
        here = self.here.restarted()
        self.addCleanup(here.stop)
        again = self.scripted(3)
        connect(here.host, again.host)
        path = self.successResultOf(self.until(here.blobs.fetch(self.blob, 2**40, [again.host.peer_id])))
        self.assertEqual(path.read_bytes(), self.data)
        asked = [each.first for each in again.asked if isinstance(each, ChunksRequest)]
        self.assertEqual(min(asked), 4)
        self.assertEqual(here.blobs.counters.resumed_bytes, 4 * CHUNK)

    def test_what_was_damaged_meanwhile_is_fetched_again(self) -> None:
        holder = self.scripted(2)
        self.interrupt(holder, 4)
        self.failureResultOf(self.fetch(holder), BlobUnavailable)
        here = self.here.restarted()
        self.addCleanup(here.stop)
        (partial,) = [path for path in (here.root / "blobs" / "partial").iterdir() if path.suffix != ".json"]
        with partial.open("r+b") as file:
            file.seek(CHUNK + 5)
            file.write(b"damage")
        again = self.scripted(3)
        connect(here.host, again.host)
        path = self.successResultOf(self.until(here.blobs.fetch(self.blob, 2**40, [again.host.peer_id])))
        self.assertEqual(path.read_bytes(), self.data)

    def test_interrupted_fetches_are_bounded(self) -> None:
        self.patch(blob_files, "MAX_PARTIALS", 2)
        for seed in range(4):
            self.data = noise(5 * CHUNK, 100 + seed)
            self.blob = sha(self.data)
            holder = self.scripted(10 + seed)
            self.interrupt(holder, 4)
            self.failureResultOf(self.fetch(holder), BlobUnavailable)
        self.assertEqual(len(list((self.here.root / "blobs" / "partial").iterdir())), 4)

    def test_old_interrupted_fetches_go_at_the_start(self) -> None:
        holder = self.scripted(2)
        self.interrupt(holder, 4)
        self.failureResultOf(self.fetch(holder), BlobUnavailable)
        for path in (self.here.root / "blobs" / "partial").iterdir():
            os.utime(path, (1e9 - blob_files.PARTIAL_AGE_S - 9,) * 2)
        here = self.here.restarted()
        self.assertEqual(here.files(), [])
        here.stop()

    def test_silent_holder_does_not_hold_up_the_others(self) -> None:
        silent = self.scripted(2)
        silent.head = lambda length: (_ for _ in ()).throw(PeerError("silent"))  # type: ignore[assignment]
        fetching = self.fetch(silent, self.holder(3))
        self.assert_here(self.successResultOf(fetching))
        self.assertLess(self.fake.seconds(), blob_fetch.MANIFEST_TIMEOUT_S + 1)

    def test_stalled_in_the_middle(self) -> None:
        stalled = self.scripted(2)

        def chunk(index: int) -> bytes:
            if index > 1:
                raise PeerError("says nothing more")
            return self.data[index * CHUNK :][:CHUNK]

        stalled.chunk = chunk
        self.assert_here(self.successResultOf(self.until(self.fetch(stalled, self.holder(3)), 600)))

    def test_busy_holder_is_asked_again(self) -> None:
        busy = self.scripted(2)
        left = [3]

        def head(length: int) -> Answer:
            if busy.asked and isinstance(busy.asked[-1], ChunksRequest) and left[0]:
                left[0] -= 1
                return Answer("busy")
            return Answer("ok", length)

        busy.head = head
        self.assert_here(self.successResultOf(self.fetch(busy)))
        self.assertGreaterEqual(self.fake.seconds(), 3 * blob_fetch.BUSY_S)

    def test_for_ever_busy(self) -> None:
        busy = self.scripted(2)
        busy.head = lambda length: Answer(*(("busy",) if isinstance(busy.asked[-1], ChunksRequest) else ("ok", length)))  # type: ignore[arg-type]
        self.failureResultOf(self.until(self.fetch(busy), 200), BlobUnavailable)

    def test_callers_share_one_transfer(self) -> None:
        holder = self.holder()
        peers = [holder.host.peer_id]
        both = [self.here.blobs.fetch(self.blob, 2**40, peers) for _ in range(2)]
        for fetching in both:
            self.successResultOf(self.until(fetching))
        self.assertEqual(holder.blobs.counters.served_bytes, len(self.data))

    def test_one_caller_gives_up(self) -> None:
        holder = self.holder()
        peers = [holder.host.peer_id]
        first, second = (self.here.blobs.fetch(self.blob, 2**40, peers) for _ in range(2))
        first.cancel()
        self.failureResultOf(first)
        self.assert_here(self.successResultOf(self.until(second)))

    def test_all_callers_give_up(self) -> None:
        holder = self.scripted(2)
        self.interrupt(holder, 3)
        fetching = self.here.blobs.fetch(self.blob, 2**40, [holder.host.peer_id])
        self.fake.advance(0)
        self.assertNoResult(fetching)
        fetching.cancel()
        self.failureResultOf(fetching)
        self.run_for(0.5)
        self.assertEqual((self.here.blobs._transfers.running, self.here.blobs._reserved), ({}, 0))
        self.assert_here(self.successResultOf(self.fetch(self.holder(3))))

    def test_another_caller_with_other_holders(self) -> None:
        empty, holder = self.scripted(2), self.holder(3)
        empty.head = lambda length: Answer("unknown")
        first = self.here.blobs.fetch(self.blob, 2**40, [empty.host.peer_id])
        second = self.here.blobs.fetch(self.blob, 2**40, [holder.host.peer_id])
        self.assert_here(self.successResultOf(self.until(second)))
        self.failureResultOf(self.until(first), UnknownBlob)

    def test_open_fetches_from_connected_members(self) -> None:
        holder = self.holder()
        file, size = self.successResultOf(self.until(self.here.blobs.open(self.blob)))
        self.assertEqual((file.read(), size), (self.data, len(self.data)))
        file.close()
        del holder

    def test_open_asks_whom_it_remembers_first(self) -> None:
        self.patch(blob_fetch, "MAX_ASKED", 1)
        for number in range(20, 24):
            self.holder(number, b"")
        holder = self.holder(25)
        self.here.blobs.remember_holder(self.blob, holder.host.peer_id)
        file, _ = self.successResultOf(self.until(self.here.blobs.open(self.blob)))
        file.close()

    def test_remembered_holders_are_bounded(self) -> None:
        self.here.blobs._remembered.most = 3
        for number in range(9):
            self.here.blobs.remember_holder(f"{number:064x}", peer_id(2))
        self.assertEqual(len(self.here.blobs._remembered), 3)

    def test_stopped_in_the_middle(self) -> None:
        holder = self.scripted(2)
        holder.chunk = lambda index: (_ for _ in ()).throw(PeerError("silent"))
        fetching = self.here.blobs.fetch(self.blob, 2**40, [holder.host.peer_id])
        self.run_for(0.3)
        self.successResultOf(self.here.blobs.stopService())
        self.failureResultOf(fetching)


class ServingTests(BlobCase):
    def setUp(self) -> None:
        super().setUp()
        self.shut_out: set[PeerId] = set()
        limits = BlobLimits(max_serving=3, max_serving_per_peer=2, shut_out=lambda peer: peer in self.shut_out)
        self.node = Node(self, 1, limits)
        self.addCleanup(self.node.stop)
        self.data = noise(20 * CHUNK)
        self.blob = self.successResultOf(self.node.blobs.put_bytes(self.data)).sha256

    def client(self, number: int) -> MemoryHost:
        host = MemoryHost(peer_id(number), self.fake)
        connect(host, self.node.host)
        return host

    def open(self, host: MemoryHost) -> StreamIO:
        return StreamIO(self.successResultOf(host.open_stream(self.node.host.peer_id, [PROTOCOL])), self.fake)

    def ask(self, io: StreamIO, request: bytes) -> Answer:
        async def talk() -> Answer:
            await io.write_delimited(request)
            return Answer.decode(await io.read_delimited(256))

        return self.successResultOf(self.until(Deferred.fromCoroutine(talk())))

    def test_garbage_ends_the_stream_alone(self) -> None:
        host = self.client(2)
        good = self.open(host)
        for garbage in (b"\x00", b"\x02{}", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x05hello", b"\x80\x00"):
            io = self.open(host)
            self.run_for(0.1)
            io.stream.write(garbage)
            self.run_for(0.1)
            self.assertTrue(io.stream.closed, garbage)
        self.assertEqual(self.node.blobs.counters.refused_peers, 5)
        self.assertEqual(self.ask(good, ManifestRequest(self.blob).encode()).status, "ok")
        good.reset()

    def test_out_of_bounds(self) -> None:
        io = self.open(self.client(2))
        self.assertEqual(self.ask(io, ChunksRequest(self.blob, 20, 1).encode()).status, "bad")
        self.assertEqual(self.ask(io, ChunksRequest(self.blob, 19, 2).encode()).status, "bad")
        self.assertEqual(self.ask(io, ChunksRequest("ab" * 32, 0, 1).encode()).status, "unknown")
        self.assertEqual(self.ask(io, ManifestRequest("ab" * 32).encode()).status, "unknown")
        io.reset()

    def test_a_member_that_lost_its_roles_gets_sealed_blobs_alone(self) -> None:
        host = self.client(2)
        io = self.open(host)
        self.shut_out.add(host.peer_id)
        requests = (ManifestRequest(self.blob), ChunksRequest(self.blob, 0, 1), HaveRequest(self.blob))
        for request in requests:
            self.assertEqual(self.ask(io, request.encode()).status, "unknown")
        self.successResultOf(self.until(Deferred.fromCoroutine(self.node.blobs.pins.mark_sealed(self.blob))))
        self.assertEqual(self.ask(io, ManifestRequest(self.blob).encode()).status, "ok")
        io.reset()

    def test_limits_of_serving(self) -> None:
        greedy = self.client(2)
        for _ in range(2):
            io = self.open(greedy)
            io.stream.stalled = True
            io.stream.write(_delimited(ChunksRequest(self.blob, 0, 20).encode()))
        self.run_for(0.1)
        third = self.open(greedy)
        self.assertEqual(self.ask(third, ManifestRequest(self.blob).encode()).status, "busy")
        other = self.open(self.client(3))
        self.assertEqual(self.ask(other, ManifestRequest(self.blob).encode()).status, "ok")
        # Whoever takes nothing is cut off, and its places are free again.
        self.run_for(blob_serving.WRITE_S + 1)
        self.assertEqual(self.node.blobs._server._serving.total(), 0)
        third = self.open(greedy)
        self.assertEqual(self.ask(third, ManifestRequest(self.blob).encode()).status, "ok")
        third.reset()

    def test_what_a_stalled_reader_can_make_it_hold(self) -> None:
        io = self.open(self.client(2))
        io.stream.stalled = True
        io.stream.write(_delimited(ChunksRequest(self.blob, 0, 20).encode()))
        self.run_for(1)
        self.assertLess(len(io.stream.other.written), 3 * CHUNK)
        io.reset()

    def test_idle_streams_end(self) -> None:
        io = self.open(self.client(2))
        self.run_for(blob_serving.IDLE_S + 1, 0.5)
        self.assertTrue(io.stream.closed)
        self.assertEqual(self.node.blobs._server._streams, set())

    def test_a_file_that_became_shorter(self) -> None:
        path = self.node.blobs.path_of(self.blob)
        assert path is not None
        os.truncate(path, CHUNK)
        io = self.open(self.client(2))
        self.assertEqual(self.ask(io, ChunksRequest(self.blob, 0, 1).encode()).status, "unknown")
        path.unlink()
        self.assertEqual(self.ask(io, ChunksRequest(self.blob, 0, 1).encode()).status, "unknown")
        io.reset()


def _delimited(data: bytes) -> bytes:
    assert len(data) < 2**14
    return (bytes([len(data) & 0x7F | 0x80, len(data) >> 7]) if len(data) > 127 else bytes([len(data)])) + data
