"""Descriptions of the messages for people: docs/messages.md, and the rows that `chorus messages` prints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from chorus.fields import Field, fields_of
from chorus.fields.members import PEER
from chorus.messages.envelope import MAX_CONTAINERS, MAX_DEPTH, MAX_MESSAGE, Envelope
from chorus.messages.payload import Payload
from chorus.messages.rates import OWN, RELAYED
from chorus.messages.schema import description
from chorus.messages.topics import DYNAMIC, MAX_ISSUE, MAX_JOINED_TOPICS, MAX_PROFILE_TOPICS, MAX_VARIABLE, STATIC
from chorus.messages.types import PAYLOADS


def summary(payload: type[Payload]) -> str:
    """The first sentence of what a type is for."""
    return description(payload).split(". ")[0].rstrip(".:") + "."


def member_rows(cls: Any) -> list[tuple[str, str, str, str]]:
    """(member, value, when it is missing, meaning) of a payload."""
    return [(each.name, each.shape.expected, missing(each), each.meaning) for each in fields_of(cls)]


def envelope_rows() -> list[tuple[str, str, str, str]]:
    """The same of the envelope, with the two members that `Envelope` holds in another form."""
    rows = member_rows(Envelope)
    rows[2:2] = [("from", PEER.expected, "refused", "Peer id of the sender, who signed the message.")]
    return [*rows, ("data", "an object", "refused", "The payload.")]


def missing(member: Field) -> str:
    """The meaning of a missing member."""
    if member.needed:
        return "refused"
    default = member.default
    if default is None or default in ("", ()):
        return "nothing"
    return str(default)


def page() -> str:
    """docs/messages.md."""
    # Late: the rows that `chorus messages` prints need nothing of the protocols.
    from chorus.messages import by_hand

    types = ((_link(each), summary(each), f"`{each.TOPICS[0]}`") for each in PAYLOADS.values())
    parts = [
        _INTRODUCTION,
        "## Topics\n",
        _topics(),
        "## Types\n",
        f"{len(PAYLOADS)} types. Each is said on the topic named here unless its sender names another of its own.\n",
        _table(("type", "what for", "topic"), types),
        "## The envelope\n",
        f"A JSON object of at most {MAX_MESSAGE // 1024} KiB, arrays and objects at most {MAX_DEPTH} deep and "
        f"{MAX_CONTAINERS:,} in all, as UTF-8.\n",
        _members_table(envelope_rows()),
        by_hand.section(),
        *map(_section, PAYLOADS.values()),
    ]
    return "\n".join(parts)


def _link(payload: type[Payload]) -> str:
    return f"[{payload.TYPE}](#{payload.TYPE.lower()})"


def _topics() -> str:
    rows = [(f"`{topic}`", meaning, "every node") for topic, meaning in STATIC.items()]
    rows += [
        (f"`{pattern}`", meaning, _TAKES_PART["project" if pattern.startswith("chorus/project") else "profile"])
        for pattern, meaning in DYNAMIC.items()
    ]
    return _table(("topic", "what is said there", "who takes part"), rows) + _NAMES


def _section(payload: type[Payload]) -> str:
    topics = ", ".join(f"`{topic}`" for topic in payload.TOPICS)
    return f"## {payload.TYPE}\n\n{description(payload)}\n\nOn {topics}.\n\n{_members_table(member_rows(payload))}"


def _members_table(rows: Iterable[tuple[str, str, str, str]]) -> str:
    return _table(("member", "value", "missing", "meaning"), ((f"`{row[0]}`", *row[1:]) for row in rows))


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in lines)


_TAKES_PART = {
    "profile": "nodes with a role, by their profile",
    "project": "whoever joins it, while it is needed",
}

_INTRODUCTION = f"""# Messages

Nodes publish messages over pub/sub: one JSON envelope, and a payload (`data`) for each type. This page is
generated (`scripts/gen-docs`). `chorus messages` prints the list, `chorus messages TYPE` a type,
`chorus messages TYPE --json` its JSON Schema (draft 2020-12), `chorus messages Envelope --json` that of whole messages.

- Whoever writes a member in another language finds [below](#a-member-in-another-language) what carries a message, an
  example to the byte and what a schema cannot say.
- Every message is signed by its sender, and `from` must name who signed it.
- Members that are not listed are passed over; a type that a node does not know is counted and passed on. So newer nodes
  can say more to each other through older ones.
- What breaks a limit below is refused and not passed on. A known type on a topic where it does not belong is not heard
  and not passed on, but nobody is blamed: a newer version may allow it.
- Lengths of texts are bytes of UTF-8. A schema counts characters: what it takes may still be too long.
- A member with the value `null` is a missing one.
- Payloads name published things by their UCXL address and never hold what is there.
- Texts that people may have written (names, titles, sentences, addresses) pass the redactor of the sender.
- Each KiB that a message begins counts as one. A node hears {OWN.burst:,.0f} of one sender at once and
  {OWN.per_second:,.0f} a second for long; what is more is held against it, and through others it is heard no more. Of
  what one neighbour passes on it hears {RELAYED.burst:,.0f} and {RELAYED.per_second:,.0f} a second; no sender
  has more of that than is left for all others, and what finds no room may still come through another neighbour.
"""

_NAMES = f"""
In a topic a name has one spelling: Unicode's NFKC with case folded, then percent-encoded (RFC 3986), at most
{MAX_VARIABLE} bytes, an issue at most {MAX_ISSUE}. So `Team/Tool` is `team%2Ftool`.

A node with a role takes part in at most {MAX_PROFILE_TOPICS} topics by its profile: its role, the reports to its
supervisor, the reports to itself, its fields of expertise, in this order. Any node joins at most
{MAX_JOINED_TOPICS} more.
"""
