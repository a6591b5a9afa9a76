"""The application's side of pub/sub topics: callbacks, and validators that judge a message before it is delivered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.logger import Logger

from chorus.identity import PeerId
from chorus.protocols.gossipsub.events import Delivery, Validation

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime
    from twisted.python.failure import Failure

VALIDATION_LIMIT: Final = 10.0
"""Seconds a validator may take; after that its message is ignored and makes room."""


@attrs.frozen
class Received:
    """One message of a topic we are subscribed to, verified, for the first time."""

    topic: str
    from_peer: PeerId
    """Its publisher, who signed it."""
    data: bytes
    id: bytes
    source: PeerId | None = attrs.field(default=None, eq=False)
    """The connected peer that brought it; the publisher itself, or one that passes it on."""


Callback = Callable[[Received], None]
ReceivedValidator = Callable[[Received], "Validation | Deferred[Validation]"]


class Topic:
    def __init__(self) -> None:
        self.callbacks: list[Callback] = []
        self.validators: list[ReceivedValidator] = []
        self.waits = False
        """True if a validator may answer with a Deferred."""


class Topics:
    """By name. `validated` gets each verdict that came late: (message id, verdict)."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, validated: Callable[[bytes, Validation], None]) -> None:
        self.errors = 0
        """Exceptions of callbacks and validators; each is logged."""
        self._clock = clock
        self._validated = validated
        self._by_name: dict[str, Topic] = {}
        self._validating: dict[Deferred[None], None] = {}

    def get(self, name: str) -> Topic | None:
        return self._by_name.get(name)

    def enter(self, name: str, topic: Topic) -> None:
        self._by_name[name] = topic

    def leave(self, name: str) -> None:
        del self._by_name[name]

    def clear(self) -> None:
        self._by_name.clear()

    def cancel(self) -> None:
        """Ignore the messages that are still being validated."""
        for answer in list(self._validating):
            answer.cancel()

    def deliver(self, delivery: Delivery) -> None:
        topic = self._by_name.get(delivery.topic)
        if topic is None:
            return
        received = _received(delivery)
        for callback in list(topic.callbacks):
            try:
                callback(received)
            except Exception:
                self.errors += 1
                self._log.failure("a callback of topic {topic} failed", topic=delivery.topic)

    # Validation

    def validate(self, delivery: Delivery) -> Validation:
        """The verdict of all validators of its topic, or `LATER`: `validated` is called then, once."""
        topic = self._by_name.get(delivery.topic)
        if topic is None or not topic.validators:
            return Validation.ACCEPT
        received = _received(delivery)
        verdict = self._ask(received, list(topic.validators))
        if not isinstance(verdict, Deferred):
            return verdict
        if not topic.waits:
            verdict.addErrback(self._failed, delivery.topic)
            verdict.cancel()
            self._log.error(
                "a validator of {topic} returned a Deferred, but was not subscribed with `waits`", topic=delivery.topic
            )
            return Validation.IGNORE
        said: list[Validation] = []
        verdict.addTimeout(VALIDATION_LIMIT, self._clock)
        verdict.addErrback(self._failed, delivery.topic)
        settled = verdict.addCallback(said.append)
        if said:
            return said[0]
        self._validating[settled] = None
        settled.addCallback(lambda _: self._settled(settled, delivery.message_id, said[0]))
        return Validation.LATER

    def _ask(self, received: Received, validators: list[ReceivedValidator]) -> Validation | Deferred[Validation]:
        """The verdict of all of them, one after the other; the first that does not accept ends it."""
        while validators:
            try:
                verdict = validators.pop(0)(received)
            except Exception:
                self.errors += 1
                self._log.failure("a validator of topic {topic} failed", topic=received.topic)
                return Validation.IGNORE
            if isinstance(verdict, Deferred):
                return verdict.addCallback(
                    lambda said: self._ask(received, validators) if said is Validation.ACCEPT else said
                )
            if verdict is not Validation.ACCEPT:
                return verdict
        return Validation.ACCEPT

    def _failed(self, failure: Failure, topic: str) -> Validation:
        if not failure.check(TimeoutError, CancelledError):  # type: ignore[no-untyped-call]
            self.errors += 1
            self._log.failure("a validator of topic {topic} failed", failure, topic=topic)
        return Validation.IGNORE

    def _settled(self, waiter: Deferred[None], message_id: bytes, verdict: Validation) -> None:
        self._validating.pop(waiter, None)
        self._validated(message_id, verdict)


def _received(delivery: Delivery) -> Received:
    topic, origin, data, message_id, source = delivery
    return Received(topic, PeerId(origin), data, message_id, PeerId(source))
