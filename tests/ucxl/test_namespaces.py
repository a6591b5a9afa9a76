"""Records in the DHT: forged, rolled back, foreign, oversized ones are refused; forks are kept."""

from __future__ import annotations

import itertools
import json
from typing import Any

import attrs

from chorus import strictjson
from chorus.errors import ChorusError, LimitExceeded
from chorus.identity import Identity
from chorus.ucxl.documents import RecordError, sha256
from chorus.ucxl.namespaces import CiphertextNamespace, HeadNamespace, VersionNamespace, ucxl_namespaces
from chorus.ucxl.record import Decision
from chorus.ucxl.signed import (
    MAX_CIPHERTEXT,
    MAX_ENCRYPTED,
    MAX_SIGNED,
    Head,
    Version,
    ciphertext_key,
    head_key,
    version_key,
)
from tests.support import PureTestCase
from tests.ucxl.samples import ALICE, BOB, FOUNDER, HASH, NOW, Roles, chain, decision, theft_of


def head(record: Decision, identity: Identity = ALICE) -> bytes:
    return Head.of(record, identity).encode()


def version(record: Decision, identity: Identity = ALICE, **members: Any) -> bytes:
    return Version.of(record, identity, **{"ciphertext": HASH, "size": 1, "epoch": 1, **members}).encode()


def changed(data: bytes, **members: object) -> bytes:
    return strictjson.canonical({**json.loads(data), **members})


class CiphertextTests(PureTestCase):
    def test_valid(self) -> None:
        value = bytes(MAX_CIPHERTEXT)
        CiphertextNamespace().validate(ciphertext_key(sha256(value)), value, NOW)

    def test_wrong_hash_and_oversized(self) -> None:
        rules = CiphertextNamespace()
        self.assertRaises(RecordError, rules.validate, ciphertext_key(HASH), b"x", NOW)
        self.assertRaises(RecordError, rules.validate, ciphertext_key(sha256(b"x").upper()), b"x", NOW)
        large = bytes(MAX_CIPHERTEXT + 1)
        self.assertRaises(LimitExceeded, rules.validate, ciphertext_key(sha256(large)), large, NOW)
        self.assertFalse(rules.replaces(b"", b"a", b"b"))


class HeadTests(PureTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.roles = Roles()
        self.rules = HeadNamespace(self.roles)
        self.record = decision()
        self.key = head_key(self.record.place)

    def refused(self, value: bytes, key: bytes | None = None) -> None:
        self.assertRaises(ChorusError, self.rules.validate, key or self.key, value, NOW)

    def test_valid(self) -> None:
        self.rules.validate(self.key, head(self.record), NOW)
        self.assertEqual(self.rules.author(self.key, head(self.record)), str(ALICE.peer_id))
        self.assertLessEqual(len(self.key), 80)

    def test_forged_heads(self) -> None:
        good = head(self.record)
        self.refused(changed(good, seq=2))
        self.refused(changed(good, content="cd" * 32))
        self.refused(changed(good, author=str(BOB.peer_id)))
        self.refused(changed(good, signature=json.loads(head(decision(BOB), BOB))["signature"]))
        self.refused(Head.of(self.record, BOB).encode())
        self.refused(json.dumps(json.loads(good)).encode())
        self.refused(good + b" " * MAX_SIGNED)
        self.refused(b"")

    def test_a_decision_or_a_version_is_no_head(self) -> None:
        """The signatures are of different domains, and the members differ."""
        self.refused(self.record.encode())
        self.refused(version(self.record))
        other = changed(head(self.record), signature=json.loads(version(self.record))["signature"])
        self.refused(other)

    def test_foreign_address(self) -> None:
        self.refused(head(self.record), head_key(decision(task="t-2").place))
        self.refused(head(self.record), self.key.replace(b"head", b"ver"))
        bob = attrs.evolve(Head.of(decision(BOB), BOB), author=str(ALICE.peer_id))
        self.refused(bob.encode(), head_key(decision(BOB).place))

    def test_a_role_that_the_author_does_not_hold(self) -> None:
        record = decision(role="admin")
        self.refused(head(record), head_key(record.place))
        self.roles.roles = {}
        self.refused(head(self.record))
        self.roles.former[ALICE.peer_id] = {"developer": 1}
        self.rules.validate(self.key, head(self.record), NOW)

    def test_a_rolled_back_number_loses(self) -> None:
        first, second, third = (head(each) for each in chain(3))
        for values in itertools.permutations((first, second, third)):
            self.assertEqual(values[self.rules.select(self.key, values)], third)
        self.assertTrue(self.rules.replaces(self.key, first, third))
        self.assertFalse(self.rules.replaces(self.key, third, first))
        self.assertFalse(self.rules.replaces(self.key, third, third))

    def test_a_fork_is_kept_beside_and_the_smaller_hash_wins(self) -> None:
        one, other = decision(), decision(summary="Coffee.")
        smaller = min((one, other), key=lambda each: each.content_hash)
        values = (head(one), head(other))
        self.assertTrue(Head.of(one, ALICE).forks(Head.of(other, ALICE)))
        for order in itertools.permutations(values):
            self.assertEqual(order[self.rules.select(self.key, order)], head(smaller))
            self.assertFalse(self.rules.replaces(self.key, *order))
        self.assertEqual(self.rules.variants, 2)


class VersionTests(PureTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.roles = Roles(epoch=3)
        self.rules = VersionNamespace(self.roles)
        self.record = decision()
        self.key = version_key(str(ALICE.peer_id), self.record.content_hash)

    def refused(self, value: bytes) -> None:
        self.assertRaises(ChorusError, self.rules.validate, self.key, value, NOW)

    def test_by_the_author_and_by_the_founder(self) -> None:
        self.rules.validate(self.key, version(self.record), NOW)
        self.roles.roles.pop(ALICE.peer_id)
        self.refused(version(self.record))
        self.rules.validate(self.key, version(self.record, FOUNDER, epoch=3), NOW)

    def test_by_nobody_else(self) -> None:
        self.refused(version(self.record, BOB))
        self.roles.founder = None
        self.refused(version(self.record, FOUNDER))

    def test_what_an_author_wrote_before_it_lost_its_role_stays(self) -> None:
        self.roles.roles.pop(ALICE.peer_id)
        self.roles.former[ALICE.peer_id] = {"developer": 2}
        self.rules.validate(self.key, version(self.record, epoch=2), NOW)
        self.refused(version(self.record, epoch=3))
        self.rules.validate(self.key, version(self.record, FOUNDER, epoch=3), NOW)

    def test_an_epoch_above_the_roles(self) -> None:
        self.refused(version(self.record, epoch=4))
        self.rules.validate(self.key, version(self.record, epoch=3), NOW)

    def test_a_ciphertext_that_no_record_has(self) -> None:
        self.refused(version(self.record, size=MAX_ENCRYPTED + 1))
        self.refused(version(self.record, size=0))
        large = Version.of(self.record, ALICE, ciphertext=HASH, size=MAX_CIPHERTEXT + 1, epoch=1)
        self.assertTrue(large.blob)
        self.assertIsNone(self.rules.outdates(self.key, large.encode()))

    def test_forged(self) -> None:
        good = version(self.record)
        for change in (
            {"epoch": 2},
            {"ciphertext": "cd" * 32},
            {"size": 2},
            {"signer": str(FOUNDER.peer_id)},
            {"author": str(BOB.peer_id)},
            {"content": "cd" * 32},
            {"author_signature": json.loads(good)["signature"]},
        ):
            with self.subTest(change=change):
                self.refused(changed(good, **change))
        self.refused(good + b" " * MAX_SIGNED)

    def test_by_who_signs_anothers_content_hash(self) -> None:
        """Whoever hears of a hash can sign it; under the author's key only the author's counts."""
        theft = theft_of(self.record, BOB)
        self.assertNotEqual(theft.key, self.key)
        self.refused(theft.encode())
        self.rules.validate(theft.key, theft.encode(), NOW)
        self.assertLessEqual(len(self.key), 80)

    def test_the_highest_epoch_wins(self) -> None:
        old, new = version(self.record), version(self.record, FOUNDER, epoch=2)
        for order in itertools.permutations((old, new)):
            self.assertEqual(order[self.rules.select(self.key, order)], new)
        self.assertTrue(self.rules.replaces(self.key, old, new))
        self.assertFalse(self.rules.replaces(self.key, new, old))
        self.assertFalse(self.rules.replaces(self.key, old, version(self.record, ciphertext="cd" * 32)))
        self.assertEqual(self.rules.author(self.key, old), str(ALICE.peer_id))


class NamespaceTests(PureTestCase):
    def test_names(self) -> None:
        self.assertEqual(set(ucxl_namespaces(Roles())), {"ucxl-ct", "ucxl-ver", "ucxl-head"})
        for rules in ucxl_namespaces(Roles()).values():
            self.assertIsNone(rules.lifetime_s)
