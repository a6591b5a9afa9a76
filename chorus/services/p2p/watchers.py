"""Watchers of peers that join and leave. One that fails is logged, and the others are called all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.logger import Logger

from chorus.protocols.stream import Connection
from chorus.services.p2p.link import Link

Watcher = Callable[[Connection], None]


class Watchers:
    """Called once when a connection is admitted and identified, and once when it leaves after that."""

    _log = Logger()

    def __init__(self) -> None:
        self._watchers: list[tuple[Watcher, Watcher]] = []

    def add(self, joined: Watcher, left: Watcher, present: Iterable[Link]) -> None:
        """Add a watcher; it is called at once for the peers that are there already."""
        self._watchers.append((joined, left))
        for link in present:
            if link.announced:
                self._call(joined, link)

    def join(self, link: Link) -> None:
        """An admitted connection. Watchers are not called before identify, or again."""
        if link.announced or link.identification is None:
            return
        link.announced = True
        for joined, _ in self._watchers:
            self._call(joined, link)

    def leave(self, link: Link) -> None:
        if not link.announced:
            return
        link.announced = False
        for _, left in self._watchers:
            self._call(left, link)

    def _call(self, watcher: Watcher, link: Link) -> None:
        try:
            watcher(link.connection)
        except Exception:
            self._log.failure("a watcher of peers failed")
