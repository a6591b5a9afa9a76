"""What docs/messages.md tells those who write a member in another language."""

from __future__ import annotations

from chorus.identity import Identity
from chorus.messages import BadEnvelope, by_hand, decode
from chorus.multiformats import varint
from chorus.protocols.gossipsub.decode import decode_message, decode_rpc
from chorus.protocols.gossipsub.sign import Verifier
from tests.support import PureTestCase

REASONS = [
    "priority must be an integer from 0 to 9",
    'the key "x" appears twice',
    "the integer 9007199254740992 is outside",
    "a number of more than 64 characters",
    "the number 1e400 is too large",
    "NaN is not JSON",
    "half of a surrogate pair",
    "Invalid control character",
    "a byte order mark",
    "not UTF-8 at byte",
    "Extra data",
    "nested deeper than 8 levels",
    "more than 256 arrays and objects",
    "longer than 32768 bytes",
    f"from must be {Identity.from_seed(by_hand.SEED).peer_id}, who signed the message",
]
"""Of the refusals that the page lists, in its order."""

SENDER = Identity.from_seed(by_hand.SEED).peer_id


class ByHand(PureTestCase):
    def test_the_example_is_heard(self) -> None:
        size, start = varint.decode(by_hand.frame())
        raw = by_hand.frame()[start:]
        self.assertEqual(size, len(raw))
        (published,) = decode_rpc(raw).messages
        message = decode_message(published)
        Verifier().verify(message)
        self.assertEqual((message.origin, message.topic), (SENDER.raw, by_hand.TOPIC))
        self.assertEqual(message.data, by_hand.example())
        self.assertEqual(decode(message.data, SENDER).data.current_tasks, 1)

    def test_any_spelling_is_taken(self) -> None:
        loose = by_hand.example().replace(b":", b" :\n", 1).replace(b"working", b"\\u0077orking")
        self.assertEqual(decode(b" " + loose + b"\n", SENDER), decode(by_hand.example(), SENDER))

    def test_what_it_calls_refused_is_refused(self) -> None:
        reasons = list(REASONS)
        for rule, _, raw in by_hand.refused():
            with self.subTest(rule):
                self.assertNotEqual(raw, by_hand.example())
                with self.assertRaises(BadEnvelope) as caught:
                    decode(raw, SENDER)
                self.assertIn(reasons.pop(0), str(caught.exception), "for this and nothing else")
        self.assertEqual(reasons, [])

    def test_nothing_else_is_wrong_with_them(self) -> None:
        """The same with a member that breaks no rule."""
        decode(by_hand.example().replace(b"{", b'{"x":{"y":[1.5]},', 1), SENDER)
