"""Values for each shape: some that it takes, some that it refuses."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from chorus import fields as f
from chorus.fields.members import ADDRESS as ANY_ADDRESS
from chorus.fields.members import ID, MAX_SERIAL, PEER, SHA256
from chorus.messages import PAYLOADS, Envelope
from chorus.messages.presence import START
from tests.protocols.gossip_network import identity

ME = str(identity(1).peer_id)
ADDRESS = "ucxl://agent-1:developer@tool:T-7/*^/src/a%20b.py"
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

_WORDS: dict[str | None, st.SearchStrategy[str]] = {
    ID.pattern: st.from_regex(r"[0-9A-Za-z._:-]{1,20}", fullmatch=True),
    PEER.pattern: st.just(ME),
    SHA256.pattern: st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    ANY_ADDRESS.pattern: st.just(ADDRESS),
    START.pattern: st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True),
}


def taken(shape: Any) -> st.SearchStrategy[Any]:
    """JSON values that the shape takes."""
    if isinstance(shape, f.Text) and shape.pattern is not None:
        return _WORDS[shape.pattern]
    if isinstance(shape, f.Text):
        # Surrogates are no text; four bytes are the most of a character.
        text = st.text(st.characters(codec="utf-8"), min_size=shape.minimum, max_size=min(shape.maximum // 4, 40))
        return text | st.just("x" * shape.maximum)
    if isinstance(shape, f.Integer):
        return st.integers(shape.minimum, shape.maximum)
    if isinstance(shape, f.Flag):
        return st.booleans()
    if isinstance(shape, f.OneOf):
        return st.sampled_from(shape.words)
    assert isinstance(shape, f.ListOf), shape
    return st.lists(taken(shape.item), max_size=3)


def refused(shape: Any) -> list[Any]:
    """JSON values that neither the shape nor its schema takes."""
    wrong: list[Any] = [{}, {"a": 1}, 1.5]
    if not isinstance(shape, f.ListOf):
        wrong += [[], ["x"]]
    if not isinstance(shape, f.Flag):
        wrong += [True, False]
    if not isinstance(shape, f.Integer):
        wrong += [0, -1, 1]
    if isinstance(shape, f.Text):
        wrong += ["x" * ((shape.maximum or 64) + 1), *([""] if shape.minimum or shape.pattern else [])]
        wrong += ["ü", "a b", "a\nb", "/"] if shape.pattern else []
    elif isinstance(shape, f.Integer):
        wrong += [shape.minimum - 1, str(shape.minimum)]
        wrong += [shape.maximum + 1] if shape.maximum < MAX_SERIAL else []
    elif isinstance(shape, f.OneOf):
        wrong += ["", "no such word", shape.words[0].upper()]
    elif isinstance(shape, f.ListOf):
        (item,) = [example(shape.item)]
        wrong += [item, [item] * (shape.maximum + 1), *([item, bad] for bad in refused(shape.item))]
    return wrong


def example(shape: Any) -> Any:
    """One JSON value that the shape takes, always the same."""
    if isinstance(shape, f.Text) and shape.pattern is not None:
        return {PEER.pattern: ME, ANY_ADDRESS.pattern: ADDRESS, SHA256.pattern: "ab" * 32}.get(shape.pattern, "abc-1")
    if isinstance(shape, f.Text):
        return "words"
    if isinstance(shape, f.Integer):
        return shape.maximum
    if isinstance(shape, f.Flag):
        return True
    if isinstance(shape, f.OneOf):
        return shape.words[-1]
    return [example(shape.item)] * 2


def full(payload: Any) -> Any:
    """A payload with every member."""
    members = {each.name: each.shape.read(example(each.shape)) for each in f.fields_of(payload)}
    return payload(**members)


def envelope(data: Any, **members: Any) -> Envelope:
    given = {"type": data.TYPE, "id": "abcdefgh", "sender": ME, "timestamp": 1_700_000_100, "data": data, **members}
    return Envelope(**given)


def payloads() -> st.SearchStrategy[Any]:
    """Payloads of all types, with and without what may be missing."""

    def of(payload: Any) -> st.SearchStrategy[Any]:
        needed, optional = {}, {}
        for each in f.fields_of(payload):
            (needed if each.needed else optional)[each.name] = taken(each.shape).map(
                lambda value: tuple(value) if isinstance(value, list) else value
            )
        return st.fixed_dictionaries(needed, optional=optional).map(lambda members: payload(**members))

    return st.sampled_from(list(PAYLOADS.values())).flatmap(of)
