"""Sealing and unsealing through real child processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from unittest import mock

from twisted.internet.defer import Deferred, maybeDeferred

from chorus.protocols.blobs import Manifest
from chorus.security import age
from chorus.services.blobs import sealing
from chorus.services.blobs.files import BlobFiles, BlobStoreFull, Ingest
from chorus.services.blobs.sealing import DIRECT, SealBroken, Sealer, SealFailed, sealed_size
from tests.services.blobs.test_service import noise, sha
from tests.support import ProcessTestCase

T = TypeVar("T")


class Shelf:
    """Blobs in a folder, with a quota."""

    def __init__(self, root: Path) -> None:
        self.files = BlobFiles(root)
        self.files.prepare(0.0)
        self.root = root
        self.reserved = 0
        self.quota = 1 << 40

    def ingest(self) -> Ingest:
        return Ingest(self.files)

    def reserve(self, size: int) -> None:
        if self.reserved + size > self.quota:
            raise BlobStoreFull("full")
        self.reserved += size

    async def keep_ingest(self, ingest: Ingest, manifest: Manifest) -> None:
        ingest.keep(manifest.sha256)

    def left(self) -> list[str]:
        return [path.name for path in (self.root / "tmp").iterdir()]

    def path(self, sha256: str) -> Path:
        return self.files.path(sha256)


class SealingCase(ProcessTestCase):
    def setUp(self) -> None:
        self.shelf = Shelf(Path(self.mktemp()))
        self.sealer = Sealer(self.shelf, self.offload)
        self.source = Path(self.mktemp())

    def offload(self, work: Callable[[], T]) -> Deferred[T]:
        return maybeDeferred(work)

    def seal(self, data: bytes) -> sealing.SealedBlob:
        self.source.write_bytes(data)
        return self.successResultOf(Deferred.fromCoroutine(self.sealer.seal(self.source)))

    def unseal(self, path: Path, key: str, data: bytes) -> Deferred[Ingest]:
        return Deferred.fromCoroutine(self.sealer.unseal(path, key, sha(data), len(data)))

    def assert_nothing_left(self) -> None:
        self.assertEqual((self.shelf.left(), self.shelf.reserved, self.sealer._children), ([], 0, set()))


class Sealing(SealingCase):
    def test_round_trips(self) -> None:
        for size in (0, 1, 65536, DIRECT, DIRECT + 1, 3 * DIRECT + 7):
            data = noise(size)
            sealed = self.seal(data)
            self.assertEqual(sealed.size, size)
            stored = self.shelf.path(sealed.stored)
            self.assertLessEqual(stored.stat().st_size, sealed_size(size))
            age.check_header(stored.read_bytes()[: age.MAX_HEADER])
            self.assertEqual(age.decrypt(stored.read_bytes(), [sealed.key]), data)
            plain = self.successResultOf(self.unseal(stored, sealed.key, data))
            self.assertEqual(plain.path.read_bytes(), data)
            plain.abort()
            self.assertFalse(self.shelf.path(sha(data)).exists(), "it is no blob")
        self.assert_nothing_left()

    def test_every_blob_has_a_key_of_its_own(self) -> None:
        for size in (10, DIRECT + 1):
            first, second = self.seal(noise(size)), self.seal(noise(size))
            self.assertNotEqual((first.key, first.stored), (second.key, second.stored))

    def test_truncated_or_altered_leaves_no_plaintext(self) -> None:
        for size in (1000, DIRECT * 3):
            data = noise(size)
            sealed = self.seal(data)
            whole = self.shelf.path(sealed.stored).read_bytes()
            flipped = bytearray(whole)
            flipped[-1] ^= 1
            header = bytearray(whole)
            header[30] ^= 1
            for broken in (
                whole[:-1],
                whole[: size // 2],
                whole[:100],
                b"",
                whole + b"x",
                bytes(flipped),
                bytes(header),
            ):
                self.source.write_bytes(broken)
                self.failureResultOf(self.unseal(self.source, sealed.key, data), SealBroken)
                self.assert_nothing_left()
            self.assertFalse(self.shelf.path(sha(data)).exists())

    def test_another_key_or_another_content(self) -> None:
        for size in (1000, DIRECT * 2):
            data = noise(size)
            sealed = self.seal(data)
            stored = self.shelf.path(sealed.stored)
            for key, content in (
                (age.new_identity(), data),
                ("no key", data),
                (sealed.key, data[:-1]),
                (sealed.key, data + b"x"),
                (sealed.key, bytes(size)),
            ):
                self.failureResultOf(self.unseal(stored, key, content), SealBroken)
                self.assert_nothing_left()

    def test_full(self) -> None:
        self.shelf.quota = 4 * DIRECT
        self.source.write_bytes(noise(4 * DIRECT))
        self.failureResultOf(Deferred.fromCoroutine(self.sealer.seal(self.source)), BlobStoreFull)
        with mock.patch.object(Ingest, "write", side_effect=BlobStoreFull("disk")):
            self.source.write_bytes(noise(2 * DIRECT))
            self.failureResultOf(Deferred.fromCoroutine(self.sealer.seal(self.source)), BlobStoreFull)
        self.assertEqual((self.shelf.reserved, self.sealer._children), (0, set()))

    def test_no_key_on_a_command_line(self) -> None:
        sealed = self.seal(data := noise(2 * DIRECT))
        seen: list[list[str]] = []
        real = sealing.subprocess.Popen

        def popen(argv: list[str], **more: object) -> object:
            seen.append(argv)
            return real(argv, **more)  # type: ignore[call-overload]

        with mock.patch.object(sealing.subprocess, "Popen", popen):
            self.successResultOf(self.unseal(self.shelf.path(sealed.stored), sealed.key, data))
        self.assertEqual(len(seen), 1)
        self.assertNotIn("AGE-SECRET-KEY", " ".join(seen[0]).upper())

    def test_no_process(self) -> None:
        self.source.write_bytes(noise(2 * DIRECT))
        with mock.patch.object(sealing.subprocess, "Popen", side_effect=OSError(11, "no more processes")):
            self.failureResultOf(Deferred.fromCoroutine(self.sealer.seal(self.source)), SealFailed)
        self.assert_nothing_left()

    def test_stopped_in_the_middle(self) -> None:
        """`stop` ends the child, and nothing is kept."""
        self.source.write_bytes(noise(2 * DIRECT))
        real = Ingest.write

        def write(ingest: Ingest, data: bytes) -> None:
            real(ingest, data)
            self.sealer.stop()

        with mock.patch.object(sealing, "READ_SIZE", 4096), mock.patch.object(Ingest, "write", write):
            self.failureResultOf(Deferred.fromCoroutine(self.sealer.seal(self.source)), SealFailed)
        self.assert_nothing_left()
        self.failureResultOf(Deferred.fromCoroutine(self.sealer.seal(self.source)), SealFailed)

    def test_limit_children(self) -> None:
        """Two at once; the others wait."""
        waiting: list[Deferred[None]] = []

        def offload(work: Callable[[], T]) -> Deferred[T]:
            held: Deferred[None] = Deferred()
            waiting.append(held)
            return held.addCallback(lambda _: work())

        sealer = Sealer(self.shelf, offload)
        self.source.write_bytes(b"x")
        running = [Deferred.fromCoroutine(sealer.seal(self.source)) for _ in range(5)]
        opened = len(waiting)
        for held in waiting[:opened]:
            held.callback(None)
        self.assertEqual(len(waiting) - opened, sealing.MAX_CHILDREN)
        while opened < len(waiting):
            waiting[opened].callback(None)
            opened += 1
        self.assertEqual(len({self.successResultOf(each).stored for each in running}), 5)

    def test_the_child_ends_with_the_node(self) -> None:
        """Its output has no reader any more: it ends by itself, quietly."""
        self.source.write_bytes(noise(4 * DIRECT))
        reading, writing = os.pipe()
        with open(self.source, "rb") as source:
            process = sealing.subprocess.Popen(
                [sealing.sys.executable, "-I", sealing.child.__file__, "seal"],
                stdin=source,
                stdout=writing,
                stderr=sealing.subprocess.PIPE,
            )
        os.close(writing)
        os.read(reading, 100)
        os.close(reading)
        timer = threading.Timer(60, process.kill)
        timer.start()
        _, complaint = process.communicate()
        timer.cancel()
        self.assertEqual((process.returncode, complaint), (1, b""))
