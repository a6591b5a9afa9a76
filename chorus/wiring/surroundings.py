"""Settings, reactor, clocks, entropy and data directory."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from chorus.tasks.terms import Limits

if TYPE_CHECKING:
    from chorus.config.settings import Settings

MIB = 1024 * 1024
LIMITED = ("cpu", "memory_mb", "pids", "disk_mb", "timeout_s", "output_mb")


@attrs.frozen
class Surroundings:
    """Shared by all parts of a node. The one place where a node says which clock and which randomness it has."""

    settings: Settings
    reactor: Any
    path: Path
    """The data directory, held by this process before any part is built."""
    wall: Callable[[], float]
    """Unix seconds, for dates alone."""
    wall_ns: Callable[[], int]
    random_bytes: Callable[[int], bytes]
    """So many bytes for keys, nonces and ids."""
    rng: random.Random
    """For choices and jitter, shared by all parts."""
    last_ports: Mapping[str, int] = attrs.field(factory=dict)
    """Of the last start here, by name."""

    def last_port(self, name: str) -> int:
        """The port to try first where the settings ask for any port; 0 when there is none, or another part has it."""
        settings, port = self.settings, self.last_ports.get(name, 0)
        return 0 if port in (settings.p2p_port, settings.api_port, settings.health_port) else port


def task_limits(settings: Settings) -> tuple[Limits, Limits]:
    """(default, maximum) of what a task gets."""

    def limits(suffix: str) -> Limits:
        return Limits(**{name: getattr(settings, f"task_{name}{suffix}") for name in LIMITED})

    return limits(""), limits("_max")
