"""Typed messages over pub/sub: written and redacted here, read and checked here, handed on by type."""

from __future__ import annotations

import base64
from collections.abc import Callable
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
    redacted,
)
from chorus.protocols.gossip_events import Validation

if TYPE_CHECKING:
    from chorus.http.ports import Document
    from chorus.identity import PeerId
    from chorus.seams import Redactor
    from chorus.services.pubsub import PubSubService, Received

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
    unknown: dict[str, int] = attrs.field(factory=dict)
    """By type: from newer versions; passed on, not understood."""


class Messaging:
    """Says and hears `chorus.messages` payloads.

    `wall` is Unix seconds, `random` gives that many random bytes (message ids), `role` is the role we speak in.
    Every text of a payload passes the redactor before it is sent.
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
    ) -> None:
        self.peer_id = peer_id
        self.counters = MessageCounters()
        self._pubsub = pubsub
        self._redactor = redactor
        self._wall = wall
        self._random = random
        self._role = role
        self._heard: dict[tuple[str, str], list[Heard]] = {}
        self._leave: dict[str, Callable[[], None]] = {}
        self._last: tuple[bytes, Envelope | None] = (b"", None)
        """The message that was validated last: it is usually the one delivered next."""

    def now(self) -> int:
        """Unix seconds, as they stand in payloads."""
        return int(self._wall())

    def join(self, topic: str) -> None:
        """Take part in a topic: its messages are checked and forwarded even where nobody listens."""
        if topic not in self._leave:
            self._leave[topic] = self._pubsub.subscribe(topic, self._deliver, self._validate)

    def leave(self, topic: str) -> None:
        leave = self._leave.pop(topic, None)
        if leave is not None:
            leave()

    def listen(self, payload: type[Payload], heard: Heard) -> None:
        """Call `heard` with each message of a type on its topic, which is joined."""
        self._heard.setdefault((payload.TOPIC, payload.TYPE), []).append(heard)
        self.join(payload.TOPIC)

    def say(self, payload: Payload, **members: Any) -> None:
        """Publish a payload on its topic. `members` are further ones of `Envelope`.

        Raises `BadEnvelope` for a payload that every other node would refuse.
        """
        envelope = Envelope(
            type=payload.TYPE,
            id=base64.urlsafe_b64encode(self._random(12)).decode(),
            sender=str(self.peer_id),
            from_role=self._role(),
            timestamp=self.now(),
            data=payload,
            **members,
        )
        envelope = redacted(envelope, lambda text: self._redactor.redact(text, context=f"pubsub.{payload.TYPE}")[0])
        self._pubsub.publish(payload.TOPIC, encode(envelope))
        self.counters.sent += 1

    def announce_task(self, document: Document) -> None:
        """Say on `chorus/tasks` that a task changed: the members of `TaskUpdate` are taken from `document`.

        Never fails: news that cannot be said is logged.
        """
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
            self._log.failure("announcing a task on {topic}", topic=TASKS)

    def _validate(self, received: Received) -> Validation:
        """Refused messages are not forwarded; those of unknown types are, for the nodes that know them."""
        self._last = (received.id, None)
        try:
            self._last = (received.id, decode(received.data, received.from_peer))
        except UnknownType:
            pass
        except ForeignSender:
            self.counters.foreign += 1
            return Validation.REJECT
        except BadEnvelope:
            self.counters.refused += 1
            return Validation.REJECT
        return Validation.ACCEPT

    def _deliver(self, received: Received) -> None:
        envelope = self._last[1] if self._last[0] == received.id else None
        if envelope is None:
            try:
                envelope = decode(received.data, received.from_peer)
            except UnknownType as error:
                self._count_unknown(error.type)
                return
        self.counters.heard += 1
        for heard in self._heard.get((received.topic, envelope.type), ()):
            heard(envelope, received)

    def _count_unknown(self, name: str) -> None:
        unknown = self.counters.unknown
        if name not in unknown and len(unknown) >= MAX_COUNTED_TYPES:
            name = "other"
        unknown[name] = unknown.get(name, 0) + 1
