"""Councils: teams that WHOOSH puts together for a project (spec/system.md 18)."""

from __future__ import annotations

from chorus.fields import field
from chorus.fields.members import ADDRESS, ID, NAME, NAMES, PEERS, SCORE, TIME, TITLE
from chorus.messages.payload import Payload, payload
from chorus.messages.topics import COORDINATION, EXPERTISE, PROJECT, ROLE


@payload(COORDINATION, ROLE, EXPERTISE, PROJECT)
class CouncilOpportunity(Payload):
    """A council is being put together. Bridged from WHOOSH by the node that got it."""

    council_id: str = field(ID, "The council.")
    title: str = field(TITLE, "What it is for.")
    roles: tuple[str, ...] = field(NAMES, "Roles that are open.")
    expertise: tuple[str, ...] = field(NAMES, "What its members should know.", default=())
    brief: str | None = field(ADDRESS, "Where its brief was published.", default=None)
    closes: int | None = field(TIME, "When roles are given out no more.", default=None)


@payload(COORDINATION, ROLE, EXPERTISE, PROJECT)
class CouncilClaim(Payload):
    """An agent would take a role in a council."""

    council_id: str = field(ID, "The council.")
    agent_id: str = field(NAME, "Name of the agent.")
    role: str = field(NAME, "The role that it would take.")
    score: int = field(SCORE, "How well it fits, by the agent's own reckoning.")


@payload(COORDINATION, ROLE, PROJECT)
class CouncilBrief(Payload):
    """A council is complete and has its brief, which becomes a task."""

    council_id: str = field(ID, "The council.")
    title: str = field(TITLE, "What it is for.")
    brief: str = field(ADDRESS, "Where the brief was published.")
    members: tuple[str, ...] = field(PEERS, "Peer ids of its members.")
    task_id: str | None = field(ID, "The task that the brief became.", default=None)
