"""Namespaces of value records."""

from __future__ import annotations

from chorus.errors import LimitExceeded
from chorus.protocols.kad.namespaces import BadRecordKey, Namespaces, split
from chorus.protocols.kad.params import MAX_KEY, MAX_VALUE
from chorus.services.dht.namespaces import Unvalidated
from tests.support import PureTestCase

KEY = b"/test/a"
TAKEN = Namespaces({"test": Unvalidated()})


class Keys(PureTestCase):
    def test_cve_2026_45783_keys_with_fewer_than_three_parts(self) -> None:
        for key in (b"", b"abc", b"/", b"/x", b"//", b"///", b"/x/", b"//x", b"x/y/z", b"/\xff/x"):
            with self.subTest(key=key):
                self.assertRaises(BadRecordKey, split, key)
                self.assertRaises(BadRecordKey, TAKEN.check, key, b"value", 0.0)

    def test_unknown_namespaces(self) -> None:
        for key in (b"/ipns/x", b"/TEST/x", b"/test2/x"):
            self.assertRaises(BadRecordKey, TAKEN.of, key)
        self.assertRaises(BadRecordKey, Namespaces({}).of, KEY)

    def test_the_rest_may_hold_any_bytes(self) -> None:
        self.assertEqual(split(b"/a/b/c\0/"), ("a", b"b/c\0/"))

    def test_limits(self) -> None:
        self.assertRaises(LimitExceeded, split, b"/a/" + bytes(MAX_KEY))
        self.assertRaises(LimitExceeded, TAKEN.check, KEY, bytes(MAX_VALUE + 1), 0.0)
