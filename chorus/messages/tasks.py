"""Tasks: offered, claimed, under way, done. For observers only: the journal of the scheduler decides."""

from __future__ import annotations

from chorus.fields import Integer, OneOf, Text, field
from chorus.fields.members import ADDRESS, COUNT, FLAG, ID, NAME, NAMES, PEER, PERCENT, SCORE, SHA256, TEXT, TIME, TITLE
from chorus.messages.payload import Payload, payload
from chorus.messages.topics import EXPERTISE, ISSUE, PROJECT, REPORTS, ROLE, TASKS

EXIT_CODE = Integer(-(2**31), 2**32)
"""Of any engine and system: signed, or unsigned in 32 bits."""


@payload(TASKS, ROLE, EXPERTISE, PROJECT, ISSUE)
class TaskAnnouncement(Payload):
    """A task looks for somebody to do it. The envelope says for whom (`to_roles`, `required_expertise`)."""

    task_id: str = field(ID, "The task.")
    title: str = field(TITLE, "One line about it.")
    specification: str = field(SHA256, "The blob that holds the whole specification, which is too long for a message.")
    capabilities: tuple[str, ...] = field(NAMES, "What its agent must have.", default=())
    context: str | None = field(ADDRESS, "Where what one should know about it was published.", default=None)
    deadline: int | None = field(TIME, "When it is needed.", default=None)


@payload(TASKS, ROLE, EXPERTISE, PROJECT, ISSUE)
class TaskClaim(Payload):
    """An agent would do an announced task. The scheduler answers with an offer on a stream, or not at all."""

    task_id: str = field(ID, "The task.")
    agent_id: str = field(NAME, "Name of the agent.")
    score: int = field(SCORE, "How well it fits, by the agent's own reckoning.")
    starts_at: int | None = field(TIME, "When the agent could begin; missing: at once.", default=None)


@payload(TASKS, PROJECT, ISSUE)
class TaskUpdate(Payload):
    """A task changed its state, says its scheduler."""

    task_id: str = field(ID, "The task.")
    state: str = field(
        OneOf(
            ("queued", "submitted", "assigned", "preparing", "running", "completed", "failed", "cancelled", "refused")
        ),
        "Its new state.",
    )
    attempt: int = field(COUNT, "Attempts so far.")
    title: str = field(TITLE, "One line about it.", default="")
    reason: str | None = field(NAME, "Why, in a word: `exit`, `timeout`, …", default=None)
    detail: str | None = field(TEXT, "Why, in a sentence.", default=None)
    agent: str | None = field(PEER, "Peer id of the agent.", default=None)
    agent_id: str | None = field(NAME, "Name of the agent.", default=None)
    fence: str | None = field(ID, "Fencing token of the attempt.", default=None)
    sandbox: str | None = field(NAME, "Kind of sandbox it runs in.", default=None)
    image: str | None = field(Text(512), "Container image it runs in.", default=None)
    exit_code: int | None = field(EXIT_CODE, "Of the command that ended it.", default=None)
    timestamp: int = field(TIME, "When it changed.")


@payload(TASKS, REPORTS, PROJECT, ISSUE)
class TaskProgress(Payload):
    """How far a running task is, says its agent."""

    task_id: str = field(ID, "The task.")
    attempt: int = field(COUNT, "The attempt that this is about.")
    phase: str = field(NAME, "What it is doing: `cloning`, `testing`, …")
    percent: int | None = field(PERCENT, "How much is done, where that is known.", default=None)
    note: str = field(TEXT, "A sentence for whoever looks on.", default="")


@payload(TASKS, REPORTS, PROJECT, ISSUE)
class TaskResult(Payload):
    """Result of a task, from its agent: the summary, and where the rest was published."""

    task_id: str = field(ID, "The task.")
    attempt: int = field(COUNT, "The attempt that this is about.")
    success: bool = field(FLAG, "Whether it did what it should.")
    exit_code: int | None = field(EXIT_CODE, "Of the command that ended it.", default=None)
    summary: str = field(TEXT, "What was done, in a sentence or two.", default="")
    artifacts: int = field(COUNT, "Files that it left.", default=0)
    decision: str | None = field(ADDRESS, "Where the record of it was published.", default=None)
