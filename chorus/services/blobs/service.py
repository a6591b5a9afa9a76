"""The node's blobs: taken in from users and from the executor, served to members, fetched from them.

Implements `http.ports.BlobPort`. A blob is acknowledged when its bytes, its name and its row are durable. Hashing
and files are off the reactor's thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from chorus.bounded import Bounded
from chorus.protocols.blobs import PROTOCOL, Manifest, is_blob_id
from chorus.protocols.stream import ProtocolOptions
from chorus.services.blobs.fetch import MAX_HOLDERS, BlobTooLarge, FetchContext, UnknownBlob
from chorus.services.blobs.files import BlobFiles, BlobStoreFull, Ingest, Partial
from chorus.services.blobs.keeping import Keeping
from chorus.services.blobs.offload import Offload
from chorus.services.blobs.pins import Pins
from chorus.services.blobs.quarantine import FOLDER, QUARANTINE_S, Quarantine
from chorus.services.blobs.serving import BlobCounters, BlobLimits, BlobServing, open_sized
from chorus.services.blobs.sharing import BlobLock, detached
from chorus.services.blobs.sources import open_source, pieces
from chorus.services.blobs.transfers import Transfers
from chorus.services.blobs.upload import BlobUpload
from chorus.store import blobs as table
from chorus.store import pins as pin_table

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import PeerId
    from chorus.protocols.stream import Host
    from chorus.seams import Document
    from chorus.store.database import Store

MAX_STREAMS_PER_PEER = 8
MAX_REMEMBERED = 10_000
"""Blobs of which a holder is remembered."""
NEARLY_FULL = 0.9
"""Share of the quota above which blobs that nobody needs are removed before their time."""
ROOM_AGE_S = 7 * 86400.0
"""Unused for so long: an agent's result waits here for its scheduler, and must not lose its blobs to a push."""


@attrs.frozen
class BlobRef:
    sha256: str
    size: int


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
        self.pins = Pins(store, wall)
        self._files = BlobFiles(directory)
        self._store = store
        self._host = host
        self._offload = offload
        self._wall = wall
        self._sizes: dict[str, int] = {}
        self._used_at: dict[str, float] = {}
        """When this process brought or fetched again what was here already, in Unix seconds."""
        self._reserved = 0
        self._locks: dict[str, BlobLock] = {}
        self._remembered: Bounded[str, PeerId] = Bounded(MAX_REMEMBERED)
        context = FetchContext(host, clock, self._files, offload, self.counters, self.reserve)
        self._transfers = Transfers(context, self, wall)
        keeping = Keeping(context, self._transfers, self, self.pins, self.limits, self.counters, wall)
        self._server = BlobServing(context, self.counters, store, self._sizes, self.limits, keeping.keep, self._serves)

    def _serves(self, peer: PeerId, sha256: str) -> bool:
        return self.pins.is_sealed(sha256) or not self.limits.shut_out(peer)

    # Life

    def startService(self) -> Deferred[None]:
        super().startService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        now = self._wall()
        await self.pins.load()
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
        self._transfers.stop()
        return succeed(None)

    # Here

    def path_of(self, sha256: str) -> Path | None:
        """The blob's file, read only; None when it is not here."""
        return self._files.path(sha256) if sha256 in self._sizes else None

    def size_of(self, sha256: str) -> int | None:
        """Bytes of a blob that is here."""
        return self._sizes.get(sha256)

    def stat(self, sha256: str) -> Deferred[Document | None]:
        """{sha256, size} of a blob that is here."""
        size = self._sizes.get(sha256)
        return succeed(None if size is None else {"sha256": sha256, "size": size})

    def open(self, sha256: str) -> Deferred[tuple[IO[bytes], int]]:
        """Open a blob, fetched first, if it is not here, from its remembered holder or connected peers. Fails with
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
        found = first + sorted(each for each in connected if PROTOCOL in self._host.protocols_of(each))
        return found[:MAX_HOLDERS]

    # In

    def writer(self, expected_sha256: str | None) -> BlobUpload:
        """An upload that streams; see `BlobUpload`."""
        return BlobUpload(expected_sha256, self.limits.max_blob, self, self._offload)

    def ingest(self) -> Ingest:
        return Ingest(self._files)

    def put_bytes(self, data: bytes) -> Deferred[BlobRef]:
        """Durable when it fires; cancelling only stops the waiting. Fails with `BlobTooLarge`, `BlobStoreFull` or
        `BlobStoreUnavailable`."""
        return detached(self._put(len(data), lambda: [data]))

    def put_file(self, path: Path) -> Deferred[BlobRef]:
        """The regular file at `path` (no link, no device), as long as it is now. Fails also with `SourceUnreadable`."""
        return detached(self._put_file(path))

    async def _put_file(self, path: Path) -> BlobRef:
        source, size = await self._offload(lambda: open_source(path))
        try:
            return await self._put(size, lambda: pieces(source, size))
        finally:
            source.close()

    async def _put(self, size: int, content: Callable[[], Iterable[bytes]]) -> BlobRef:
        if size > self.limits.max_blob:
            raise BlobTooLarge(size, self.limits.max_blob)

        def take_in() -> tuple[Ingest, Manifest]:
            ingest = Ingest(self._files)
            try:
                for piece in content():
                    ingest.write(piece)
                return ingest, ingest.sync()
            except BaseException:
                ingest.abort()
                raise

        self.reserve(size)
        try:
            return await self.keep_ingest(*await self._offload(take_in))
        finally:
            self.reserve(-size)

    async def keep_ingest(self, ingest: Ingest, manifest: Manifest) -> BlobRef:
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

    def reserve(self, size: int) -> None:
        if size > 0 and self.used + self._reserved + size > self.limits.max_store:
            raise BlobStoreFull(f"the blobs have {self.used} bytes, their quota is {self.limits.max_store}")
        self._reserved += size

    def remove(self, sha256: str) -> Deferred[bool]:
        """False when it was not here. A reader that has it open keeps it until it is done."""
        return Deferred.fromCoroutine(self._remove_unless(sha256, lambda: False))

    def remove_unused(self, sha256: str, before: float, named: Callable[[], bool]) -> Deferred[bool]:
        """Remove it unless this process brought or fetched it (again) since `before` (Unix seconds), it is pinned or
        `named`. All are asked in the very step from which on it is not here any more. False when it stays, or was not
        here."""

        def wanted() -> bool:
            return self._used_at.get(sha256, 0.0) >= before or sha256 in self.pins or named()

        return Deferred.fromCoroutine(self._remove_unless(sha256, wanted))

    def make_room(self, named: Callable[[str], bool]) -> Deferred[int]:
        """While the quota is nearly full: remove blobs that are neither pinned nor `named`, the longest unused first.
        Returns how many went."""
        return Deferred.fromCoroutine(self._make_room(named))

    async def _make_room(self, named: Callable[[str], bool]) -> int:
        gone, before, enough = 0, self._wall() - ROOM_AGE_S, NEARLY_FULL * self.limits.max_store
        for row in await self._store.read(table.every) if self.used > enough else ():
            if row.used_at >= before or self.used <= enough:
                break
            gone += await self.remove_unused(row.sha256, before, lambda sha256=row.sha256: named(sha256))  # type: ignore[misc]
        return gone

    async def _remove_unless(self, sha256: str, wanted: Callable[[], bool]) -> bool:
        async with self._lock(sha256):
            if sha256 not in self._sizes or wanted():
                return False
            # First of all nobody finds it any more; only then anything that takes time.
            size = self._sizes.pop(sha256)
            try:
                await self._store.write(lambda connection: _forget(connection, sha256))
            except BaseException:
                self._sizes[sha256] = size
                raise
            self.used -= size
            self._used_at.pop(sha256, None)
            self.pins.removed(sha256)
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
        fetching = Deferred.fromCoroutine(self._transfers.fetch(sha256, min(size_limit, self.limits.max_blob), holders))
        return fetching.addCallback(self._fetched, sha256)

    def _fetched(self, path: Path, sha256: str) -> Path:
        self._used_at[sha256] = self._wall()
        return path

    def here(self, sha256: str, limit: int) -> Path | None:
        size = self._sizes.get(sha256)
        if size is None:
            return None
        if size > limit:
            raise BlobTooLarge(size, limit)
        self._used_at[sha256] = self._wall()
        return self._files.path(sha256)

    async def keep_partial(self, partial: Partial) -> None:
        await self._keep(partial.manifest, lambda: partial.keep(self._files), partial.discard)


def _forget(connection: sqlite3.Connection, sha256: str) -> None:
    table.forget(connection, sha256)
    pin_table.forget_sealed(connection, sha256)
