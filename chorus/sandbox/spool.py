"""A stream of a task's output: stored in a file up to its cap, forwarded live with offsets, counted beyond the cap."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from chorus.sandbox.contract import OutputSink
from chorus.tasks.terms import StreamName

PIECE = 64 * 1024
"""Most bytes handed to a sink at once."""

TURN = 8 * PIECE
"""Most bytes taken from one stream in one turn of the reactor, so that one loud task does not starve the rest."""


class PipeSpool:
    """Written by this process from a pipe (bubblewrap)."""

    def __init__(self, name: StreamName, path: Path, cap: int, sink: OutputSink) -> None:
        self.name = name
        self._cap = cap
        self._sink = sink
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self.kept = 0
        self.discarded = 0
        self.failed: OSError | None = None
        """Why nothing more is kept: the disk did not take it."""

    def write(self, data: bytes) -> None:
        if self.failed is not None:
            return
        keep = data[: max(self._cap - self.kept, 0)]
        self.discarded += len(data) - len(keep)
        if not keep:
            return
        written = 0
        try:
            while written < len(keep):
                written += os.write(self._fd, keep[written:] if written else keep)
        except OSError as error:
            # Never to the caller, which is the reactor: it would stop reading, and the task would die of its pipe.
            self.failed = error
        offset, self.kept = self.kept, self.kept + written
        if written:
            self._sink(self.name, offset, keep[:written])

    @property
    def full(self) -> bool:
        return self.kept >= self._cap or self.failed is not None

    @property
    def truncated(self) -> bool:
        return self.discarded > 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Tail:
    """Read from a file that somebody else writes (the pump in a container), from an offset on."""

    def __init__(self, name: StreamName, path: Path, cap: int, sink: OutputSink, start: int = 0) -> None:
        self.name = name
        self._path = path
        self._cap = cap
        self._sink = sink
        self._fd = -1
        self.kept = start
        self.truncated = False
        """Set by whoever knows it."""

    def poll(self) -> int:
        """Hand on what is new, up to `TURN` bytes; how many that were."""
        if self._fd < 0:
            self._open()
        got = 0
        # A sink may close this (it may detach the run), so that is looked at every time.
        while got < TURN and self.kept < self._cap and self._fd >= 0:
            data = os.pread(self._fd, min(PIECE, self._cap - self.kept), self.kept)
            if not data:
                break
            offset, self.kept = self.kept, self.kept + len(data)
            got += len(data)
            self._sink(self.name, offset, data)
        return got

    def _open(self) -> None:
        # Where the agent is no root, a task has the pump's user and may put anything in its place: a link, or a pipe
        # that would hold up whoever opens it. Then there is no output.
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        if stat.S_ISREG(os.fstat(fd).st_mode):
            self._fd = fd
        else:
            os.close(fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
