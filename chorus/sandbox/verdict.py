"""Decides the reason of a run's end from what was measured (pure)."""

from __future__ import annotations

import signal

import attrs

from chorus.tasks.terms import Limits, Reason

TIMEOUT_EXIT = 124
"""Exit code of `timeout` when the time was up; 137 when it had to kill."""

GRACE_S = 2.0
"""Between TERM and KILL at the time limit (`timeout -k`)."""

HOST_GRACE_S = 3.0
"""The host's own limit lies this far above the inner one and its grace."""

FLOOD_FACTOR = 64
"""A stream that writes this many times its cap is not a task with much to say: it is stopped (`output`), since every
further byte is only thrown away."""

PIDS_PATIENCE_S = 2.0
"""How long a task may keep asking for processes over its limit before it is taken for a fork bomb and stopped."""

PIDS_PAUSE_S = 1.0
"""A pause of asking that begins the patience anew."""


@attrs.define
class ForkBomb:
    """Tells a task that meets its limit of processes once from one that lives on meeting it."""

    _refused: int = 0
    _since: float = 0.0
    _last: float = float("-inf")

    def seen(self, refused: int, now: float) -> bool:
        """`refused` is the kernel's counter at `now` (seconds of any clock); True when it is a bomb."""
        if refused <= self._refused:
            return False
        self._refused = refused
        if now - self._last > PIDS_PAUSE_S:
            self._since = now
        self._last = now
        return now - self._since > PIDS_PATIENCE_S


@attrs.frozen
class Facts:
    """Observations of a run that is over."""

    exit_code: int | None
    """Of the last command; 128 + n for signal n; None when nothing ran or nobody knows."""
    elapsed_s: float
    stopped: Reason | None = None
    """Why this agent killed it, if it did."""
    stopped_detail: str = ""
    oom_kills: int = 0
    memory_peak: float = 0.0
    """Of the limit, where only polling watches it."""
    pids_refused: int = 0
    pids_full: bool = False
    """At the limit when the commands ended."""
    disk_full: bool = False
    memory_full: str = ""
    """The file system in memory that was full when a command failed."""


def verdict(facts: Facts, limits: Limits) -> tuple[Reason, str]:
    """The reason and one line for a person."""
    if facts.stopped is not None:
        return facts.stopped, facts.stopped_detail or _STOPPED.get(facts.stopped, "stopped by the agent")
    code = facts.exit_code
    if code in (TIMEOUT_EXIT, 128 + signal.SIGKILL) and facts.elapsed_s >= limits.timeout_s:
        return Reason.TIMEOUT, f"the time limit of {limits.timeout_s:g} s was reached"
    if code == 0:
        if facts.pids_refused and facts.pids_full:
            return Reason.PIDS, f"it left {limits.pids} processes behind, the limit, and asked for more"
        return Reason.EXIT, "the commands succeeded"
    if facts.oom_kills or facts.memory_peak >= 0.75:
        return Reason.OOM, f"out of memory (limit {limits.memory_mb} MB)"
    if facts.disk_full or code == 128 + signal.SIGXFSZ:
        return Reason.DISK, f"the disk was full (limit {limits.disk_mb} MB)"
    if facts.memory_full:
        of = "CHORUS_TASK_TMP_MB of the agent sets its size" if facts.memory_full == "/tmp" else "its size is fixed"
        return Reason.DISK, f"{facts.memory_full} was full (it is memory; {of})"
    if facts.pids_refused:
        return Reason.PIDS, f"more than {limits.pids} processes were asked for"
    return Reason.EXIT, describe_exit(code)


_STOPPED = {
    Reason.CANCELLED: "cancelled",
    Reason.TIMEOUT: "the time limit was reached and the processes did not end",
    Reason.LEASE_LOST: "the lease of this agent ended",
    Reason.OUTPUT: "it wrote far more output than is kept",
}


def describe_exit(code: int | None) -> str:
    """One phrase for an exit code."""
    if code is None:
        return "no command was run to its end"
    if code == 127:
        return "exit code 127 (command not found)"
    if code == 126:
        return "exit code 126 (command cannot be run)"
    if code > 128:
        try:
            return f"exit code {code} (killed by {signal.Signals(code - 128).name})"
        except ValueError:
            pass
    return f"exit code {code}"
