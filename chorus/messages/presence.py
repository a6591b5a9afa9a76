"""Presence, capabilities and roles of nodes (spec/system.md 2)."""

from __future__ import annotations

from chorus.fields import OneOf, Text, field
from chorus.fields.members import COUNT, FLAG, MAX_NAME, NAME, NAMES, PEER, TIME
from chorus.messages.payload import Payload, payload
from chorus.messages.topics import COORDINATION

START = Text(342, 1, "[A-Za-z0-9_-]+", "a record of at most 256 bytes in base64url")
"""256 bytes, as in identify, in base64url."""
STATUS = OneOf(("ready", "working", "busy"))


@payload(COORDINATION)
class AvailabilityBcast(Payload):
    """How much a node has to do. Sent every 30 s and when it changes."""

    node_id: str = field(PEER, "Peer id of the sender.")
    available_for_work: bool = field(FLAG, "Whether it takes another task now.")
    current_tasks: int = field(COUNT, "Tasks running on it.")
    max_tasks: int = field(COUNT, "Tasks it runs at once, at most.")
    last_activity: int = field(TIME, "When a task last began or ended there.")
    status: str = field(STATUS, "`ready`: no task; `working`: some; `busy`: at the maximum.")
    timestamp: int = field(TIME, "When this was so.")
    start: str | None = field(
        START, "Signed record of the sender's start, by which a copy of its data directory is found out.", default=None
    )


@payload(COORDINATION)
class CapabilityBcast(Payload):
    """A node's capabilities. Sent at start, every 5 min, when it changes, and to newcomers."""

    agent_id: str = field(NAME, "Name of the agent.")
    node_id: str = field(PEER, "Peer id of the sender.")
    version: str = field(Text(MAX_NAME), "Version of its software.")
    capabilities: tuple[str, ...] = field(NAMES, "What it has: `gpu`, `docker`, …")
    expertise: tuple[str, ...] = field(NAMES, "What it knows: `python`, `networking`, …")
    models: tuple[str, ...] = field(NAMES, "AI models it offers.")
    specialization: str = field(Text(MAX_NAME), "What it does best.")
    max_tasks: int = field(COUNT, "Tasks it runs at once, at most.")
    current_tasks: int = field(COUNT, "Tasks running on it.")
    timestamp: int = field(TIME, "When this was so.")
    availability: str = field(STATUS, "As `status` of AvailabilityBcast.")


@payload(COORDINATION)
class RoleAnnouncement(Payload):
    """The role a node takes. Sent when a role is set, when it changes, and with the capabilities."""

    agent_id: str = field(NAME, "Name of the agent.")
    node_id: str = field(PEER, "Peer id of the sender.")
    role: str = field(NAME, "`developer`, `reviewer`, …")
    expertise: tuple[str, ...] = field(NAMES, "What it knows.")
    capabilities: tuple[str, ...] = field(NAMES, "What it has.")
    reports_to: str | None = field(NAME, "Agent id of its supervisor.", default=None)
    specialization: str = field(Text(MAX_NAME), "What it does best.")
    timestamp: int = field(TIME, "When this was so.")
