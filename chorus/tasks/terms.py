"""The words of a task's run: its streams, its limits, and the reasons for which it ends (pure)."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import attrs

StreamName = Literal["stdout", "stderr"]


class Reason(StrEnum):
    """Why a run (or a task) ended; the API's words."""

    EXIT = "exit"
    TIMEOUT = "timeout"
    OOM = "oom"
    PIDS = "pids"
    DISK = "disk"
    OUTPUT = "output"
    CANCELLED = "cancelled"
    SANDBOX_UNAVAILABLE = "sandbox_unavailable"
    IMAGE_MISSING = "image_missing"
    LEASE_LOST = "lease_lost"
    REFUSED = "refused"
    DEPENDENCY_FAILED = "dependency_failed"


INFRASTRUCTURE = frozenset({Reason.SANDBOX_UNAVAILABLE, Reason.IMAGE_MISSING, Reason.LEASE_LOST})
"""Failures of the machine, not of the task: it moves elsewhere instead of ending."""

FINAL = frozenset({Reason.EXIT, Reason.TIMEOUT, Reason.OOM, Reason.PIDS, Reason.DISK, Reason.OUTPUT})
"""Ends that are the task's own: what it left behind is wanted."""


@attrs.frozen
class Limits:
    """Per task; every field has a default and a configured maximum."""

    cpu: float = 1.0
    """Cores."""
    memory_mb: int = 1024
    pids: int = 256
    disk_mb: int = 1024
    """Of `/workspace/data` and `/workspace/output` together."""
    timeout_s: float = 600.0
    """Wall time of all commands together."""
    output_mb: int = 16
    """Of each of stdout and stderr, then cut (the task goes on and the result says so)."""
