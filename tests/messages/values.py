"""Values for each reader: what it takes, what it refuses."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from chorus.messages import PAYLOADS, Envelope
from chorus.messages import fields as f
from chorus.messages.presence import START
from tests.protocols.gossip_network import identity

ME = str(identity(1).peer_id)
ADDRESS = "ucxl://agent-1:developer@tool:T-7/*^/src/a%20b.py"
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

_WORDS: dict[str, st.SearchStrategy[str]] = {
    f.ID.pattern: st.from_regex(r"[0-9A-Za-z._:-]{1,20}", fullmatch=True),
    f.PEER.pattern: st.just(ME),
    f.SHA256.pattern: st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    f.ADDRESS.pattern: st.just(ADDRESS),
    START.pattern: st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True),
}


def taken(read: Any) -> st.SearchStrategy[Any]:
    """JSON values that `read` takes."""
    if isinstance(read, f.Text):
        # Surrogates are no text; four bytes are the most of a character.
        text = st.text(st.characters(codec="utf-8"), min_size=read.minimum, max_size=min(read.maximum // 4, 40))
        return text | st.just("x" * read.maximum)
    if isinstance(read, f.Word):
        return _WORDS[read.pattern]
    if isinstance(read, f.Integer):
        return st.integers(read.minimum, read.maximum)
    if isinstance(read, f.Flag):
        return st.booleans()
    if isinstance(read, f.OneOf):
        return st.sampled_from(read.words)
    assert isinstance(read, f.ListOf), read
    return st.lists(taken(read.item), max_size=3)


def refused(read: Any) -> list[Any]:
    """JSON values that neither `read` nor its schema takes."""
    wrong: list[Any] = [{}, {"a": 1}, 1.5]
    if not isinstance(read, f.ListOf):
        wrong += [[], ["x"]]
    if not isinstance(read, f.Flag):
        wrong += [True, False]
    if not isinstance(read, f.Integer):
        wrong += [0, -1, 1]
    if isinstance(read, f.Text):
        wrong += ["x" * (read.maximum + 1), *([""] if read.minimum else [])]
    elif isinstance(read, f.Word):
        wrong += ["", "x" * (read.maximum + 1), "ü", "a b", "a\nb", "/"]
    elif isinstance(read, f.Integer):
        wrong += [read.minimum - 1, str(read.minimum)]
        wrong += [read.maximum + 1] if read.maximum < f.MAX_SERIAL else []
    elif isinstance(read, f.OneOf):
        wrong += ["", "no such word", read.words[0].upper()]
    elif isinstance(read, f.ListOf):
        (item,) = [example(read.item)]
        wrong += [item, [item] * (read.maximum + 1), *([item, bad] for bad in refused(read.item))]
    return wrong


def example(read: Any) -> Any:
    """One JSON value that `read` takes, always the same."""
    if isinstance(read, f.Word):
        return {f.PEER.pattern: ME, f.ADDRESS.pattern: ADDRESS, f.SHA256.pattern: "ab" * 32}.get(read.pattern, "abc-1")
    if isinstance(read, f.Text):
        return "words"
    if isinstance(read, f.Integer):
        return read.maximum
    if isinstance(read, f.Flag):
        return True
    if isinstance(read, f.OneOf):
        return read.words[-1]
    return [example(read.item)] * 2


def full(payload: Any) -> Any:
    """A payload with every member."""
    members = {member.name: member.read(example(member.read)) for member in f.members_of(payload)}
    return payload(**members)


def envelope(data: Any, **members: Any) -> Envelope:
    given = {"type": data.TYPE, "id": "abcdefgh", "sender": ME, "timestamp": 1_700_000_100, "data": data, **members}
    return Envelope(**given)


def payloads() -> st.SearchStrategy[Any]:
    """Payloads of all types, with and without what may be missing."""

    def of(payload: Any) -> st.SearchStrategy[Any]:
        needed, optional = {}, {}
        for member in f.members_of(payload):
            (needed if member.needed else optional)[member.name] = taken(member.read).map(
                lambda value: tuple(value) if isinstance(value, list) else value
            )
        return st.fixed_dictionaries(needed, optional=optional).map(lambda members: payload(**members))

    return st.sampled_from(list(PAYLOADS.values())).flatmap(of)
