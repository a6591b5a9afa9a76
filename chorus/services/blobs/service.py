"""The node's blobs: taken in from users and from the executor, served to members, fetched from them.

Implements `http.ports.BlobPort`. A blob is acknowledged when its bytes, its name and its row are durable. Hashing
and files are off the reactor's thread.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar, cast

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredSemaphore, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from chorus.bounded import Bounded
from chorus.errors import ChorusError, LocalError
from chorus.files import is_shortage
from chorus.protocols.blobs import (
    PROTOCOL,
    Manifest,
    is_blob_id,
)
from chorus.protocols.stream import ProtocolOptions
from chorus.services.blobs.fetch import (
    BlobTooLarge,
    BlobUnavailable,
    Fetch,
    FetchCounters,
    Offload,
    Surroundings,
    UnknownBlob,
)
from chorus.services.blobs.files import (
    READ_SIZE,
    BlobFiles,
    BlobStoreFull,
    BlobStoreUnavailable,
    Ingest,
    Partial,
    refuse,
)
from chorus.services.blobs.quarantine import FOLDER, QUARANTINE_S, Quarantine
from chorus.services.blobs.serving import BlobServing, open_sized
from chorus.services.blobs.sharing import BlobLock, SharedFetch, detached
from chorus.services.blobs.upload import DigestMismatch, Upload
from chorus.store import blobs as table

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorFromThreads, IReactorTime

    from chorus.identity import PeerId
    from chorus.protocols.stream import Host
    from chorus.seams import Document
    from chorus.store.database import Store

__all__ = [
    "BlobLimits",
    "BlobRef",
    "BlobService",
    "BlobStoreFull",
    "BlobStoreUnavailable",
    "BlobTooLarge",
    "BlobUnavailable",
    "DigestMismatch",
    "ThreadOffload",
    "UnknownBlob",
]

T = TypeVar("T")

THREADS = 4
MAX_STREAMS_PER_PEER = 8
MAX_FETCHES = 8
"""Blobs fetched at once; further ones wait their turn."""
MAX_REMEMBERED = 10_000
"""Blobs of which a holder is remembered."""


@attrs.frozen
class BlobRef:
    sha256: str
    size: int


@attrs.frozen
class BlobLimits:
    max_blob: int = 1024**3
    """Bytes of one blob, whoever brings it."""
    max_store: int = 20 * 1024**3
    """Bytes of all blobs and of what is on its way in."""
    max_serving: int = 16
    """Answers under way at once; further requests hear `busy`."""
    max_serving_per_peer: int = 6
    """So that three slow members do not hold all of them."""


@attrs.define
class BlobCounters(FetchCounters):
    stored: int = 0
    stored_bytes: int = 0
    served_bytes: int = 0
    refused_busy: int = 0
    refused_peers: int = 0
    """Streams that ended because of what the peer did."""


class SourceUnreadable(LocalError):
    """A file that was to become a blob cannot be read."""

    code = "blob_source_unreadable"


class ThreadOffload:
    """`Offload` on threads of its own."""

    def __init__(self, reactor: IReactorFromThreads, threads: int = THREADS) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(0, threads, "blobs")

    def __call__(self, work: Callable[[], T]) -> Deferred[T]:
        return cast("Deferred[T]", deferToThreadPool(self._reactor, self._pool, work))

    def start(self) -> None:
        self._pool.start()

    def stop(self) -> None:
        """Waits for what is running."""
        self._pool.stop()


class BlobService(Service):
    """`offload` runs blocking work (a `ThreadOffload` that the caller starts and stops); `wall` gives Unix seconds."""

    _log = Logger()
    name = "blobs"

    def __init__(
        self,
        *,
        directory: Path,
        store: Store,
        host: Host,
        clock: IReactorTime,
        offload: Offload,
        wall: Callable[[], float],
        limits: BlobLimits | None = None,
    ) -> None:
        self.limits = limits or BlobLimits()
        self.counters = BlobCounters()
        self.used = 0
        """Bytes of all blobs here."""
        self._files = BlobFiles(directory)
        self._store = store
        self._host = host
        self._clock = clock
        self._offload = offload
        self._wall = wall
        self._sizes: dict[str, int] = {}
        self._used_at: dict[str, float] = {}
        """When this process brought or fetched again what was here already, in Unix seconds."""
        self._reserved = 0
        self._locks: dict[str, BlobLock] = {}
        self._fetches: dict[str, SharedFetch] = {}
        self._fetch_slots = DeferredSemaphore(MAX_FETCHES)
        self._remembered: Bounded[str, PeerId] = Bounded(MAX_REMEMBERED)
        self._server = BlobServing(
            store=store,
            clock=clock,
            offload=offload,
            size_of=self._sizes.get,
            path=self._files.path,
            counters=self.counters,
            most=self.limits.max_serving,
            per_peer=self.limits.max_serving_per_peer,
        )
        self._around = Surroundings(host, clock, self._files, offload, self.counters, self._reserve)

    # Life

    def startService(self) -> Deferred[None]:
        super().startService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        now = self._wall()
        found = await self._offload(lambda: self._files.prepare(now))
        rows = {row.sha256: row.size for row in await self._store.read(table.every)}
        settled = await self._offload(lambda: Quarantine(self._files).settle(rows, found, now))
        known = settled.known
        lost = [sha256 for sha256 in rows if sha256 not in known]
        if lost:
            self._log.error(
                "blobs that have lost their files: {count}", event="blob.lost", count=len(lost), first=lost[0]
            )
            await self._store.write(lambda connection: table.forget_all(connection, lost))
        if settled.returned:
            self._log.info(
                "blobs that came back from the quarantine: {count}", event="blob.returned", count=settled.returned
            )
        if settled.set_aside:
            self._log.warn(
                "files of blobs that the database does not know: {count}; they are kept in {folder} for {days} days",
                event="blob.set_aside",
                count=settled.set_aside,
                folder=f"{self._files.directory.name}/{FOLDER}",
                days=round(QUARANTINE_S / 86400),
            )
        self._sizes.update(known)
        self.used = sum(known.values())
        self._host.register(
            PROTOCOL, self._server.stream_opened, ProtocolOptions(max_inbound_per_peer=MAX_STREAMS_PER_PEER)
        )

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        self._host.unregister(PROTOCOL)
        self._server.stop()
        for fetch in list(self._fetches.values()):
            fetch.cancel()
        return succeed(None)

    # What is here

    def path_of(self, sha256: str) -> Path | None:
        """Where the blob lies; read only. None when it is not here."""
        return self._files.path(sha256) if sha256 in self._sizes else None

    def stat(self, sha256: str) -> Deferred[Document | None]:
        """{sha256, size} of a blob that is here."""
        size = self._sizes.get(sha256)
        return succeed(None if size is None else {"sha256": sha256, "size": size})

    def open(self, sha256: str) -> Deferred[tuple[IO[bytes], int]]:
        """Fetched first, if it is not here, from whoever was remembered for it or is connected. Fails with
        `UnknownBlob`, `BlobUnavailable`, `BlobStoreFull`."""
        return Deferred.fromCoroutine(self._open(sha256))

    async def _open(self, sha256: str) -> tuple[IO[bytes], int]:
        if not is_blob_id(sha256):
            raise UnknownBlob(sha256[:64])
        for _ in range(2):
            path = self.path_of(sha256)
            if path is None:
                path = await self.fetch(sha256, self.limits.max_blob, self._likely_holders(sha256))
            size = self._sizes.get(sha256)
            try:
                file, found = await self._offload(lambda path=path: open_sized(path))  # type: ignore[misc]
                if found == size:
                    return file, found
                file.close()
                self._log.error(
                    "blob {sha256} has {found} bytes, not {size}",
                    event="blob.lost",
                    sha256=sha256,
                    size=size,
                    found=found,
                )
            except FileNotFoundError:
                self._log.error("the file of blob {sha256} is gone", event="blob.lost", sha256=sha256)
            await self.remove(sha256)
        raise UnknownBlob(sha256)

    def remember_holder(self, sha256: str, peer: PeerId) -> None:
        """`open` will ask `peer` first for this blob."""
        self._remembered.put(sha256, peer)

    def _likely_holders(self, sha256: str) -> list[PeerId]:
        remembered = self._remembered.get(sha256)
        first = [] if remembered is None else [remembered]
        connected = (connection.peer_id for connection in self._host.connections())
        return first + sorted(each for each in connected if PROTOCOL in self._host.protocols_of(each))

    # In

    def writer(self, expected_sha256: str | None) -> Upload:
        """An upload that streams; see `Upload`."""
        return Upload(
            expected_sha256,
            self.limits.max_blob,
            ingest=lambda: Ingest(self._files),
            offload=self._offload,
            reserve=self._reserve,
            keep=self._keep_ingest,
        )

    def put_bytes(self, data: bytes) -> Deferred[BlobRef]:
        """Durable when it fires; cancelling only stops the waiting. Fails with `BlobTooLarge`, `BlobStoreFull` or
        `BlobStoreUnavailable`."""
        return detached(self._put(len(data), lambda: [data]))

    def put_file(self, path: Path) -> Deferred[BlobRef]:
        """The regular file at `path` (no link, no device), as long as it is now. Fails also with `SourceUnreadable`."""
        return detached(self._put_file(path))

    async def _put_file(self, path: Path) -> BlobRef:
        source, size = await self._offload(lambda: _open_source(path))
        try:
            return await self._put(size, lambda: _pieces(source, size))
        finally:
            source.close()

    async def _put(self, size: int, pieces: Callable[[], Iterable[bytes]]) -> BlobRef:
        if size > self.limits.max_blob:
            raise BlobTooLarge(size, self.limits.max_blob)

        def take_in() -> tuple[Ingest, Manifest]:
            ingest = Ingest(self._files)
            try:
                for piece in pieces():
                    ingest.write(piece)
                return ingest, ingest.sync()
            except BaseException:
                ingest.abort()
                raise

        self._reserve(size)
        try:
            return await self._keep_ingest(*await self._offload(take_in))
        finally:
            self._reserve(-size)

    async def _keep_ingest(self, ingest: Ingest, manifest: Manifest) -> BlobRef:
        return await self._keep(manifest, lambda: ingest.keep(manifest.sha256), ingest.abort)

    async def _keep(self, manifest: Manifest, into_place: Callable[[], None], drop: Callable[[], None]) -> BlobRef:
        """Give synced bytes their name and their row, or `drop` them."""
        sha256, size, now = manifest.sha256, manifest.size, self._wall()
        async with self._lock(sha256):
            if sha256 in self._sizes:
                self._used_at[sha256] = now
                if await self._offload(lambda: self._files.intact(manifest)):
                    await self._offload(drop)
                else:
                    self._log.error("blob {sha256} was damaged; replaced", event="blob.replaced", sha256=sha256)
                    try:
                        await self._offload(into_place)
                    except BaseException:
                        await self._offload(drop)
                        raise
                await self._store.write(lambda connection: table.touch(connection, sha256, now))
                return BlobRef(sha256, size)
            encoded = manifest.encode()
            try:
                await self._offload(into_place)
                await self._store.write(lambda connection: table.insert(connection, sha256, size, encoded, now))
            except BaseException:
                await self._offload(drop)
                await self._offload(lambda: self._files.remove(sha256))
                raise
            self._sizes[sha256] = size
            self.used += size
            self.counters.stored += 1
            self.counters.stored_bytes += size
            return BlobRef(sha256, size)

    def _reserve(self, size: int) -> None:
        if size > 0 and self.used + self._reserved + size > self.limits.max_store:
            raise BlobStoreFull(f"the blobs have {self.used} bytes, their quota is {self.limits.max_store}")
        self._reserved += size

    def remove(self, sha256: str) -> Deferred[bool]:
        """False when it was not here. A reader that has it open keeps it until it is done."""
        return Deferred.fromCoroutine(self._remove(sha256))

    async def _remove(self, sha256: str) -> bool:
        return await self._remove_unless(sha256, lambda: False)

    def remove_unused(self, sha256: str, before: float, named: Callable[[], bool]) -> Deferred[bool]:
        """Remove it unless this process brought or fetched it (again) since `before` (Unix seconds) or it is `named`.
        Both are asked in the very step from which on it is not here any more. False when it stays, or was not here."""
        return Deferred.fromCoroutine(
            self._remove_unless(sha256, lambda: self._used_at.get(sha256, 0.0) >= before or named())
        )

    async def _remove_unless(self, sha256: str, wanted: Callable[[], bool]) -> bool:
        async with self._lock(sha256):
            if sha256 not in self._sizes or wanted():
                return False
            # First of all nobody finds it any more; only then anything that takes time.
            size = self._sizes.pop(sha256)
            try:
                await self._store.write(lambda connection: table.forget(connection, sha256))
            except BaseException:
                self._sizes[sha256] = size
                raise
            self.used -= size
            self._used_at.pop(sha256, None)
            await self._offload(lambda: self._files.remove(sha256))
            return True

    def _lock(self, sha256: str) -> BlobLock:
        return self._locks.setdefault(sha256, BlobLock(sha256, self._locks))

    # From others

    def fetch(self, sha256: str, size_limit: int, holders: Sequence[PeerId]) -> Deferred[Path]:
        """Have the blob here, from any of `holders`. Callers for the same blob share one transfer; it stops when the
        last of them cancels, and goes on where it was when somebody asks again.

        Fails with `UnknownBlob`, `BlobTooLarge`, `BlobUnavailable`, `BlobStoreFull`, `BlobStoreUnavailable`.
        """
        return Deferred.fromCoroutine(self._fetch(sha256, min(size_limit, self.limits.max_blob), holders))

    async def _fetch(self, sha256: str, limit: int, holders: Sequence[PeerId]) -> Path:
        while True:
            size = self._sizes.get(sha256)
            if size is not None:
                if size > limit:
                    raise BlobTooLarge(size, limit)
                self._used_at[sha256] = self._wall()
                return self._files.path(sha256)
            shared = self._fetches.get(sha256)
            if shared is None:
                running = Deferred.fromCoroutine(self._run_fetch(sha256, limit, holders))
                shared = SharedFetch(running, limit, holders, lambda: self._fetches.pop(sha256, None))
                if not shared.done:
                    self._fetches[sha256] = shared
                return await shared.wait()
            if shared.covers(limit, holders):
                return await shared.wait()
            try:
                await shared.wait()
            except ChorusError:
                # It asked others, or under another limit.
                continue

    async def _run_fetch(self, sha256: str, limit: int, holders: Sequence[PeerId]) -> Path:
        if not is_blob_id(sha256):
            raise UnknownBlob(sha256[:64])
        await self._fetch_slots.acquire()
        fetch = Fetch(self._around, sha256, limit, holders)
        try:
            partial = await fetch.run()
            # Complete and verified: from here on it is kept even if nobody waits for it any more.
            await detached(self._keep_partial(partial))
        except ChorusError:
            await self._prune(sha256)
            raise
        finally:
            self._reserve(-fetch.reserved)
            self._fetch_slots.release()
        return self._files.path(sha256)

    async def _keep_partial(self, partial: Partial) -> None:
        await self._keep(partial.manifest, lambda: partial.keep(self._files), partial.discard)

    async def _prune(self, failed: str) -> None:
        now, underway = self._wall(), set(self._fetches) - {failed}
        try:
            await self._offload(lambda: self._files.prune_partials(now, underway))
        except ChorusError as problem:
            self._log.warn("interrupted fetches could not be pruned: {problem}", problem=str(problem))


def _open_source(path: Path) -> tuple[IO[bytes], int]:
    try:
        # Never wait for the other end of a pipe that somebody put in a file's place.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as problem:
        if is_shortage(problem):
            refuse(problem)
        raise SourceUnreadable(f"{path} cannot be read: {problem.strerror}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise SourceUnreadable(f"{path} is no regular file")
    return os.fdopen(descriptor, "rb", buffering=0), status.st_size


def _pieces(source: IO[bytes], size: int) -> Iterable[bytes]:
    left = size
    while left:
        try:
            data = source.read(min(READ_SIZE, left))
        except OSError as problem:
            raise SourceUnreadable(f"the file cannot be read: {problem.strerror}") from None
        if not data:
            return
        left -= len(data)
        yield data
