"""Asks single peers to keep a blob, or which of them has it whole."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger

from chorus.errors import ChorusError
from chorus.protocols.blobs import (
    MAX_ANSWER,
    PROTOCOL,
    Answer,
    DropRequest,
    Have,
    HaveRequest,
    KeepRequest,
    chunk_count,
    have_length,
)
from chorus.protocols.streamio import StreamIO
from chorus.services.blobs.sharing import BlobLock

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import PeerId
    from chorus.protocols.stream import Host

ASK_S = 5.0
MAX_PUSHES = 8
"""Blobs on their way to others at once, over all peers; each of them takes one at once from one node."""
WAIT_S = 30.0
"""For the blobs that go to the same peer before: 7 MiB at the slowest. Then another peer is asked."""
ANSWER_S = 10.0
"""More than the asked node gives itself, so that its answer arrives."""


class Pushing:
    """`pushed` and `refusals` (by the word of the answer, or `unreachable`) only grow."""

    _log = Logger()

    def __init__(self, host: Host, clock: IReactorTime) -> None:
        self._host = host
        self._clock = clock
        self._slots = DeferredSemaphore(MAX_PUSHES)
        self._turns: dict[str, BlobLock] = {}
        """By peer."""
        self.pushed = 0
        self.refusals: Counter[str] = Counter()

    async def push(self, peer: PeerId, sha256: str, size: int) -> bool:
        """True once it is durable and pinned there."""
        turn = self._turns.setdefault(str(peer), BlobLock(str(peer), self._turns))
        try:
            await Deferred.fromCoroutine(turn.__aenter__()).addTimeout(WAIT_S, self._clock)
        except DeferredTimeout:
            self.refusals["busy"] += 1
            return False
        try:
            return await self._push(peer, KeepRequest(sha256, size))
        finally:
            await turn.__aexit__()

    async def _push(self, peer: PeerId, request: KeepRequest) -> bool:
        await self._slots.acquire()
        try:
            io = await self._open(peer, request.limit_s + ANSWER_S)
            try:
                await io.write_delimited(request.encode())
                status = Answer.decode(await io.read_delimited(MAX_ANSWER)).status
            finally:
                io.reset()
        except ChorusError as problem:
            self.refusals["unreachable"] += 1
            self._log.debug("{peer} could not take a blob: {problem}", peer=str(peer), problem=str(problem))
            return False
        finally:
            self._slots.release()
        if status != "ok":
            self.refusals[status] += 1
            return False
        self.pushed += 1
        return True

    async def drop(self, peer: PeerId, sha256: str) -> None:
        """Tell it that this node needs the blob no longer; one that is not reached keeps it."""
        try:
            io = await self._open(peer, ASK_S)
            try:
                await io.write_delimited(DropRequest(sha256).encode())
                await io.read_delimited(MAX_ANSWER)
            finally:
                io.reset()
        except ChorusError as problem:
            self._log.debug("{peer} was not told of a blob: {problem}", peer=str(peer), problem=str(problem))

    async def has(self, peer: PeerId, sha256: str, size: int) -> bool:
        """True if it says that it has all of a blob of `size` bytes."""
        count = chunk_count(size)
        try:
            io = await self._open(peer, ASK_S)
            try:
                await io.write_delimited(HaveRequest(sha256).encode())
                answer = Answer.decode(await io.read_delimited(MAX_ANSWER))
                if answer.status != "ok" or answer.length != have_length(count):
                    return False
                return Have.decode(await io.read_exactly(answer.length), count).whole(count)
            finally:
                io.reset()
        except ChorusError:
            return False

    async def _open(self, peer: PeerId, within: float) -> StreamIO:
        stream = await self._host.open_stream(peer, [PROTOCOL])
        return StreamIO(stream, self._clock, timeout=within)
