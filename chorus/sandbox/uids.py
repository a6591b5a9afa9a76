"""A user of its own for each task of a root agent.

The kernel counts processes, inotify and epoll watches, pending signals and keys by user, over all sandboxes of a
machine: tasks that shared one would use each other's share up. Blocking, but only on /run.
"""

from __future__ import annotations

import fcntl
import os
import pwd
from collections.abc import Callable, Iterable
from io import FileIO
from pathlib import Path

import attrs

from chorus.sandbox.contract import SandboxUnavailable
from chorus.sandbox.files import volumes

PUMP_UID = 64199
"""Of the process that keeps a container's output: a task can neither stop it nor write its files."""

TASK_UIDS = range(64200, 64712)
"""Users that tasks run as, on the host: more than a machine runs tasks at once. Outside of what Debian gives to users
and containers (policy 9.2.2 leaves 60000-64999 to packages, and none has these), below 65536, so that a container of
an ordinary size has them too. One that the machine knows by a name (a dynamic user of systemd) is passed over."""

LOCKS = Path("/run/chorus-sandbox/uids")
"""A file for each uid in use, locked by the agent whose task has it: several agents may run on a machine, and a lock
goes with the process that holds it, however that ends."""


@attrs.define
class Uid:
    """A uid that no other task has until it is released."""

    number: int
    _lock: FileIO | None = None
    """Closed with the last reference too: a run that went wrong keeps no uid."""

    @property
    def owner(self) -> tuple[int, int]:
        """uid and gid of the task's files."""
        return self.number, self.number

    def release(self) -> None:
        """Idempotent."""
        if self._lock is not None:
            self._lock.close()


def is_known(number: int) -> bool:
    """True if the machine has a user of this number already."""
    try:
        pwd.getpwuid(number)
    except KeyError:
        return False
    return True


class Uids:
    """Hands out the lowest free uid. Safe among threads and among agents."""

    def __init__(
        self, folder: Path = LOCKS, numbers: Iterable[int] = TASK_UIDS, known: Callable[[int], bool] = is_known
    ) -> None:
        self._folder = folder
        self._numbers = tuple(numbers)
        self._known = known

    def take(self) -> Uid:
        """Raises `SandboxUnavailable` when none is free, or the locks cannot be made."""
        for number in self._numbers:
            lock = self._locked(number)
            if lock is not None:
                if not self._known(number):
                    return Uid(number, lock)
                lock.close()
        raise SandboxUnavailable(f"all {len(self._numbers)} users for tasks are in use on this machine")

    def hold(self, number: int) -> Uid:
        """The uid of a task that is taken over. If another task has it by now, they share it."""
        return Uid(number, self._locked(number) if number in self._numbers else None)

    def _locked(self, number: int) -> FileIO | None:
        path = self._folder / str(number)
        try:
            volumes.make_folder(self._folder.parent, 0o711, exist_ok=True)
            volumes.make_folder(self._folder, 0o700, exist_ok=True)
            file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "rb+")
        except OSError as error:
            raise SandboxUnavailable(f"{path} cannot be made: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if isinstance(error, BlockingIOError):
                return None
            raise SandboxUnavailable(f"{path} cannot be locked: {error.strerror}") from None
        return file
