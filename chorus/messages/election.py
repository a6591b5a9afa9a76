"""Elections and the admin (spec/system.md 7, spec/election.md): information alone. Votes, leases and their proofs
travel on streams, and nothing published here gives or takes an office.
"""

from __future__ import annotations

from chorus.fields import OneOf, field
from chorus.fields.members import COUNT, ID, PEER, SCORE, SECONDS, SERIAL, TIME
from chorus.messages.payload import Payload, payload
from chorus.messages.topics import ELECTION

TRIGGER = OneOf(("no_admin", "heartbeat_timeout", "split_brain", "better_candidate", "manual"))


@payload(ELECTION)
class WhoIsAdmin(Payload):
    """A node looks for the admin."""

    query_id: str = field(ID, "Named again by the answer.")
    epoch: int = field(SERIAL, "The last epoch that it knows of.", default=0)
    term: int = field(SERIAL, "The last term that it knows of.", default=0)


@payload(ELECTION)
class IAmAdmin(Payload):
    """The admin says who it is: asked, and in its first broadcast after an election."""

    node_id: str = field(PEER, "Peer id of the sender.")
    query_id: str | None = field(ID, "The question that it answers.", default=None)
    epoch: int = field(SERIAL, "Of its office.")
    term: int = field(SERIAL, "Of its office.")
    since: int = field(TIME, "When it was elected.")


@payload(ELECTION)
class ElectionPresence(Payload):
    """A node that takes part in elections is there."""

    node_id: str = field(PEER, "Peer id of the sender.")
    uptime: int = field(SECONDS, "Since its start.")
    load: int = field(SCORE, "How much of what it can run is running: 1000 is all.")


@payload(ELECTION)
class Candidacy(Payload):
    """A node stands. The score says who stands first, never who may win."""

    node_id: str = field(PEER, "Peer id of the sender.")
    epoch: int = field(SERIAL, "The epoch that it stands in.")
    term: int = field(SERIAL, "The term that it stands for.")
    trigger: str = field(TRIGGER, "Why there is an election.")
    score: int = field(SCORE, "Its score, weighted from the five that follow.")
    uptime: int = field(SCORE, "How long it has been there.")
    capabilities: int = field(SCORE, "What it can.")
    resources: int = field(SCORE, "Free processor, memory and disk.")
    network: int = field(SCORE, "Loss and delay to the electorate.")
    experience: int = field(SCORE, "Time in office before.")


@payload(ELECTION)
class ElectionResult(Payload):
    """An election is over, or the admin left its office."""

    epoch: int = field(SERIAL, "Of the office.")
    term: int = field(SERIAL, "Of the office.")
    admin: str | None = field(PEER, "Peer id of the admin; missing: there is none now.", default=None)
    previous: str | None = field(PEER, "Peer id of the one before.", default=None)
    trigger: str = field(TRIGGER, "Why there was an election.")
    votes: int = field(COUNT, "Votes that the admin got.")
    voters: int = field(COUNT, "Voters of the roster.")
