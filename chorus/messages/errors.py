"""Errors of messages."""

from __future__ import annotations

from chorus.errors import PeerError


class BadEnvelope(PeerError):
    """A message that is no envelope, or whose payload is not what its type says."""

    code = "bad_envelope"


class ForeignSender(BadEnvelope):
    """The envelope names another node than the one that signed the message."""

    code = "foreign_sender"


class UnknownType(BadEnvelope):
    """A well-formed envelope of a type that this version does not know."""

    code = "unknown_type"

    def __init__(self, name: str, timestamp: int = 0) -> None:
        super().__init__(f"type {name} is not known here")
        self.type = name
        self.timestamp = timestamp
