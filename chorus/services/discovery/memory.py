"""Members remembered across restarts, in a file that is a hint: a damaged one is ignored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from chorus import strictjson
from chorus.errors import ChorusError
from chorus.files import DataDirectoryError, read_private, write_private
from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.services.discovery.bootstrap import MAX_MEMBERS, Target
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.seams import JSON
    from chorus.services.discovery.settings import InThread

MEMORY = "peers.json"
MAX_MEMORY = 2 * 1024 * 1024
"""Bytes: `MAX_MEMBERS` with a record and addresses each."""
SAVE_AFTER = 5.0
"""Seconds from a change to the write that remembers it."""


class MemberMemory:
    """`members` gives those to remember, the latest last; without a `path` nothing is kept."""

    _log = Logger()

    def __init__(
        self, path: Path | None, clock: IReactorTime, in_thread: InThread, members: Callable[[], list[Target]]
    ) -> None:
        self._path = path
        self._in_thread = in_thread
        self._members = members
        self._timer = Timer(clock, self._save)
        self._saving: Deferred[None] = succeed(None)

    def exists(self) -> bool:
        """The file is written as soon as there is a member to remember, and stays when that one is forgotten."""
        return self._path is not None and self._path.exists()

    def load(self) -> list[tuple[PeerId, list[Multiaddr]]]:
        if self._path is None:
            return []
        try:
            encoded = read_private(self._path, MAX_MEMORY)
            if encoded is None:
                return []
            rows = cast("Any", strictjson.loads(encoded, max_bytes=MAX_MEMORY))["peers"]
            return [
                (PeerId.parse(row["peer"]), [Multiaddr.parse(text) for text in row["addresses"]])
                for row in rows[-MAX_MEMBERS:]
            ]
        except (ChorusError, ValueError, KeyError, TypeError, AttributeError, DataDirectoryError) as error:
            self._log.warn("{file} is ignored: {error}", file=str(self._path), error=error)
            return []

    def save_later(self) -> None:
        if self._path is not None and not self._timer.armed:
            self._timer.arm(SAVE_AFTER)

    def stop(self) -> Deferred[None]:
        """Fires once all is written."""
        if self._timer.armed:
            self._timer.cancel()
            self._save()
        return self._saving

    def _save(self) -> None:
        path = self._path
        assert path is not None
        rows: list[JSON] = [
            {"peer": str(target.peer), "addresses": [str(address) for address in target.addresses]}
            for target in self._members()[-MAX_MEMBERS:]
            if target.addresses
        ]
        content = strictjson.canonical({"version": 1, "peers": rows})
        self._saving.addCallback(lambda _: self._in_thread(lambda: write_private(path, content)))
        self._saving.addErrback(
            lambda failure: self._log.warn("members are not remembered: {error}", error=failure.value)
        )
