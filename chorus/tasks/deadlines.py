"""How long an agent may hold one attempt, as its scheduler reckons (pure).

The agent kills a run at the task's time limit itself; this is for one that does not, or that renews its lease and does
nothing. So the margins are wide: they cost nothing where the agent is honest, and an honest one that is slow must not
lose its work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from chorus.tasks.spec import WIDEST_LIMITS

if TYPE_CHECKING:
    from chorus.seams import JSON

PREPARE_S = 120.0
"""From the assignment to the first command, apart from the input: a busy engine, a cold image, many small files."""
INPUT_BYTES_S = 256 * 1024
"""Bytes of the input fetched and unpacked a second, on a slow line."""
COLLECT_S = 60.0
"""From the end of the last command to the result, apart from what it left."""
COLLECT_BYTES_S = 4 * 1024 * 1024
"""Bytes of artifacts and output copied, hashed and made durable a second, on a slow disk."""


def attempt_limit(spec: Mapping[str, JSON], input_bytes: int) -> float:
    """Seconds from the assignment to the result; `spec` as `TaskSpec.to_json`. The time limit is for all commands
    together."""
    time = _limit(spec, "timeout_s", WIDEST_LIMITS.timeout_s)
    return PREPARE_S + input_bytes / INPUT_BYTES_S + time + collection_limit(spec)


def collection_limit(spec: Mapping[str, JSON]) -> float:
    """Seconds from a kill to what the killed run left."""
    kept_mb = _limit(spec, "disk_mb", WIDEST_LIMITS.disk_mb) + 2 * _limit(spec, "output_mb", WIDEST_LIMITS.output_mb)
    return COLLECT_S + kept_mb * 1024 * 1024 / COLLECT_BYTES_S


def limit_of(spec: Mapping[str, JSON], name: str) -> float | None:
    """A limit as `spec` names it; None where it names none."""
    limits = spec.get("limits")
    value = limits.get(name) if isinstance(limits, dict) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _limit(spec: Mapping[str, JSON], name: str, widest: float) -> float:
    value = limit_of(spec, name)
    return widest if value is None else float(value)
