"""What a task may use, as the configuration says it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.tasks.terms import Limits

if TYPE_CHECKING:
    from chorus.config.settings import Settings

NAMES = ("cpu", "memory_mb", "pids", "disk_mb", "timeout_s", "output_mb")


def task_limits(settings: Settings) -> tuple[Limits, Limits]:
    """(default, maximum) of what a task gets."""

    def limits(suffix: str) -> Limits:
        return Limits(**{name: getattr(settings, f"task_{name}{suffix}") for name in NAMES})

    return limits(""), limits("_max")
