"""Readers on the reactor for file descriptors that are no Twisted transports: output pipes and pidfds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from chorus.sandbox.spool import PIECE, PipeSpool

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorFDSet

DISCARD = 1 << 20
"""Bytes thrown away in one turn once a stream is past its cap."""


@implementer(IReadDescriptor)
class _Descriptor:
    _log = Logger()

    def __init__(self, reactor: IReactorFDSet, fd: int) -> None:
        self._reactor: Any = reactor
        self._fd = fd
        os.set_blocking(fd, False)
        reactor.addReader(self)

    def fileno(self) -> int:
        return self._fd

    def logPrefix(self) -> str:
        return type(self).__name__

    def doRead(self) -> None:
        raise NotImplementedError

    def connectionLost(self, reason: Failure) -> None:
        self._log.error("reader stopped: {reason}", reason=reason.getErrorMessage())
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            self._reactor.removeReader(self)
            os.close(self._fd)
            self._fd = -1


class Pipe(_Descriptor):
    """Feeds one stream of a task into its spool. Past the cap nothing is copied any more: the kernel throws it away."""

    def __init__(self, reactor: IReactorFDSet, fd: int, spool: PipeSpool, changed: Callable[[], None]) -> None:
        self._spool = spool
        self._changed = changed
        self._null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        self.at_end = False
        super().__init__(reactor, fd)

    def doRead(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if not self._spool.full:
                data = os.read(self._fd, PIECE)
                if data:
                    self._spool.write(data)
                    if self._spool.failed is not None:
                        self._changed()
                else:
                    self._end()
            elif thrown := os.splice(self._fd, self._null, DISCARD):
                self._spool.discarded += thrown
                self._changed()
            else:
                self._end()

    def drain(self) -> None:
        """Take what is in the pipe now; for when its writers are dead."""
        for _ in range(64):
            if self.at_end or self._fd < 0:
                return
            self.doRead()

    def _end(self) -> None:
        self.at_end = True
        self.close()
        self._changed()

    def close(self) -> None:
        super().close()
        if self._null >= 0:
            os.close(self._null)
            self._null = -1


class Exit(_Descriptor):
    """Calls back once when a process has ended."""

    def __init__(self, reactor: IReactorFDSet, pid: int, ended: Callable[[], None]) -> None:
        self._ended = ended
        super().__init__(reactor, os.pidfd_open(pid))

    def doRead(self) -> None:
        self.close()
        self._ended()
