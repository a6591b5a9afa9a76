"""Coordination across tasks and repositories, and what people are asked to settle (spec/system.md 12, 17)."""

from __future__ import annotations

from chorus.fields import OneOf, field
from chorus.fields.members import ADDRESS, ADDRESSES, COUNT, ID, IDS, NAME, NAMES, PEERS, PERCENT, SAID, TEXT, TIME
from chorus.messages.payload import Payload, payload
from chorus.messages.topics import COORDINATION, ISSUE, META_DISCUSSION, PROJECT, REPORTS, ROLE

RULE = OneOf(("api_contract", "database_schema", "configuration", "security", "detected"))
"""The four built-in rules, and what the AI detector found."""


@payload(COORDINATION, PROJECT, ISSUE)
class DependencyAlert(Payload):
    """Two tasks touch the same thing, perhaps in different repositories."""

    task_id: str = field(ID, "The task that something depends on.")
    dependent_tasks: tuple[str, ...] = field(IDS, "The tasks that depend on it.")
    projects: tuple[str, ...] = field(NAMES, "The projects they belong to.", default=())
    rule: str = field(RULE, "What saw it.")
    confidence: int = field(PERCENT, "How sure that is.")
    description: str = field(SAID, "What they have in common.")


@payload(COORDINATION, PROJECT, ISSUE)
class CoordinationRequest(Payload):
    """A session of the agents concerned begins; it is held as MetaDiscussion in the thread named by `session_id`."""

    session_id: str = field(ID, "The session.")
    participants: tuple[str, ...] = field(PEERS, "Peer ids of the agents concerned.")
    tasks: tuple[str, ...] = field(IDS, "The tasks concerned.")
    rule: str = field(RULE, "What saw that it is needed.")
    subject: str = field(SAID, "What has to be settled.")
    contexts: tuple[str, ...] = field(ADDRESSES, "Where what one should know was published.", default=())
    deadline: int | None = field(TIME, "When it is escalated unless it has converged.", default=None)


@payload(COORDINATION, PROJECT, ISSUE)
class CoordinationComplete(Payload):
    """A session has ended."""

    session_id: str = field(ID, "The session.")
    outcome: str = field(OneOf(("agreed", "escalated", "abandoned", "expired")), "How it ended.")
    summary: str = field(TEXT, "What was settled.", default="")
    rounds: int = field(COUNT, "Rounds of statements that it took.")
    decision: str | None = field(ADDRESS, "Where the agreement was published.", default=None)


@payload(COORDINATION, META_DISCUSSION, ROLE, REPORTS, PROJECT, ISSUE)
class Escalation(Payload):
    """Agents cannot settle something: a supervisor or a person should."""

    escalation_id: str = field(ID, "Named again by the answer.")
    cause: str = field(
        OneOf(("no_consensus", "no_answer", "conflict", "failure", "approval", "security")), "Why it came to this."
    )
    severity: str = field(OneOf(("low", "medium", "high", "critical")), "How bad it is to wait.")
    question: str = field(SAID, "What has to be settled.")
    options: tuple[str, ...] = field(NAMES, "Answers to choose from, where there are some.", default=())
    task_id: str | None = field(ID, "The task that waits for it.", default=None)
    session_id: str | None = field(ID, "The session that did not converge.", default=None)
    contexts: tuple[str, ...] = field(ADDRESSES, "Where what one should know was published.", default=())


@payload(COORDINATION, META_DISCUSSION, ROLE, REPORTS, PROJECT, ISSUE)
class EscalationAnswer(Payload):
    """A supervisor or a person has settled an escalation."""

    escalation_id: str = field(ID, "The escalation that it answers.")
    verdict: str = field(OneOf(("approved", "declined", "overridden", "guided")), "What was settled.")
    guidance: str = field(TEXT, "How to go on.", default="")
    person: str | None = field(NAME, "Who settled it, where it was a person.", default=None)
    decision: str | None = field(ADDRESS, "Where that was published.", default=None)
