"""Health of nodes (spec/system.md 19)."""

from __future__ import annotations

from chorus.fields import OneOf, Text, field
from chorus.fields.members import COUNT, FLAG, MAX_NAME, NAMES, SECONDS
from chorus.messages.payload import Payload, payload
from chorus.messages.topics import HEALTH


@payload(HEALTH)
class HealthReport(Payload):
    """Findings of a node's own checks."""

    status: str = field(
        OneOf(("healthy", "degraded", "unhealthy")), "`degraded`: checks fail, none of them a critical one."
    )
    ready: bool = field(FLAG, "Whether it would take a task now.")
    failing: tuple[str, ...] = field(NAMES, "Checks that fail.", default=())
    peers: int = field(COUNT, "Members connected to it.")
    current_tasks: int = field(COUNT, "Tasks running on it.")
    max_tasks: int = field(COUNT, "Tasks it runs at once, at most.")
    uptime: int = field(SECONDS, "Since its start.")
    version: str = field(Text(MAX_NAME), "Version of its software.")
