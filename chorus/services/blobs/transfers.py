"""Fetches under way: callers for the same blob share one, and only so many run at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.logger import Logger

from chorus.errors import ChorusError
from chorus.protocols.blobs import is_blob_id
from chorus.services.blobs.fetch import Fetch, FetchContext, UnknownBlob
from chorus.services.blobs.sharing import SharedFetch, detached

if TYPE_CHECKING:
    from chorus.identity import PeerId
    from chorus.services.blobs.files import Partial

MAX_FETCHES = 8
"""Blobs fetched at once; further ones wait their turn."""


class Shelf(Protocol):
    """The blobs of the node, as fetches need them."""

    def here(self, sha256: str, limit: int) -> Path | None:
        """The file of a blob that is here. Raises `BlobTooLarge` over the limit."""

    async def keep_partial(self, partial: Partial) -> None:
        """Make a verified file a blob."""


class Transfers:
    """`wall` gives Unix seconds."""

    _log = Logger()

    def __init__(self, context: FetchContext, shelf: Shelf, wall: Callable[[], float]) -> None:
        self._context = context
        self._shelf = shelf
        self._wall = wall
        self.running: dict[str, SharedFetch] = {}
        self._slots = DeferredSemaphore(MAX_FETCHES)

    def stop(self) -> None:
        for fetch in list(self.running.values()):
            fetch.cancel()

    async def fetch(self, sha256: str, limit: int, holders: Sequence[PeerId]) -> Path:
        while (path := self._shelf.here(sha256, limit)) is None:
            shared = self.running.get(sha256)
            if shared is None:
                running = Deferred.fromCoroutine(self._run(sha256, limit, holders))
                shared = SharedFetch(running, limit, holders, lambda: self.running.pop(sha256, None))
                if not shared.done:
                    self.running[sha256] = shared
                return await shared.wait()
            if shared.covers(limit, holders):
                return await shared.wait()
            try:
                await shared.wait()
            except ChorusError:
                # It asked others, or under another limit.
                continue
        return path

    async def _run(self, sha256: str, limit: int, holders: Sequence[PeerId]) -> Path:
        if not is_blob_id(sha256):
            raise UnknownBlob(sha256[:64])
        await self._slots.acquire()
        fetch = Fetch(self._context, sha256, limit, holders)
        try:
            partial = await fetch.run()
            # Complete and verified: from here on it is kept even if nobody waits for it any more.
            await detached(self._shelf.keep_partial(partial))
        except ChorusError:
            await self._prune(sha256)
            raise
        finally:
            self._context.reserve(-fetch.reserved)
            self._slots.release()
        return self._context.files.path(sha256)

    async def _prune(self, failed: str) -> None:
        now, underway = self._wall(), set(self.running) - {failed}
        try:
            await self._context.offload(lambda: self._context.files.prune_partials(now, underway))
        except ChorusError as problem:
            self._log.warn("interrupted fetches could not be pruned: {problem}", problem=str(problem))
