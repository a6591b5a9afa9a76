"""What people may have written in a message, taken through the redactor before it is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import attrs

from chorus.messages.fields import members_of

if TYPE_CHECKING:
    from chorus.messages.envelope import Envelope


def redacted(envelope: Envelope, redact: Callable[[str], str]) -> Envelope:
    """`envelope` with every text that a person may have written passed through `redact`."""
    payload = attrs.evolve(cast("Any", envelope.data), **_redactions(envelope.data, redact))
    return attrs.evolve(envelope, data=payload, **_redactions(envelope, redact))


def _redactions(value: Any, redact: Callable[[str], str]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for member in members_of(type(value)):
        item = getattr(value, member.name)
        if not member.read.written:
            continue
        if isinstance(item, str):
            changes[member.name] = redact(item)
        elif isinstance(item, tuple):
            changes[member.name] = tuple(redact(each) for each in item)
    return changes
