"""Fetches one blob from other members: manifests first, then chunks from several holders at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import attrs
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chorus.backoff import Backoff
from chorus.errors import ChorusError, LimitExceeded, LocalError, UserError
from chorus.protocols.blobs import (
    MAX_ANSWER,
    MAX_CHUNKS_A_REQUEST,
    PROTOCOL,
    Answer,
    BlobProtocolError,
    ChunksRequest,
    Download,
    Have,
    HaveRequest,
    LyingHolder,
    Manifest,
    ManifestRequest,
    have_length,
    manifest_limit,
)
from chorus.protocols.stream import ProtocolNotSupported
from chorus.protocols.streamio import StreamIO
from chorus.services.blobs.files import BlobStoreFull, BlobStoreUnavailable

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import PeerId
    from chorus.protocols.stream import Host
    from chorus.services.blobs.files import BlobFiles, Partial
    from chorus.services.blobs.offload import Offload

MAX_HOLDERS = 8
"""Of one source, asked for a manifest; a blob that none of eight has is not worth a ninth."""
MAX_ASKED = 2 * MAX_HOLDERS
"""Of both: connected members and announced holders take turns, so that no list of false ones keeps the others out."""
MAX_PARALLEL = 4
"""Holders that send chunks at once."""
MANIFEST_TIMEOUT_S = 5.0
CHUNK_TIMEOUT_S = 30.0
"""For one chunk: a holder slower than 9 kB/s is no help."""
FIRST_CHUNKS = 4
"""Chunks of a holder's first request; each further one asks for twice as many while all goes well."""
RETRIES = 6
RETRY: Final = Backoff(0.25, 8.0)
"""Of a holder that fails without having sent anything, until it has failed so often; time enough to connect anew."""
BUSY_S = 1.0
BUSY_RETRIES = 60
"""A holder that serves others is asked again for this many seconds."""


class BlobTooLarge(UserError):
    code = "blob_too_large"
    http_status = 413

    def __init__(self, size: int | None, limit: int) -> None:
        has = "is too large" if size is None else f"has {size} bytes"
        super().__init__(f"the blob {has}; the most is {limit} bytes")
        self.limit = limit


class BlobUnavailable(LocalError):
    """No holder could give the blob; the chunks that arrived are kept for the next try."""

    code = "blob_unavailable"
    http_status = 503


class UnknownBlob(UserError):
    """The blob is not here, and no peer that was asked has it."""

    code = "unknown_blob"
    http_status = 404

    def __init__(self, sha256: str) -> None:
        super().__init__(f"no reachable node has the blob {sha256}")
        self.sha256 = sha256


@attrs.define
class FetchCounters:
    """For the metrics; only ever grow."""

    fetched: int = 0
    fetched_bytes: int = 0
    resumed_bytes: int = 0
    """Found in interrupted fetches."""
    failed: int = 0
    lies: int = 0
    """Holders whose content contradicted what they had promised."""


@attrs.frozen
class FetchContext:
    """The parts that every fetch shares."""

    host: Host
    clock: IReactorTime
    files: BlobFiles
    offload: Offload
    counters: FetchCounters
    reserve: Callable[[int], None]
    """Take bytes of the quota; raises `BlobStoreFull`."""
    underway: dict[str, Underway] = attrs.field(factory=dict)
    """By blob."""


@attrs.frozen
class Underway:
    """A fetch that writes chunks now, which can be given to others."""

    download: Download
    partial: Partial

    @property
    def manifest(self) -> Manifest:
        return self.download.manifest

    @property
    def present(self) -> set[int]:
        return self.download.present

    def read(self, index: int) -> bytes:
        """Blocking. Raises `BlobStoreUnavailable` where the fetch has ended."""
        return self.partial.read(index)


class _NotThere(ChorusError):
    """The holder does not have the blob."""


class _Busy(ChorusError):
    """The holder serves enough others already."""


class Fetch:
    """`run` returns the complete, synced, verified file, which the caller keeps or discards.

    `reserved` bytes of the quota were taken, whatever came of it; the caller gives them back.
    """

    _log = Logger()

    def __init__(self, context: FetchContext, sha256: str, size_limit: int, holders: Sequence[PeerId]) -> None:
        self._context = context
        self._sha256 = sha256
        self._size_limit = size_limit
        own = context.host.peer_id
        self._holders = [each for each in dict.fromkeys(holders) if each != own][:MAX_ASKED]
        self._problems: dict[PeerId, ChorusError] = {}
        self._too_large = False
        self._waiting: list[Deferred[None]] = []
        self.reserved = 0

    async def run(self) -> Partial:
        """Raises `UnknownBlob`, `BlobTooLarge`, `BlobUnavailable`, `BlobStoreFull` or `BlobStoreUnavailable`."""
        groups = await self._manifests()
        for manifest, holders in groups:
            self._context.reserve(manifest.size - self.reserved)
            self.reserved = manifest.size
            partial = await self._download(manifest, holders)
            if partial is not None:
                return partial
        self._context.counters.failed += 1
        if self._too_large and not groups:
            raise BlobTooLarge(None, self._size_limit)
        if all(isinstance(problem, _NotThere) for problem in self._problems.values()):
            raise UnknownBlob(self._sha256)
        reasons = "; ".join(f"{peer}: {problem}" for peer, problem in self._problems.items())
        raise BlobUnavailable(f"the blob {self._sha256} cannot be had now ({reasons})")

    # Manifests

    async def _manifests(self) -> list[tuple[Manifest, list[PeerId]]]:
        """Offers of the holders, grouped by manifest: first what an interrupted fetch had begun, then what most of them
        offer."""
        asked = [Deferred.fromCoroutine(self._manifest_of(each)) for each in self._holders]
        offers = await gatherResults(asked, consumeErrors=True)
        groups: dict[Manifest, list[PeerId]] = {}
        for peer, manifest in zip(self._holders, offers, strict=True):
            if manifest is not None:
                groups.setdefault(manifest, []).append(peer)
        begun = set(await self._context.offload(lambda: self._context.files.partial_manifests(self._sha256)))
        return sorted(groups.items(), key=lambda each: (each[0].encode() not in begun, -len(each[1])))

    async def _manifest_of(self, peer: PeerId) -> Manifest | None:
        try:
            io = await self._open(peer, within=MANIFEST_TIMEOUT_S)
            try:
                await io.write_delimited(ManifestRequest(self._sha256).encode())
                answer = await self._answer(io)
                if answer.length > manifest_limit(self._size_limit):
                    raise LimitExceeded("blob_manifest_bytes", answer.length, manifest_limit(self._size_limit))
                return Manifest.decode(await io.read_exactly(answer.length), self._sha256, self._size_limit)
            finally:
                io.reset()
        except LimitExceeded as problem:
            self._too_large = True
            self._problems[peer] = problem
        except ChorusError as problem:
            self._problems[peer] = problem
        return None

    # Chunks

    async def _download(self, manifest: Manifest, holders: list[PeerId]) -> Partial | None:
        context = self._context
        partial = await context.offload(lambda: context.files.partial(manifest))
        try:
            present = await context.offload(partial.present)
            context.counters.resumed_bytes += sum(map(manifest.length, present))
            download = Download(manifest, present)
            context.underway[self._sha256] = Underway(download, partial)
            try:
                await self._from_all(download, partial, holders)
            finally:
                del context.underway[self._sha256]
            if not download.complete:
                partial.close()
                return None
            if await context.offload(partial.whole):
                context.counters.fetched += 1
                return partial
        except BaseException:
            partial.close()
            raise
        # Every chunk is what the manifest says and the whole is not the blob: the manifest is the lie.
        for peer in holders:
            self._blame(peer, LyingHolder("its manifest is not that of the blob"))
        await context.offload(partial.discard)
        return None

    async def _from_all(self, download: Download, partial: Partial, holders: list[PeerId]) -> None:
        waiting = iter(holders)

        async def one_after_the_other() -> None:
            for peer in waiting:
                if download.complete:
                    return
                await self._from(peer, download, partial)

        workers = [Deferred.fromCoroutine(one_after_the_other()) for _ in holders[:MAX_PARALLEL]]
        part = [peer for peer, problem in self._problems.items() if isinstance(problem, _NotThere)][:MAX_PARALLEL]
        workers += [Deferred.fromCoroutine(self._from_part(peer, download, partial)) for peer in part]
        try:
            await DeferredList(workers, fireOnOneErrback=True, consumeErrors=True)
        except BaseException as problem:
            for worker in workers:
                worker.cancel()
            reason = getattr(problem, "subFailure", None)
            raise (reason.value if reason is not None else problem) from None

    async def _from(self, peer: PeerId, download: Download, partial: Partial) -> None:
        """Take chunks from one holder until there is nothing left to take, or it is no use."""
        failures = busy = 0
        while failures < RETRIES and busy < BUSY_RETRIES and not download.complete:
            before = download.missing
            try:
                await self._converse(peer, download, partial)
                return
            except (BlobStoreFull, BlobStoreUnavailable):
                raise
            except LyingHolder as problem:
                self._blame(peer, problem)
                return
            except (_NotThere, ProtocolNotSupported, BlobProtocolError) as problem:
                self._problems[peer] = problem
                return
            except ChorusError as problem:
                self._problems[peer] = problem
                is_busy = isinstance(problem, _Busy)
                moved = download.missing < before
                failures = failures if is_busy else 1 if moved else failures + 1
                busy = busy + 1 if is_busy and not moved else 0
            await deferLater(self._context.clock, BUSY_S if is_busy else RETRY.ceiling(failures))

    async def _from_part(self, peer: PeerId, download: Download, partial: Partial) -> None:
        """Take chunks from a peer that fetches the blob itself, as long as it has some that are missing here."""
        manifest = download.manifest
        try:
            io = await self._open(peer, within=CHUNK_TIMEOUT_S)
            try:
                while True:
                    await io.write_delimited(HaveRequest(self._sha256).encode())
                    answer = await self._answer(io)
                    count = len(manifest.chunks)
                    if answer.length != have_length(count):
                        return
                    have = Have.decode(await io.read_exactly(answer.length), count)
                    taken = download.take(FIRST_CHUNKS, have)
                    if not taken or have.manifest.hex() != manifest.digest:
                        download.give_back(taken)
                        return
                    await self._receive_taken(io, taken, download, partial)
            finally:
                io.reset()
        except (BlobStoreFull, BlobStoreUnavailable):
            raise
        except LyingHolder as problem:
            self._blame(peer, problem)
        except ChorusError as problem:
            self._problems[peer] = problem

    async def _receive_taken(self, io: StreamIO, taken: range, download: Download, partial: Partial) -> None:
        try:
            await self._receive(io, taken, download, partial)
        finally:
            download.give_back(taken)
            self._wake_waiters()

    async def _converse(self, peer: PeerId, download: Download, partial: Partial) -> None:
        """Requests on one stream until the blob is complete."""
        io = await self._open(peer, within=CHUNK_TIMEOUT_S)
        most = FIRST_CHUNKS
        try:
            while not download.complete:
                taken = download.take(most)
                if not taken:
                    # Others are sending the rest; should one of them fail, its part is free again.
                    await self._until_woken()
                    continue
                await self._receive_taken(io, taken, download, partial)
                most = min(MAX_CHUNKS_A_REQUEST, most * 2)
        except ChorusError as problem:
            io.reset(problem)
            raise
        except BaseException:
            io.reset()
            raise
        io.close()

    async def _receive(self, io: StreamIO, taken: range, download: Download, partial: Partial) -> None:
        manifest = download.manifest
        await io.write_delimited(ChunksRequest(self._sha256, taken.start, len(taken)).encode())
        answer = await self._answer(io)
        if answer.length != manifest.span(taken.start, len(taken)):
            raise LyingHolder(f"it sends {answer.length} bytes for chunks {taken.start} to {taken.stop - 1}")
        for index in taken:
            data = await io.read_exactly(manifest.length(index))
            if not await self._context.offload(lambda index=index, data=data: partial.write(index, data)):  # type: ignore[misc]
                raise LyingHolder(f"chunk {index} is not what its manifest says")
            self._context.counters.fetched_bytes += len(data)
            download.arrived(index)

    async def _open(self, peer: PeerId, *, within: float) -> StreamIO:
        stream = await self._context.host.open_stream(peer, [PROTOCOL])
        return StreamIO(stream, self._context.clock, timeout=within)

    async def _answer(self, io: StreamIO) -> Answer:
        answer = Answer.decode(await io.read_delimited(MAX_ANSWER))
        if answer.status == "unknown":
            raise _NotThere("it does not have the blob")
        if answer.status == "busy":
            raise _Busy("it is busy")
        if answer.status == "bad":
            raise BlobProtocolError("it refuses the request")
        return answer

    def _blame(self, peer: PeerId, problem: LyingHolder) -> None:
        self._problems[peer] = problem
        self._context.counters.lies += 1
        self._log.warn(
            "{peer} lied about blob {sha256}: {problem}",
            event="blob.lie",
            peer=str(peer),
            sha256=self._sha256,
            problem=str(problem),
        )

    def _until_woken(self) -> Deferred[None]:
        waiter: Deferred[None] = Deferred()
        self._waiting.append(waiter)
        return waiter

    def _wake_waiters(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(None)
