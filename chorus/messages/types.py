"""All types of messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from chorus.messages import collaboration, coordination, council, decisions, election, health, presence, tasks
from chorus.messages.payload import Payload

_SUBJECTS: Final = (presence, tasks, collaboration, coordination, election, decisions, health, council)

PAYLOADS: Final[Mapping[str, type[Payload]]] = {
    name: each
    for subject in _SUBJECTS
    for name, each in vars(subject).items()
    if isinstance(each, type) and issubclass(each, Payload) and each is not Payload
}
"""By name on the wire, in the order of the documentation."""
