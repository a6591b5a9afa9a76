"""`chorus messages`: the types of messages of this version, and their schemas."""

from __future__ import annotations

import difflib
from typing import Any

from chorus.client import show
from chorus.client.errors import EXIT_USAGE, ClientError
from chorus.messages import MAX_MESSAGE, PAYLOADS, Envelope
from chorus.messages.schema import description, envelope_schema, payload_schema
from chorus.messages.show import envelope_rows, member_rows, summary

ENVELOPE = Envelope.__name__


def print_list(*, as_json: bool) -> None:
    """All types."""
    if as_json:
        found = [
            {"type": name, "topics": list(payload.TOPICS), "description": description(payload)}
            for name, payload in PAYLOADS.items()
        ]
        show.document({"types": found})
        return
    rows = [(name, payload.TOPICS[0], summary(payload)) for name, payload in PAYLOADS.items()]
    show.table(("type", "topic", "what for"), rows, "no types", folds=True)


def print_type(typed: str, *, as_json: bool) -> None:
    """A type, or the envelope; capital letters do not matter. Raises `ClientError`."""
    known = {name.lower(): name for name in (*PAYLOADS, ENVELOPE)}
    name = known.get(typed.lower())
    if name is None:
        near = difflib.get_close_matches(typed.lower(), known, 1)
        meant = f" (did you mean {known[near[0]]}?)" if near else ""
        raise ClientError(f"{typed!r} is no type of messages{meant}; `chorus messages` lists them", EXIT_USAGE)
    payload: Any = PAYLOADS.get(name)
    if as_json:
        show.document(envelope_schema() if payload is None else payload_schema(payload))
        return
    if payload is None:
        print(f"What every message is: at most {MAX_MESSAGE} bytes of JSON.\n")
        rows = envelope_rows()
    else:
        print(f"{description(payload)}\nOn {', '.join(payload.TOPICS)}.\n")
        rows = member_rows(payload)
    show.table(("member", "value", "missing", "meaning"), rows, "no members", folds=True)
