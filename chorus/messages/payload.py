"""Payloads: how a type of message is declared, and where it may be published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, dataclass_transform

import attrs

from chorus.fields import field
from chorus.messages.topics import pattern_of


class Payload:
    """A frozen typed value. `TYPE` is its name on the wire; `TOPICS` are the topics, and patterns of topics, where it
    may be published, the first a static one: where it goes unless its sender names another."""

    __slots__ = ()
    TYPE: ClassVar[str]
    TOPICS: ClassVar[tuple[str, ...]]
    __attrs_attrs__: ClassVar[Any]


P = TypeVar("P", bound=Payload)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def payload(*topics: str) -> Callable[[type[P]], type[P]]:
    """A class of payloads for these topics, named on the wire as it is here."""

    def declare(cls: type[P]) -> type[P]:
        made = attrs.frozen(cls, kw_only=True)
        made.TYPE, made.TOPICS = cls.__name__, topics
        return made

    return declare


def may_be_said(payload: Payload | type[Payload], topic: str) -> bool:
    """True if messages of the type of `payload` belong on `topic`."""
    return pattern_of(topic) in payload.TOPICS
