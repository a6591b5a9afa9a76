"""Namespaces of value records."""

from __future__ import annotations

from chorus.errors import ChorusError, LimitExceeded
from chorus.identity import Identity
from chorus.protocols.kad.namespaces import BUILT_IN, BadRecordKey, BadRecordValue, Namespaces, rest_of, split
from chorus.protocols.kad.params import MAX_KEY, MAX_VALUE
from tests.support import PureTestCase

ALICE, BOB = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2))
KEY = b"/pk/" + ALICE.peer_id.raw
VALUE = ALICE.public_key.to_protobuf()


class Keys(PureTestCase):
    def test_cve_2026_45783_keys_with_fewer_than_three_parts(self) -> None:
        for key in (b"", b"abc", b"/", b"/x", b"//", b"///", b"/x/", b"//x", b"x/y/z", b"/\xff/x"):
            with self.subTest(key=key):
                self.assertRaises(BadRecordKey, split, key)
                self.assertRaises(BadRecordKey, Namespaces(BUILT_IN).check, key, b"value", 0.0)

    def test_unknown_namespaces(self) -> None:
        for key in (b"/ipns/x", b"/PK/x", b"/pk2/x"):
            self.assertRaises(BadRecordKey, Namespaces(BUILT_IN).of, key)
        self.assertRaises(BadRecordKey, Namespaces({}).of, KEY)

    def test_the_rest_may_hold_any_bytes(self) -> None:
        self.assertEqual(split(b"/a/b/c\0/"), ("a", b"b/c\0/"))
        self.assertEqual(rest_of(b"/a/b"), b"b")

    def test_limits(self) -> None:
        self.assertRaises(LimitExceeded, split, b"/a/" + bytes(MAX_KEY))
        self.assertRaises(LimitExceeded, Namespaces(BUILT_IN).check, KEY, bytes(MAX_VALUE + 1), 0.0)


class PublicKeyRecords(PureTestCase):
    def test_the_key_of_the_peer(self) -> None:
        namespace = Namespaces(BUILT_IN).check(KEY, VALUE, 0.0)
        self.assertEqual(namespace.author(KEY, VALUE), str(ALICE.peer_id))
        self.assertEqual(namespace.select(KEY, [VALUE, VALUE]), 0)
        self.assertTrue(namespace.replaces(KEY, VALUE, VALUE))
        self.assertEqual((namespace.variants, namespace.lifetime_s), (1, 172_800.0))

    def test_anything_else_is_refused(self) -> None:
        self.assertRaises(BadRecordValue, Namespaces(BUILT_IN).check, KEY, BOB.public_key.to_protobuf(), 0.0)
        for key, value in ((KEY, b""), (KEY, VALUE + b"\0"), (b"/pk/x", VALUE), (KEY + b"x", VALUE)):
            with self.assertRaises(ChorusError):
                Namespaces(BUILT_IN).check(key, value, 0.0)
