"""Records of the DHT in the database: which stay, which are refused, and what counts in whose quota."""

from __future__ import annotations

from pathlib import Path

import attrs

from chorus.store import dht as table
from chorus.store.connection import migrate, open_writer
from chorus.store.dht import OWN, DhtFull, HeldProvider, HeldRecord, Quotas, RecordOutdated, RecordRules
from tests.support import PureTestCase

BIGGER = RecordRules(lambda held, new: int(new) > int(held))
FORKS = RecordRules(lambda held, new: int(new) // 10 > int(held) // 10, variants=2)
RECORD = HeldRecord(b"/n/a", b"10", "author", "sender", "sender", 1.0, None)


class TableCase(PureTestCase):
    def setUp(self) -> None:
        path = Path(self.mktemp())  # type: ignore[no-untyped-call]
        self.db = open_writer(path)
        migrate(self.db, path)
        self.addCleanup(self.db.close)

    def keep(
        self, value: bytes, rules: RecordRules = BIGGER, quotas: Quotas | None = None, **changes: object
    ) -> list[bytes]:
        record = attrs.evolve(RECORD, value=value, **changes)
        return [each.value for each in table.keep(self.db, record, rules, quotas or Quotas())]

    def values(self, key: bytes = RECORD.key) -> list[bytes]:
        return [each.value for each in table.records(self.db, key)]


class RecordTests(TableCase):
    def test_the_better_one_replaces_and_the_worse_one_is_refused(self) -> None:
        self.assertEqual(self.keep(b"1"), [b"1"])
        self.assertEqual(self.keep(b"2"), [b"2"])
        self.assertRaises(RecordOutdated, self.keep, b"1")
        self.assertEqual(self.keep(b"2"), [b"2"])
        self.assertEqual(table.usage(self.db), (1, len(b"/n/a2")))

    def test_both_sides_of_a_fork_stay_and_no_third(self) -> None:
        self.keep(b"10", FORKS)
        self.assertEqual(set(self.keep(b"11", FORKS)), {b"10", b"11"})
        self.assertRaises(RecordOutdated, self.keep, b"12", FORKS)
        self.assertRaises(RecordOutdated, self.keep, b"9", FORKS)
        self.assertEqual(self.keep(b"20", FORKS), [b"20"])

    def test_quotas_of_all_of_a_sender_and_of_an_author(self) -> None:
        for who in ("total_records", "one_records"):
            quotas = Quotas(**{who: 1})
            self.assertEqual(self.keep(b"1", quotas=quotas, key=who.encode()), [b"1"])
            self.assertRaises(DhtFull, self.keep, b"1", quotas=quotas, key=b"another")
            self.db.execute("DELETE FROM dht_records")
            self.db.execute("DELETE FROM dht_usage")
        quotas = Quotas(one_bytes=12)
        self.keep(b"1", quotas=quotas)
        self.assertRaises(DhtFull, self.keep, b"1", quotas=quotas, key=b"/n/another", author=None)
        self.assertRaises(DhtFull, self.keep, b"1", quotas=quotas, key=b"/n/another", sender="other")
        self.keep(b"1", quotas=quotas, key=b"/n/another", sender="other", author="other")
        self.assertRaises(DhtFull, self.keep, b"12345678901234567", quotas=quotas)

    def test_own_records_count_in_the_quota_of_all_alone(self) -> None:
        quotas = Quotas(total_records=3, one_records=1)
        for key in (b"/n/1", b"/n/2"):
            self.keep(b"1", quotas=quotas, key=key, sender=OWN, publisher=OWN)
        self.keep(b"1", quotas=quotas, key=b"/n/3")
        self.assertRaises(DhtFull, self.keep, b"1", quotas=quotas, key=b"/n/4", sender=OWN)
        self.db.execute("UPDATE dht_records SET expires_at = 1 WHERE key = ?", (b"/n/1",))
        self.assertEqual(table.sweep(self.db, 2.0, 100), [b"/n/1"])
        self.assertEqual([table.usage(self.db, who)[0] for who in ("", "s:", "a:author")], [2, 0, 1])

    def test_copies_of_a_sender_have_a_quota_of_their_own(self) -> None:
        quotas = Quotas(one_records=1)
        self.keep(b"1", quotas=quotas, key=b"/n/1", author=None, publisher="other")
        self.assertRaises(DhtFull, self.keep, b"1", quotas=quotas, key=b"/n/2", author=None, publisher="a third")
        self.keep(b"1", quotas=quotas, key=b"/n/3", author=None)
        self.assertEqual([table.usage(self.db, who)[0] for who in ("s:sender", "c:sender", "s:other")], [1, 1, 0])
        self.assertRaises(DhtFull, self.keep, b"1", quotas=quotas, key=b"/n/4", author=None)
        self.keep(b"2", key=b"/n/1", author=None)
        self.assertEqual(table.usage(self.db, "c:sender"), (0, 0))

    def test_usage_follows_what_is_held(self) -> None:
        for number in range(5):
            self.keep(b"1", key=b"/n/%d" % number, expires_at=float(number))
        self.assertEqual(table.usage(self.db, "a:author")[0], 5)
        self.assertEqual(len(table.sweep(self.db, 2.0, 100)), 3)
        self.assertEqual([table.usage(self.db, who)[0] for who in ("", "s:sender", "a:author")], [2, 2, 2])

    def test_what_a_replaced_record_named_expires_a_day_later(self) -> None:
        self.keep(b"7", key=b"/ct/1", published_at=3.0)
        rules = attrs.evolve(BIGGER, outdates=lambda held: b"/ct/" + held)
        self.keep(b"1", rules)
        self.keep(b"2", rules, stored_at=50.0)
        (outdated,) = table.records(self.db, b"/ct/1")
        self.assertEqual((outdated.expires_at, outdated.published_at), (50.0 + 86400, None))
        # Somebody who does not know yet sends it again: the end stays.
        self.keep(b"7", key=b"/ct/1")
        self.assertEqual(table.records(self.db, b"/ct/1")[0].expires_at, 50.0 + 86400)

    def test_what_another_record_names_stays(self) -> None:
        """Whoever names the ciphertext of others in a record of their own, and replaces it, does not end it."""
        self.keep(b"7", key=b"/ct/1", published_at=3.0)
        rules = attrs.evolve(BIGGER, outdates=lambda held: b"/ct/1" if held == b"1" else None)
        self.keep(b"1", rules, key=b"/n/owner")
        self.keep(b"1", rules, key=b"/n/liar", sender="liar", publisher="liar")
        self.keep(b"2", rules, key=b"/n/liar", sender="liar", publisher="liar")
        (named,) = table.records(self.db, b"/ct/1")
        self.assertEqual((named.expires_at, named.published_at), (None, 3.0))
        self.keep(b"2", rules, key=b"/n/owner")
        self.assertIsNotNone(table.records(self.db, b"/ct/1")[0].expires_at)

    def test_pages_never_split_a_key(self) -> None:
        for key in (b"/n/a", b"/n/b", b"/n/c"):
            self.keep(b"10", FORKS, key=key)
            self.keep(b"11", FORKS, key=key)
        first = table.page(self.db, b"", 3)
        self.assertEqual([each.key for each in first], [b"/n/a"] * 2 + [b"/n/b"] * 2)
        self.assertEqual([each.key for each in table.page(self.db, first[-1].key, 3)], [b"/n/c"] * 2)


class ProviderTests(TableCase):
    def test_a_key_has_so_many_and_no_more(self) -> None:
        for number in range(3):
            table.provide(self.db, HeldProvider(b"k", str(number), ("/ip4/10.0.0.1/tcp/1",), float(number)), 3)
        self.assertRaises(DhtFull, table.provide, self.db, HeldProvider(b"k", "3", (), 3.0), 3)
        table.provide(self.db, HeldProvider(b"k", "0", (), 4.0), 3)
        found = table.providers(self.db, b"k", 1.5, 10)
        self.assertEqual([each.peer for each in found], ["0", "2"])
        self.assertEqual(table.sweep_providers(self.db, 3.0, 10), 2)
        self.assertEqual(table.usage(self.db, table.ALL_PROVIDERS)[0], 1)

    def test_own_announcements_do_not_expire_here(self) -> None:
        table.provide(self.db, HeldProvider(b"k", "me", (), 0.0, 0.0), 3)
        self.assertEqual(table.sweep_providers(self.db, 9e9, 10), 0)
        self.assertEqual([each.peer for each in table.unannounced(self.db, 1.0, 10)], ["me"])
        table.announced(self.db, b"k", "me", 5.0)
        self.assertEqual(table.unannounced(self.db, 1.0, 10), [])
        self.assertTrue(table.withdraw(self.db, b"k", "me"))
