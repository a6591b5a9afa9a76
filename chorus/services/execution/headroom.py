"""The node's room for another task: space on the disk of its data directory, descriptors, a whole store.

Without it the node goes on with what it has and takes nothing new: what runs can still record how it ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.application.service import Service
from twisted.logger import Logger

from chorus import descriptors
from chorus.timer import Periodic

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

DISK_RESERVE = 64 * 1024 * 1024
"""Bytes that stay free for the journal, its log and the results of what runs already."""
INODE_RESERVE = 1000
"""The same for files."""
RESERVE_SHARE = 20
"""A reserve is at most this part (1/n) of the whole, so that a small disk can be used."""
LOOK_S = 2.0
"""Between two looks: other nodes hear of a change within this time."""

Obstacle = tuple[str, str]
"""(reason to decline, one line for a person)"""


def disk_trouble(found: os.statvfs_result, where: str) -> str | None:
    """One line when the reserve is touched, else None. A count of files of 0 means that there is no such limit."""
    free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    reserve = min(DISK_RESERVE, size // RESERVE_SHARE)
    if free < reserve:
        return f"{where} has {free >> 20} MiB free of {size >> 20}, less than the reserve of {reserve >> 20} MiB"
    if found.f_files and found.f_favail < min(INODE_RESERVE, found.f_files // RESERVE_SHARE):
        return f"{where} can take {found.f_favail} more files, too few for a task"
    return None


class Headroom(Service):
    """`changed` is called when the answer of `blocked_by` becomes another."""

    _log = Logger()
    name = "headroom"

    def __init__(
        self, directory: Path, clock: IReactorTime, damage: Callable[[], str | None], changed: Callable[[], None]
    ) -> None:
        self._directory = directory
        self._damage = damage
        self._changed = changed
        self._looks = Periodic(clock, "looking for room", self._look, lambda: LOOK_S)
        self._last: str | None = None

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._looks.run()

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        self._looks.stop()

    def disk(self) -> str | None:
        """For the health check `disk`."""
        try:
            return disk_trouble(os.statvfs(self._directory), str(self._directory))
        except OSError as error:
            return f"{self._directory}: {error.strerror}"

    def blocked_by(self) -> Obstacle | None:
        """The reason why no new task is taken now."""
        for reason, look in (
            ("store_damaged", self._damage),
            ("no_disk", self.disk),
            ("no_descriptors", descriptors.trouble),
        ):
            if (line := look()) is not None:
                return reason, line
        return None

    def _look(self) -> None:
        found = self.blocked_by()
        reason = None if found is None else found[0]
        if reason == self._last:
            return
        self._last = reason
        if found is not None:
            self._log.warn("no new tasks: {detail}", event="headroom.lost", reason=reason, detail=found[1])
        else:
            self._log.info("new tasks are taken again", event="headroom.regained")
        self._changed()
