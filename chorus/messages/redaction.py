"""Takes what people may have written in a message through the redactor, before it is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import attrs

from chorus.fields import fields_of

if TYPE_CHECKING:
    from chorus.messages.envelope import Envelope


def redacted(envelope: Envelope, redact: Callable[[str], str]) -> Envelope:
    """`envelope` with every text that a person may have written passed through `redact`."""
    payload = attrs.evolve(cast("Any", envelope.data), **_redactions(envelope.data, redact))
    return attrs.evolve(envelope, data=payload, **_redactions(envelope, redact))


def _redactions(value: Any, redact: Callable[[str], str]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for each in fields_of(type(value)):
        item = getattr(value, each.name) if each.shape.free_text else None
        if isinstance(item, str):
            changes[each.name] = redact(item)
        elif isinstance(item, tuple):
            changes[each.name] = tuple(map(redact, item))
    return changes
