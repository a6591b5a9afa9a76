"""What all payloads have in common."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from chorus.messages.topics import pattern_of


class Payload(Protocol):
    """A frozen typed value. `TYPE` is its name on the wire; `TOPICS` are the topics, and patterns of topics, where it
    may be said, the first a static one: where it is said unless its sender names another."""

    TYPE: ClassVar[str]
    TOPICS: ClassVar[tuple[str, ...]]
    __attrs_attrs__: ClassVar[Any]


def may_be_said(payload: Payload | type[Payload], topic: str) -> bool:
    """Whether messages of the type of `payload` belong on `topic`."""
    return pattern_of(topic) in payload.TOPICS
