"""Typed messages over pub/sub: redacted and published, validated and dispatched by type."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

import attrs
from twisted.logger import Logger

from chorus.messages import (
    MAX_TEXT,
    MAX_TITLE,
    TASKS,
    BadEnvelope,
    Envelope,
    ForeignSender,
    Payload,
    TaskUpdate,
    UnknownType,
    cut,
    decode,
    encode,
    may_be_said,
    redacted,
)
from chorus.messages.clocks import Clocks
from chorus.messages.hearing import Hearing, Room
from chorus.messages.rates import MAX_AGE, OWN, cost
from chorus.messages.topics import MAX_JOINED_TOPICS, STATIC, BadTopic, TooManyTopics, pattern_of
from chorus.protocols.gossipsub.events import Validation
from chorus.seams import MembersMayAll

if TYPE_CHECKING:
    from chorus.identity import PeerId
    from chorus.seams import Document, Redactor, Roles
    from chorus.services.pubsub.service import PubSubService
    from chorus.services.pubsub.topics import Received

MAX_COUNTED_TYPES: Final = 64
"""Unknown types counted by name; what comes after is counted together under `other`."""

Heard = Callable[[Envelope, "Received"], None]


@attrs.define
class MessageCounters:
    sent: int = 0
    heard: int = 0
    refused: int = 0
    """Not an envelope, or a payload that is not what its type says."""
    foreign: int = 0
    """Envelopes in the name of another node than the one that signed them."""
    strangers: int = 0
    """Messages of authors that are no members."""
    misplaced: int = 0
    """Messages on a topic where their type does not belong."""
    flooded: int = 0
    """Messages beyond what `chorus.messages.rates` lets a publisher send, or a peer pass on."""
    stale: int = 0
    """Messages whose own time is too far from ours."""
    held_back: int = 0
    """News of our own that was not published, for the same reason."""
    unknown: dict[str, int] = attrs.field(factory=dict)
    """By type: from newer versions; passed on, not understood."""


class Messaging:
    """Publishes and receives `chorus.messages` payloads.

    `wall` is Unix seconds, `random` gives that many random bytes (message ids), `role` is the role we speak in;
    `roles` decides membership. Every text of a payload passes the redactor before it is sent.
    """

    _log = Logger()

    def __init__(
        self,
        pubsub: PubSubService,
        peer_id: PeerId,
        *,
        redactor: Redactor,
        wall: Callable[[], float],
        random: Callable[[int], bytes],
        role: Callable[[], str | None] = lambda: None,
        roles: Roles | None = None,
    ) -> None:
        self.peer_id = peer_id
        self.counters = MessageCounters()
        self._hearing = Hearing()
        self._clocks = Clocks()
        pubsub.set_application_score(self._overdraft)
        self._pubsub = pubsub
        self._redactor = redactor
        self._wall = wall
        self._random = random
        self._role = role
        self._roles: Roles = roles or MembersMayAll()
        self._heard: dict[str, list[Heard]] = {}
        self._standing: frozenset[str] = frozenset()
        """Topics of `take_part`."""
        self._joined: dict[str, int] = {}
        """Topics of `join`, and how many want each."""
        self._leave: dict[str, Callable[[], None]] = {}
        self._last: tuple[bytes, Envelope | UnknownType | None] = (b"", None)
        """The message that was validated last, and what it is: it is usually the one delivered next."""

    def now(self) -> int:
        """Unix seconds, as they stand in payloads."""
        return int(self._wall())

    def wrong_clocks(self) -> str | None:
        """Peers whose messages are ignored since their clock or ours is wrong, in one line; None without any."""
        return self._clocks.line(self._pubsub.seconds())

    # Topics

    def topics(self) -> list[str]:
        """Topics that we take part in."""
        return sorted(self._leave)

    def take_part(self, topics: Iterable[str]) -> None:
        """Take part in exactly these topics, besides those that are joined: messages are checked and forwarded even
        where nobody listens. Raises `BadTopic`."""
        before, self._standing = self._standing, frozenset(map(_known, topics))
        for topic in sorted(before ^ self._standing):
            self._adjust(topic)

    def join(self, topic: str) -> None:
        """Take part in a topic as well, until `leave` was called as often.

        Raises `BadTopic`, and `TooManyTopics` past `MAX_JOINED_TOPICS`.
        """
        if _known(topic) not in self._joined and topic not in STATIC:
            count = sum(other not in STATIC for other in self._joined)
            if count >= MAX_JOINED_TOPICS:
                raise TooManyTopics(f"{count} topics are joined already, which is the most")
        self._joined[topic] = self._joined.get(topic, 0) + 1
        self._adjust(topic)

    def leave(self, topic: str) -> None:
        """Take `join` back once. More often is no error."""
        count = self._joined.pop(topic, 0) - 1
        if count > 0:
            self._joined[topic] = count
        self._adjust(topic)

    def _adjust(self, topic: str) -> None:
        wanted = topic in self._standing or topic in self._joined
        if wanted and topic not in self._leave:
            self._leave[topic] = self._pubsub.subscribe(topic, self._deliver, self._validate)
        elif not wanted and topic in self._leave:
            self._leave.pop(topic)()

    # Messages

    def listen(self, payload: type[Payload], heard: Heard) -> None:
        """Call `heard` with each message of a type, on any of our topics; the static ones
        of its topics are joined."""
        self._heard.setdefault(payload.TYPE, []).append(heard)
        for topic in payload.TOPICS:
            if topic in STATIC:
                self.join(topic)

    def say(self, payload: Payload, *, topic: str | None = None, **members: Any) -> None:
        """Publish a payload on the first topic of its type, or on another one of them, be it joined or not. `members`
        are further ones of `Envelope`.

        Raises `BadEnvelope` for a payload that every other node would refuse, `BadTopic` for a topic that is not one
        of its type.
        """
        topic = topic or payload.TOPICS[0]
        if not may_be_said(payload, topic):
            raise BadTopic(f"{payload.TYPE} is not published on {topic}")
        envelope = Envelope(
            type=payload.TYPE,
            id=base64.urlsafe_b64encode(self._random(12)).decode(),
            sender=str(self.peer_id),
            from_role=self._role(),
            timestamp=self.now(),
            data=payload,
            **members,
        )
        envelope = redacted(envelope, lambda text: self._redactor.redact(text, context=f"pubsub.{payload.TYPE}").value)
        raw = encode(envelope)
        self._pubsub.publish(topic, raw)
        me = self.peer_id.raw
        self._hearing.take(me, me, cost(len(raw)), self._pubsub.seconds(), connected=True)
        self.counters.sent += 1

    def announce_task(self, document: Document) -> None:
        """Publish on `chorus/tasks` that a task changed: the members of `TaskUpdate` are taken from `document`.

        Never fails: an error is logged. After so many messages that others would begin to take them for a flood, news
        is held back: the journal has it, and our other messages must get through.
        """
        if self._hearing.own(self.peer_id.raw, self._pubsub.seconds()) < OWN.burst / 2:
            self.counters.held_back += 1
            return
        try:
            known = {
                attribute.name: document[attribute.name]
                for attribute in attrs.fields(TaskUpdate)
                if attribute.name in document
            }
            known["title"] = cut(str(known.get("title") or ""), MAX_TITLE)
            if known.get("detail") is not None:
                known["detail"] = cut(str(known["detail"]), MAX_TEXT)
            known.setdefault("timestamp", self.now())
            self.say(TaskUpdate(**known))  # type: ignore[arg-type]
        except Exception:
            self._log.failure("a task could not be announced on {topic}", topic=TASKS)

    # Received

    def _validate(self, received: Received) -> Validation:
        """The verdict on a message of a topic where we take part.

        Nonsense is rejected: the peer that passed it on should have seen it. Messages of strangers and on the wrong
        topic are ignored, which keeps them from spreading but blames nobody: a neighbour may know other members and
        rules for a while (news of an exclusion on its way, a newer version). So are those of a publisher of too many,
        which pays for it itself (`_overdraft`). Those that its relay alone sends too many of are not lost: another
        peer's copy may find room. Unknown types are accepted, for the nodes that know them.
        """
        self._last = (received.id, None)
        if not self._roles.is_member(str(received.from_peer)):
            self.counters.strangers += 1
            return Validation.IGNORE
        now, author, tokens = self._pubsub.seconds(), received.from_peer, cost(len(received.data))
        source = received.source or author
        connected = source == author or self._pubsub.is_connected(author)
        # First of all: what there is no room for costs no more than its signature.
        room = self._hearing.room(author.raw, source.raw, tokens, now, connected=connected)
        if room is not Room.FREE:
            self.counters.flooded += 1
            return Validation.THROTTLE if room is Room.RELAY else Validation.IGNORE
        said: Envelope | UnknownType
        try:
            said = decode(received.data, author)
        except UnknownType as error:
            said = error
        except ForeignSender:
            self.counters.foreign += 1
            return Validation.REJECT
        except BadEnvelope:
            self.counters.refused += 1
            return Validation.REJECT
        ahead = said.timestamp - self.now()
        if abs(ahead) > MAX_AGE:
            self.counters.stale += 1
            if source == author:
                self._clocks.ignored(str(author), ahead, now)
            return Validation.IGNORE
        if source == author:
            self._clocks.heard(str(author))
        self._hearing.take(author.raw, source.raw, tokens, now, connected=connected)
        if isinstance(said, Envelope) and not may_be_said(said.data, received.topic):
            self.counters.misplaced += 1
            return Validation.IGNORE
        self._last = (received.id, said)
        return Validation.ACCEPT

    def _overdraft(self, peer: bytes) -> float:
        """P5: a publisher of too many messages loses score, until it has been quiet for long enough."""
        return min(0.0, self._hearing.own(peer, self._pubsub.seconds()))

    def _deliver(self, received: Received) -> None:
        said = self._last[1] if self._last[0] == received.id else None
        if said is None:
            try:
                said = decode(received.data, received.from_peer)
            except UnknownType as error:
                said = error
        if isinstance(said, UnknownType):
            self._count_unknown(said.type)
            return
        self.counters.heard += 1
        for heard in self._heard.get(said.type, ()):
            heard(said, received)

    def _count_unknown(self, name: str) -> None:
        unknown = self.counters.unknown
        if name not in unknown and len(unknown) >= MAX_COUNTED_TYPES:
            name = "other"
        unknown[name] = unknown.get(name, 0) + 1


def _known(topic: str) -> str:
    if pattern_of(topic) is None:
        raise BadTopic(f"{topic[:256]} is no topic of messages")
    return topic
