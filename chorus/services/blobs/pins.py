"""Pinned blobs, which are not removed, and sealed ones: in memory as in the store.

A pin counts from the moment it is asked for, before it is durable, so that no removal comes between; one that is taken
away counts until its row is gone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import attrs

from chorus.store import pins as table
from chorus.store.pins import Pin, PinQuota

if TYPE_CHECKING:
    from chorus.store.database import Store

PUSHED = "pushed"
"""Reason of the pins that other members asked for."""


class Pins:
    """`wall` gives Unix seconds. `sha256 in pins` is true for a blob that must stay."""

    def __init__(self, store: Store, wall: Callable[[], float]) -> None:
        self._store = store
        self._wall = wall
        self._until: dict[str, dict[tuple[str, str], float | None]] = {}
        """By blob, then by (reason, peer)."""
        self._sealed: set[str] = set()
        self._pushed: dict[str, int] = {}
        """Bytes of each blob that another member has pinned."""
        self._pushed_bytes = 0
        self._watchers: list[Callable[[str], None]] = []

    async def load(self) -> None:
        """Read the store; before anything else."""
        now = self._wall()
        for pin in await self._store.write(lambda connection: table.every(connection, now)):
            self._until.setdefault(pin.sha256, {})[pin.reason, pin.by] = pin.until
            self._count(pin)
        self._sealed.update(await self._store.read(table.sealed))

    def __contains__(self, sha256: object) -> bool:
        now = self._wall()
        return any(end is None or end > now for end in self._until.get(sha256, {}).values())  # type: ignore[call-overload]

    def pushed_beside(self, sha256: str) -> int:
        """Bytes that other members have pinned here, each blob once, without this one."""
        return self._pushed_bytes - self._pushed.get(sha256, 0)

    def lasting(self, sha256: str, reason: str, by: str) -> bool:
        """True if this very pin has no end."""
        return self._until.get(sha256, {}).get((reason, by), 0.0) is None

    def is_sealed(self, sha256: str) -> bool:
        return sha256 in self._sealed

    def kept_up(self) -> Iterator[str]:
        """Sealed blobs that have a pin without an end: those that must stay on several machines."""
        return filter(self.is_kept_up, list(self._until))

    def is_kept_up(self, sha256: str) -> bool:
        return sha256 in self._sealed and None in self._until.get(sha256, {}).values()

    def watch(self, changed: Callable[[str], None]) -> None:
        """Call `changed` with the id after each durable pin without an end, and after one got an end or the last was
        taken away."""
        self._watchers.append(changed)

    async def put(self, pin: Pin, quota: PinQuota | None = None, *, sealed: bool = False) -> bool:
        """Durable when it returns. False where the peer's quota refuses it, asked in the same transaction."""
        key = (pin.reason, pin.by)
        ends = self._until.setdefault(pin.sha256, {})
        before, had = ends.get(key), key in ends
        if had and before is None:
            pin = attrs.evolve(pin, until=None)
        ends[key] = pin.until
        self._count(pin)
        now, done = self._wall(), False

        def work(connection: sqlite3.Connection) -> bool:
            if not table.put(connection, pin, now, quota):
                return False
            if sealed:
                table.mark_sealed(connection, pin.sha256)
            return True

        try:
            done = await self._store.write(work)
        finally:
            if not done:
                self._restore(pin.sha256, key, before, had=had)
        if done and sealed:
            self._sealed.add(pin.sha256)
        if done and pin.until is None:
            self._tell(pin.sha256)
        return done

    async def end(self, sha256: str, reason: str, by: str, until: float) -> None:
        """Give a pin that is there an end."""
        await self._store.write(lambda connection: table.end(connection, sha256, reason, by, until))
        if (reason, by) in self._until.get(sha256, {}):
            self._until[sha256][reason, by] = until
            self._tell(sha256)

    def ended(self) -> list[tuple[str, str]]:
        """Blob and peer of each pushed pin that has ended."""
        now = self._wall()
        return [
            (sha256, by)
            for sha256, ends in self._until.items()
            for (reason, by), end in ends.items()
            if reason == PUSHED and end is not None and end <= now
        ]

    async def drop(self, sha256: str, reason: str, by: str | None = None) -> None:
        """Whoever asked for it, or only the one `by` that peer."""
        await self._store.write(lambda connection: table.drop(connection, sha256, reason, by))
        ends = self._until.get(sha256, {})
        for key in [key for key in ends if key[0] == reason and by in (None, key[1])]:
            del ends[key]
        self._uncount(sha256)
        if not ends:
            self._until.pop(sha256, None)
            self._tell(sha256)

    async def mark_sealed(self, sha256: str) -> None:
        await self._store.write(lambda connection: table.mark_sealed(connection, sha256))
        self._sealed.add(sha256)

    def removed(self, sha256: str) -> None:
        """The blob and its mark are gone."""
        self._sealed.discard(sha256)

    def _restore(self, sha256: str, key: tuple[str, str], before: float | None, *, had: bool) -> None:
        ends = self._until.setdefault(sha256, {})
        if had:
            ends[key] = before
        else:
            ends.pop(key, None)
        self._uncount(sha256)
        if not ends:
            self._until.pop(sha256, None)

    def _count(self, pin: Pin) -> None:
        if pin.by and pin.sha256 not in self._pushed:
            self._pushed[pin.sha256] = pin.size
            self._pushed_bytes += pin.size

    def _uncount(self, sha256: str) -> None:
        if not any(by for _, by in self._until.get(sha256, {})):
            self._pushed_bytes -= self._pushed.pop(sha256, 0)

    def _tell(self, sha256: str) -> None:
        for changed in self._watchers:
            changed(sha256)
