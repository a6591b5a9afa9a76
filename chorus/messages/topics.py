"""Topics of messages: the six that every node joins, and those that are made from names.

A topic that is made from a name has one spelling: Unicode's NFKC with case folded, then percent-encoded (RFC 3986)
except for `A-Z a-z 0-9 - . _ ~`, so that a name never holds a slash. `Developer` and `developer` are one role.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, unquote

import attrs

from chorus.errors import UserError

COORDINATION: Final = "chorus/coordination/v1"
META_DISCUSSION: Final = "hmmm/meta-discussion/v1"
ELECTION: Final = "chorus/election/v1"
DECISIONS: Final = "chorus/decisions"
HEALTH: Final = "chorus/health"
TASKS: Final = "chorus/tasks"

ROLE: Final = "chorus/role/{role}"
EXPERTISE: Final = "chorus/expertise/{expertise}"
REPORTS: Final = "chorus/reports/{supervisor}"
PROJECT: Final = "chorus/project/{project}"
ISSUE: Final = "chorus/project/{project}/issue/{issue}"

STATIC: Final[dict[str, str]] = {
    COORDINATION: "who is there, what it can and does; help, coordination and councils",
    META_DISCUSSION: "reasoning together about a question (HMMM)",
    ELECTION: "who is admin, who stands; news, for votes and leases travel on streams",
    DECISIONS: "addresses of published decisions and contexts, and votes on them",
    HEALTH: "how nodes are",
    TASKS: "tasks that are offered, claimed, under way and done",
}
"""Every node takes part in these."""

DYNAMIC: Final[dict[str, str]] = {
    ROLE: "agents of one role",
    EXPERTISE: "agents of one field of expertise",
    REPORTS: "an agent and those who report to it",
    PROJECT: "whoever works on a project",
    ISSUE: "whoever works on one issue of a project",
}
"""By profile (role, expertise, reports), or while something needs them (project, issue)."""

MAX_VARIABLE: Final = 160
"""Bytes of a name in a topic, encoded: any configured name (64 bytes) and any project of a task (128 bytes of ASCII,
whose slashes take three each) fit."""

MAX_ISSUE: Final = 64
"""Bytes of an issue, encoded. With the longest project the topic has 246 bytes of the 256 that pub/sub allows."""

MAX_PROFILE_TOPICS: Final = 32
"""Topics by profile: its first 29 fields of expertise and more."""

MAX_JOINED_TOPICS: Final = 32
"""Topics joined on demand. With those by profile and the static ones 70 of the 100 subscriptions that peers allow."""


class BadTopic(UserError):
    """A name that makes no topic, or a topic that is not in this plan."""

    code = "bad_topic"


class TooManyTopics(UserError):
    """`MAX_JOINED_TOPICS` are joined already."""

    code = "too_many_topics"


def canonical(name: str, maximum: int = MAX_VARIABLE) -> str:
    """The one spelling of a name in a topic. Raises `BadTopic`."""
    folded = unicodedata.normalize("NFKC", name.strip()).casefold()
    try:
        spelt = quote(unicodedata.normalize("NFKC", folded).strip(), safe="")
    except UnicodeEncodeError:
        raise BadTopic("a name in a topic must be text") from None
    if not 1 <= len(spelt) <= maximum:
        raise BadTopic(f"a name in a topic has 1 to {maximum} bytes once encoded, {name[:64]!r} has {len(spelt)}")
    return spelt


def role_topic(role: str) -> str:
    return ROLE.format(role=canonical(role))


def expertise_topic(expertise: str) -> str:
    return EXPERTISE.format(expertise=canonical(expertise))


def reports_topic(supervisor: str) -> str:
    return REPORTS.format(supervisor=canonical(supervisor))


def project_topic(project: str) -> str:
    return PROJECT.format(project=canonical(project))


def issue_topic(project: str, issue: str) -> str:
    return ISSUE.format(project=canonical(project), issue=canonical(issue, MAX_ISSUE))


def pattern_of(topic: str) -> str | None:
    """The static topic itself, or the pattern of `DYNAMIC` that `topic` follows to the letter; None: neither."""
    if topic in STATIC:
        return topic
    match topic.split("/"):
        case ["chorus", ("role" | "expertise" | "reports" | "project") as kind, name] if _canonical(name):
            return {"role": ROLE, "expertise": EXPERTISE, "reports": REPORTS, "project": PROJECT}[kind]
        case ["chorus", "project", name, "issue", issue] if _canonical(name) and _canonical(issue, MAX_ISSUE):
            return ISSUE
    return None


def _canonical(spelt: str, maximum: int = MAX_VARIABLE) -> bool:
    try:
        return canonical(unquote(spelt, errors="strict"), maximum) == spelt
    except (BadTopic, UnicodeDecodeError):
        return False


@attrs.frozen
class ProfileTopics:
    topics: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Names that make no topic, or are over `MAX_PROFILE_TOPICS`."""


def profile_topics(
    *, role: str | None, expertise: Iterable[str] = (), reports_to: str | None = None, agent_id: str | None = None
) -> ProfileTopics:
    """The topics that an agent of this profile takes part in besides the static ones: none without a role
    (spec/system.md 6). `agent_id` adds the topic of those who report to it."""
    if role is None:
        return ProfileTopics()
    wanted = [(role_topic, role), (reports_topic, reports_to), (reports_topic, agent_id)]
    wanted += [(expertise_topic, word) for word in expertise]
    topics: dict[str, None] = {}
    left_out: list[str] = []
    for make, name in wanted:
        if name is None:
            continue
        try:
            topic = make(name)
        except BadTopic:
            left_out.append(name)
            continue
        if topic in topics or len(topics) < MAX_PROFILE_TOPICS:
            topics[topic] = None
        else:
            left_out.append(name)
    return ProfileTopics(tuple(topics), tuple(left_out))
