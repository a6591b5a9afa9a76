"""Asking for help and for experts, and reasoning together: HMMM (spec/system.md 12).

A question may be asked on by others, each time with one hop fewer, so that it dies out even where they form a ring. The
thread is in the envelope (`thread`); a message without one begins a thread that is named by its own id.
"""

from __future__ import annotations

from chorus.fields import OneOf, field
from chorus.fields.members import ADDRESS, ADDRESSES, FLAG, HOPS, ID, NAME, NAMES, PEERS, PERCENT, SAID, TEXT, TIME
from chorus.messages.payload import Payload, payload
from chorus.messages.topics import COORDINATION, EXPERTISE, ISSUE, META_DISCUSSION, PROJECT, REPORTS, ROLE


@payload(META_DISCUSSION, ROLE, EXPERTISE, REPORTS, PROJECT, ISSUE)
class HelpRequest(Payload):
    """An agent does not get on with something."""

    request_id: str = field(ID, "Named again by each answer.")
    question: str = field(SAID, "What it needs to know.")
    task_id: str | None = field(ID, "The task that waits for it.", default=None)
    contexts: tuple[str, ...] = field(ADDRESSES, "Where what one should know was published.", default=())
    hops: int = field(HOPS, "How many more times it may be asked on.")
    deadline: int | None = field(TIME, "When an answer is of no use any more.", default=None)


@payload(META_DISCUSSION, ROLE, EXPERTISE, REPORTS, PROJECT, ISSUE)
class HelpResponse(Payload):
    """An answer to a HelpRequest."""

    request_id: str = field(ID, "The request that it answers.")
    answer: str = field(SAID, "What the sender knows about it.")
    confidence: int | None = field(PERCENT, "How sure the sender is.", default=None)
    contexts: tuple[str, ...] = field(ADDRESSES, "Where more was published.", default=())


@payload(COORDINATION, ROLE, EXPERTISE, PROJECT, ISSUE)
class ExpertiseRequest(Payload):
    """Somebody is looked for who knows a field: to review, to advise, to teach."""

    request_id: str = field(ID, "Named again by each answer.")
    expertise: tuple[str, ...] = field(NAMES, "What they should know.")
    purpose: str = field(OneOf(("review", "advice", "mentoring", "takeover")), "What they are wanted for.")
    reason: str = field(TEXT, "Why, in a sentence or two.", default="")
    task_id: str | None = field(ID, "The task that it is about.", default=None)
    deadline: int | None = field(TIME, "When an answer is of no use any more.", default=None)


@payload(COORDINATION, ROLE, EXPERTISE, PROJECT, ISSUE)
class ExpertiseResponse(Payload):
    """An agent that knows the field says so."""

    request_id: str = field(ID, "The request that it answers.")
    agent_id: str = field(NAME, "Name of the agent.")
    expertise: tuple[str, ...] = field(NAMES, "What it knows of what was asked for.")
    level: str = field(OneOf(("familiar", "proficient", "expert")), "How well.")
    available: bool = field(FLAG, "Whether it has the time.")


@payload(META_DISCUSSION, ROLE, EXPERTISE, PROJECT, ISSUE)
class MetaDiscussion(Payload):
    """One step of reasoning together in a thread."""

    kind: str = field(
        OneOf(("proposal", "question", "answer", "objection", "agreement", "consensus")),
        "`consensus` ends a thread; all others go on.",
    )
    statement: str = field(SAID, "What is said.")
    reply_to: str | None = field(ID, "Id of the message that this is about.", default=None)
    supporters: tuple[str, ...] = field(PEERS, "Peer ids of those who agreed, for a consensus.", default=())
    decision: str | None = field(ADDRESS, "Where the consensus was published.", default=None)
    contexts: tuple[str, ...] = field(ADDRESSES, "Where what one should know was published.", default=())
    hops: int = field(HOPS, "How many more times it may be taken to another topic.")
