"""The section of docs/messages.md for those who write a member in another language: what carries a message, an example
to the byte, and the rules that JSON Schema cannot say. Made from the code, and each rule with a text that it refuses,
so that a test can hold it to its word."""

from __future__ import annotations

from typing import Final

from chorus import strictjson
from chorus.identity import Identity
from chorus.messages.envelope import MAX_CONTAINERS, MAX_DEPTH, MAX_MESSAGE, Envelope, encode
from chorus.messages.presence import AvailabilityBcast
from chorus.messages.rates import MAX_AGE, OWN, UNIT
from chorus.protocols import admission
from chorus.protocols.gossipsub.encode import message_frame
from chorus.protocols.gossipsub.params import MAX_SENT_RPC, MESHSUB_1_1, MESHSUB_1_2, GossipParams
from chorus.protocols.gossipsub.sign import SIGNING_PREFIX, Signer

SEED: Final = bytes(range(32))
"""Of the sender's Ed25519 key in the example."""

TOPIC: Final = AvailabilityBcast.TOPICS[0]
TIME: Final = 1_767_225_600
SEQNO: Final = TIME * 1_000_000_000
"""The same instant in nanoseconds."""

_WIDTH: Final = 96
"""Hexadecimal digits a line."""


def example() -> bytes:
    """An envelope as CHORUS writes it."""
    sender = str(Identity.from_seed(SEED).peer_id)
    payload = AvailabilityBcast(
        node_id=sender,
        available_for_work=True,
        current_tasks=1,
        max_tasks=3,
        last_activity=TIME - 12,
        status="working",
        timestamp=TIME,
    )
    return encode(Envelope(type=payload.TYPE, id="example-1", sender=sender, timestamp=TIME, data=payload))


def frame() -> bytes:
    """The example as it goes on a stream: an RPC of this one message, its length before it."""
    return message_frame(Signer(Identity.from_seed(SEED)).sign(TOPIC, example(), SEQNO.to_bytes(8, "big")))


def refused() -> list[tuple[str, str, bytes]]:
    """(rule, a short example of what breaks it, the example message made to break it)."""

    def with_member(text: str) -> bytes:
        return example().replace(b"{", b"{" + text.encode() + b",", 1)

    def of_member(text: str) -> tuple[str, bytes]:
        return f"`{text}`", with_member(text)

    whole = example()
    number = whole.replace(b'"priority":5', b'"priority":5.0')
    deep = '"x":' + "[" * MAX_DEPTH + "]" * MAX_DEPTH
    many = '"x":[' + "{}," * MAX_CONTAINERS + "{}]"
    long_number = '"x":0.' + "1" * strictjson.MAX_NUMBER_CHARACTERS
    large = '"x":"' + "x" * MAX_MESSAGE + '"'
    return [
        (
            "A member that is an integer has no point and no exponent, though a schema takes `5.0` for one.",
            '`"priority":5.0`',
            number,
        ),
        ("No object has a key twice.", *of_member('"x":1,"x":1')),
        ("Integers are within ±(2⁵³ - 1).", *of_member(f'"x":{strictjson.MAX_INTEGER + 1}')),
        (
            f"A number has at most {strictjson.MAX_NUMBER_CHARACTERS} characters.",
            "`0.111…`",
            with_member(long_number),
        ),
        ("A number is finite, and fits a double.", *of_member('"x":1e400')),
        ("`NaN` and `Infinity` are no JSON.", *of_member('"x":NaN')),
        ("An escape stands for no half of a surrogate pair.", *of_member('"x":"\\ud800"')),
        ("Control characters in strings are escaped.", "a bare line feed", with_member('"x":"\n"')),
        ("No byte order mark.", "`EF BB BF` before it", b"\xef\xbb\xbf" + whole),
        ("UTF-8 without a fault.", "a byte `FF` in a string", with_member('"x":"?"').replace(b"?", b"\xff")),
        ("One value, and after it white space alone.", "`{…}{}`", whole + b"{}"),
        (
            f"Arrays and objects are at most {MAX_DEPTH} deep; the envelope is the first level.",
            f"`{deep}`",
            with_member(deep),
        ),
        (f"Arrays and objects are at most {MAX_CONTAINERS:,}.", "`[{},{},…]`", with_member(many)),
        (f"At most {MAX_MESSAGE:,} bytes.", "one more", with_member(large)),
        (
            "`from` is who signed the message, and `data.node_id`, where a type has it, the same.",
            "another peer id",
            whole.replace(b'"from":"12D3KooW', b'"from":"12D3KooX'),
        ),
    ]


def section() -> str:
    """From its heading on."""
    rules = "".join(f"| {rule} | {shown.replace('|', chr(92) + '|')} |\n" for rule, shown, _ in refused())
    hexadecimal = frame().hex()
    lines = "\n".join(hexadecimal[at : at + _WIDTH] for at in range(0, len(hexadecimal), _WIDTH))
    return f"""## A member in another language

What a program needs beside the tables on this page, to speak with members that run CHORUS.

1. **Connect**: libp2p over TCP, Noise and yamux, with an Ed25519 identity (messages under other keys are refused).
   Identify names the protocols below.
2. **Prove the secret first**: until `{admission.PROTOCOL}` is done on a connection, a member serves nothing but
   identify, ping and this. Whoever dialled opens a stream and sends `Hello{{proof, cluster_id}}` (protobuf fields 1 and
   3, the length before it as a varint); the other answers with its own, or closes without a word. The proof is
   `HMAC-SHA256(secret, lp("{admission.DOMAIN.decode()}") ‖ lp(role) ‖ lp(h) ‖ lp(own peer id) ‖ lp(other peer id))`:
   `lp` puts the length as a varint before it, the role is `{admission.DIALER.decode()}` or
   `{admission.LISTENER.decode()}`, `h` the hash of the Noise handshake, peer ids are binary. A secret of hexadecimal
   digits is the bytes that they stand for, any other text itself; `cluster_id` is empty until a member has told you the
   cluster's, which you keep from then on. All this is described in
   `chorus/protocols/admission.py` and `chorus/protocols/proto/admission.proto`.
3. **GossipSub**: `{MESHSUB_1_2}` or `{MESHSUB_1_1}`, one stream in each direction, opened by who writes on it. RPCs
   with their length as a varint before them, at most {MAX_SENT_RPC // 1024} KiB each: what is in larger ones is not
   passed on.
4. **StrictSign**: a message has `from`, `data`, an 8-byte `seqno`, one `topic` and `signature`, each once, and `key` at
   most as a repetition of what `from` holds. The signature is over `{SIGNING_PREFIX.decode()}` and the message without
   `signature` and `key`, as its bytes stand. Its id is `from` ‖ `seqno`.
5. **Sequence numbers grow**: unsigned, the first byte the highest, each above all that this identity has used, also
   before a restart. Begin with the Unix time in nanoseconds and count on. A number at or below one that members have
   seen and forgotten ({GossipParams().seen_ttl:.0f} s) is a replay and not heard; two messages under one number are
   held against their publisher.
6. **Keep to the rates**: {OWN.per_second:,.0f} tokens a second after a burst of {OWN.burst:,.0f}. A message costs one
   for each KiB ({UNIT:,} bytes) that its JSON begins, so {MAX_MESSAGE // 1024} KiB cost {MAX_MESSAGE // UNIT}. What is
   more is not heard, and is held against you in your score.
7. **Clocks**: `timestamp` is Unix seconds; what is more than {MAX_AGE} s from the receiver's clock is not heard.

CHORUS writes canonical JSON (RFC 8785), but a receiver takes any spelling of valid JSON: members in any order, white
space, escapes. Nothing compares the bytes.

### An example

An {AvailabilityBcast.TYPE} on `{TOPIC}`, as it is written by the peer whose Ed25519 seed is the bytes 00,
01, … 1f:

```json
{example().decode()}
```

The same on a stream, signed, with the sequence number {SEQNO} ({SEQNO:016x}): an RPC with this one
message (`publish`, field 2), its length before it; in hexadecimal.

```
{lines}
```

### What a schema does not refuse

Each of these makes a node refuse the whole message, also in members that it does not know. That is held against who
passes it on too (P4), and costs a node that does it again and again its place in the meshes. Of texts, besides, bytes
of UTF-8 are counted and not characters.

| rule | refused |
| --- | --- |
{rules}"""
