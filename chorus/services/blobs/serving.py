"""Serves blobs to other members: a bounded number of answers at once, each at its reader's pace."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chorus.errors import ChorusError, PeerError
from chorus.protocols.blobs import (
    CHUNK,
    MAX_REQUEST,
    Answer,
    ChunksRequest,
    DropRequest,
    Have,
    HaveRequest,
    KeepRequest,
    ManifestRequest,
    Request,
    UnknownRequest,
    chunk_count,
    decode_request,
)
from chorus.protocols.stream import StreamClosed
from chorus.protocols.streamio import EndOfStream, StreamIO
from chorus.services.blobs.fetch import FetchContext, FetchCounters
from chorus.services.blobs.files import BlobStoreUnavailable
from chorus.store import blobs as table

if TYPE_CHECKING:
    from chorus.identity import PeerId
    from chorus.protocols.blobs import Status
    from chorus.protocols.stream import Stream
    from chorus.store.database import Store

IDLE_S = 60.0
"""Between two requests on one stream."""
WRITE_S = 30.0
"""For a peer that takes nothing of what it asked for."""


@attrs.frozen
class BlobLimits:
    max_blob: int = 1024**3
    """Bytes of one blob, whoever brings it."""
    max_store: int = 20 * 1024**3
    """Bytes of all blobs and of what is on its way in."""
    max_serving: int = 16
    """Answers under way at once; further requests get `busy`."""
    max_serving_per_peer: int = 6
    """So that three slow members do not hold all of them."""
    max_kept_per_peer: int = 5 * 1024**3
    """Bytes of blobs that one member may have pushed here."""
    shut_out: Callable[[PeerId], bool] = lambda peer: False
    """True for a member that lost all its roles: it gets sealed blobs alone."""


@attrs.define
class BlobCounters(FetchCounters):
    stored: int = 0
    stored_bytes: int = 0
    served_bytes: int = 0
    refused_busy: int = 0
    refused_peers: int = 0
    """Streams that ended because of what the peer did."""
    kept: int = 0
    """Blobs that members pushed here."""


class BlobServing:
    """`sizes` are those of the blobs that are here; `keep` takes in a blob that a peer pushes, or gives up. `serves`
    says whether a peer may have a blob."""

    _log = Logger()

    def __init__(
        self,
        context: FetchContext,
        counters: BlobCounters,
        store: Store,
        sizes: Mapping[str, int],
        limits: BlobLimits,
        keep: Callable[[PeerId, KeepRequest | DropRequest], Awaitable[Status]],
        serves: Callable[[PeerId, str], bool],
    ) -> None:
        self._context = context
        self._serves = serves
        self._keep = keep
        self._counters = counters
        self._store = store
        self._sizes = sizes
        self._limits = limits
        self._serving: Counter[PeerId] = Counter()
        self._streams: set[StreamIO] = set()

    def stop(self) -> None:
        for io in list(self._streams):
            io.reset()

    def stream_opened(self, stream: Stream) -> None:
        io = StreamIO(stream, self._context.clock, timeout=WRITE_S)
        self._streams.add(io)
        Deferred.fromCoroutine(self._serve(io)).addBoth(self._served, io)

    def _served(self, result: object, io: StreamIO) -> None:
        self._streams.discard(io)
        problem = getattr(result, "value", None)
        if problem is None:
            io.close()
            return
        io.reset(problem if isinstance(problem, ChorusError) else None)
        if isinstance(problem, PeerError):
            self._counters.refused_peers += 1
            self._log.info(
                "blob stream of {peer} refused: {problem}",
                peer=str(io.stream.connection.peer_id),
                problem=str(problem),
            )
        elif not isinstance(problem, ChorusError):
            self._log.failure("internal error in serving a blob", cast("Any", result))
        elif not isinstance(problem, StreamClosed):
            self._log.error("a blob could not be served: {problem}", problem=str(problem))

    async def _serve(self, io: StreamIO) -> None:
        while True:
            try:
                request = decode_request(await io.read_delimited(MAX_REQUEST, timeout=IDLE_S))
            except EndOfStream:
                return
            except UnknownRequest:
                await io.write_delimited(Answer("bad").encode())
                continue
            peer = io.stream.connection.peer_id
            if isinstance(request, KeepRequest | DropRequest):
                # To keep is to fetch from that very peer, so it takes no place that the same peer may need for that.
                await io.write_delimited(Answer(await self._keep(peer, request)).encode())
                continue
            if not self._serves(peer, request.sha256):
                await io.write_delimited(Answer("unknown").encode())
                continue
            serving, limits = self._serving, self._limits
            if serving.total() >= limits.max_serving or serving[peer] >= limits.max_serving_per_peer:
                self._counters.refused_busy += 1
                await io.write_delimited(Answer("busy").encode())
                continue
            serving[peer] += 1
            try:
                await self._answer(io, request)
            finally:
                serving[peer] -= 1
                if not serving[peer]:
                    del serving[peer]

    async def _answer(self, io: StreamIO, request: Request) -> None:
        if isinstance(request, ManifestRequest):
            await self._send_manifest(io, request)
        elif isinstance(request, ChunksRequest):
            await self._send_chunks(io, request)
        elif isinstance(request, HaveRequest):
            await self._send_have(io, request)

    async def _manifest(self, sha256: str) -> bytes | None:
        if sha256 not in self._sizes:
            return None
        return await self._store.read(lambda connection: table.manifest(connection, sha256))

    async def _send_have(self, io: StreamIO, request: HaveRequest) -> None:
        found, download = await self._manifest(request.sha256), self._context.underway.get(request.sha256)
        if found is not None:
            count = chunk_count(self._sizes.get(request.sha256, 0))
            have = Have.of(hashlib.sha256(found).digest(), range(count), count).encode()
        elif download is not None:
            manifest = download.manifest
            have = Have.of(bytes.fromhex(manifest.digest), download.present, len(manifest.chunks)).encode()
        else:
            await io.write_delimited(Answer("unknown").encode())
            return
        await io.write_delimited(Answer("ok", len(have)).encode())
        await io.write(have)

    async def _send_manifest(self, io: StreamIO, request: ManifestRequest) -> None:
        found = await self._manifest(request.sha256)
        if found is None:
            await io.write_delimited(Answer("unknown").encode())
            return
        await io.write_delimited(Answer("ok", len(found)).encode())
        for start in range(0, len(found), CHUNK):
            await io.write(found[start : start + CHUNK])

    async def _send_chunks(self, io: StreamIO, request: ChunksRequest) -> None:
        known = self._sizes.get(request.sha256)
        if known is None:
            await self._send_from_partial(io, request)
            return
        if request.first + request.count > chunk_count(known):
            await io.write_delimited(Answer("bad").encode())
            return
        file = await self._open_to_serve(request.sha256, known)
        if file is None:
            await io.write_delimited(Answer("unknown").encode())
            return
        try:
            offset = request.first * CHUNK
            end = min(known, offset + request.count * CHUNK)
            await io.write_delimited(Answer("ok", end - offset).encode())
            while offset < end:
                length = min(CHUNK, end - offset)
                data = await self._context.offload(lambda o=offset, n=length: os.pread(file.fileno(), n, o))  # type: ignore[misc]
                if len(data) != length:
                    raise BlobStoreUnavailable(f"blob {request.sha256} became shorter")
                await io.write(data)
                offset += length
                self._counters.served_bytes += length
        finally:
            file.close()

    async def _send_from_partial(self, io: StreamIO, request: ChunksRequest) -> None:
        """Chunks of a blob that is still on its way here."""
        download = self._context.underway.get(request.sha256)
        wanted = range(request.first, request.first + request.count)
        if download is None or not download.present.issuperset(wanted):
            await io.write_delimited(Answer("unknown").encode())
            return
        await io.write_delimited(Answer("ok", download.manifest.span(request.first, request.count)).encode())
        for index in wanted:
            data = await self._context.offload(lambda index=index: download.read(index))  # type: ignore[misc]
            await io.write(data)
            self._counters.served_bytes += len(data)

    async def _open_to_serve(self, sha256: str, size: int) -> IO[bytes] | None:
        """None when the file is not what was stored: others must not take us for a liar."""
        try:
            file, found = await self._context.offload(lambda: open_sized(self._context.files.path(sha256)))
        except OSError as problem:
            self._log.error("blob {sha256} cannot be read: {problem}", sha256=sha256, problem=str(problem))
            return None
        if found == size:
            return file
        file.close()
        self._log.error("blob {sha256} has lost bytes", event="blob.lost", sha256=sha256, size=size, found=found)
        return None


def open_sized(path: Path) -> tuple[IO[bytes], int]:
    file = open(path, "rb", buffering=0)  # noqa: SIM115
    return file, os.fstat(file.fileno()).st_size
