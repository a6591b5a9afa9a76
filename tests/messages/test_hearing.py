"""Whether there is room for one more message, of its publisher and of who passes it on."""

from __future__ import annotations

import random

from chorus.messages import hearing
from chorus.messages.hearing import MAX_AUTHORS, Hearing, Room
from chorus.messages.rates import NEWCOMERS, OWN, RELAYED, THROUGH_OTHERS
from tests.support import PureTestCase

RELAY, OTHER = b"relay", b"another relay"


class HearingCase(PureTestCase):
    def setUp(self) -> None:
        self.hearing = Hearing()
        self.now = 100.0

    def say(self, author: bytes, *, by: bytes = RELAY, tokens: int = 1, connected: bool = True) -> Room:
        room = self.hearing.room(author, by, tokens, self.now, connected=connected)
        if room is Room.FREE:
            self.hearing.take(author, by, tokens, self.now, connected=connected)
        return room

    def said(self, author: bytes, times: int, **more: object) -> int:
        """How many of them there was room for."""
        return sum(self.say(author, **more) is Room.FREE for _ in range(times))  # type: ignore[arg-type]


class Alone(HearingCase):
    def test_an_author_itself_is_bounded_in_messages_and_in_bytes(self) -> None:
        self.assertEqual(self.said(b"a", 3000, by=b"a"), OWN.burst)
        self.assertEqual(self.said(b"b", 1200, by=b"b", tokens=32), OWN.burst // 32)
        self.assertEqual(self.say(b"b", by=b"b", tokens=32), Room.AUTHOR)
        self.assertEqual(self.hearing.own(b"b", self.now), -OWN.depth, "and what is too much is held against it")

    def test_through_others_nothing_is_held_against_it(self) -> None:
        self.assertEqual(self.said(b"a", 3000), THROUGH_OTHERS.burst)
        self.assertEqual(self.say(b"a", by=OTHER), Room.AUTHOR)
        self.assertEqual(self.hearing.own(b"a", self.now), OWN.burst)
        self.assertEqual(self.say(b"a", by=b"a"), Room.FREE)

    def test_a_busy_scheduler_behind_one_relay_is_heard_in_full(self) -> None:
        self.assertEqual(self.said(b"a", 2000), 2000)
        for _ in range(1000):
            self.now += 0.1
            self.assertEqual(self.said(b"a", 19), 19)

    def test_what_finds_no_room_takes_none(self) -> None:
        self.said(b"a", 3000)
        for _ in range(100):
            self.now += 1 / THROUGH_OTHERS.per_second / 1.1
            self.say(b"a")
        self.assertGreater(self.said(b"a", 0) + 100 / 1.1, 89)
        before = self.hearing._relayed.level(RELAY, self.now)
        self.assertEqual(self.say(b"a", tokens=32), Room.AUTHOR)
        self.assertEqual(self.hearing._relayed.level(RELAY, self.now), before)


class Limits(HearingCase):
    """What is left to the token, and one token more."""

    def room(self, author: bytes, tokens: int, *, by: bytes = RELAY) -> Room:
        return self.hearing.room(author, by, tokens, self.now, connected=True)

    def test_of_an_author(self) -> None:
        for by, burst in ((b"a", OWN.burst), (RELAY, THROUGH_OTHERS.burst)):
            self.assertEqual(self.room(b"a", int(burst), by=by), Room.FREE)
            self.assertEqual(self.room(b"a", int(burst) + 1, by=by), Room.AUTHOR)

    def test_of_who_passes_it_on(self) -> None:
        for author, tokens in ((b"a", 2000), (b"b", 2000), (b"c", 990)):
            self.hearing.take(author, RELAY, tokens, self.now, connected=True)
        self.assertEqual((self.room(b"d", 10), self.room(b"d", 11)), (Room.FREE, Room.RELAY))
        self.hearing.take(b"e", RELAY, 3, self.now, connected=True)
        self.assertEqual((self.room(b"e", 4), self.room(b"e", 5)), (Room.FREE, Room.RELAY), "3 that it had, 7 left")

    def test_who_was_heard_longest_ago_is_forgotten_first(self) -> None:
        self.patch(hearing, "MAX_AUTHORS", 2)
        self.hearing = Hearing()
        for author in (b"a", b"b", b"a", b"c"):
            self.say(author, connected=False)
        self.assertEqual(list(self.hearing._authors), [b"a", b"c"])
        self.assertEqual(self.hearing._newcomers.level(RELAY, self.now), NEWCOMERS.burst - 3)

    def test_connected_authors_are_no_newcomers(self) -> None:
        self.say(b"a")
        self.assertEqual((self.hearing._authors, self.hearing._newcomers.level(RELAY, 1e9)), ({}, NEWCOMERS.burst))
        self.hearing._newcomers.spend(RELAY, self.now, NEWCOMERS.burst)
        self.assertEqual(self.room(b"b", 1), Room.FREE)
        self.assertEqual(self.hearing.room(b"b", RELAY, 1, self.now, connected=False), Room.RELAY)
        self.now += 1 / NEWCOMERS.per_second
        self.assertEqual(self.hearing.room(b"b", RELAY, 1, self.now, connected=False), Room.FREE)


class Shared(HearingCase):
    """One relay, and others that flood through it."""

    def flooded(self, floods: int, rate: float, quiet: int, seconds: int = 20) -> tuple[int, int]:
        """What was heard of `quiet` words of a known author, and of all who flood at `rate` each, mixed by chance."""
        rng = random.Random(1)
        authors = [b"%d" % number for number in range(floods)]
        asked = int(seconds * floods * rate)
        heard = heard_of_floods = 0
        for author in authors:
            heard_of_floods += self.said(author, 1000)
        for number in range(asked):
            self.now += seconds / asked
            heard_of_floods += self.said(rng.choice(authors), 1)
            if number % (asked // quiet) == asked // quiet - 1:
                heard += self.said(b"quiet", 1)
        return heard, heard_of_floods

    def test_who_says_little_is_heard(self) -> None:
        heard, floods = self.flooded(12, 200.0, 30)
        self.assertEqual(heard, 30)
        self.assertGreater(floods, RELAYED.burst + 18 * RELAYED.per_second, "what there is room for is not wasted")
        self.assertLess(floods, RELAYED.burst + 20 * RELAYED.per_second)

    def test_also_where_a_hundred_flood(self) -> None:
        self.assertEqual(self.flooded(100, 30.0, 30)[0], 30)

    def test_a_large_word_too(self) -> None:
        self.flooded(12, 200.0, 1)
        self.assertEqual(self.say(b"quiet", tokens=32), Room.FREE)

    def test_all_have_the_same(self) -> None:
        authors = [b"%d" % number for number in range(20)]
        heard = dict.fromkeys(authors, 0)
        for _ in range(300):
            self.now += 0.1
            for number, author in enumerate(authors):
                heard[author] += self.said(author, 10 + number)
        self.assertLess(max(heard.values()), 1.2 * min(heard.values()))

    def test_what_one_relay_has_no_room_for_another_may_have(self) -> None:
        authors = [b"%d" % number for number in range(12)]
        for author in authors:
            self.said(author, 1000)
        self.assertEqual(self.say(authors[0]), Room.RELAY)
        self.assertEqual(self.say(authors[0], by=OTHER), Room.FREE)


class Newcomers(HearingCase):
    def test_few_at_once_from_one_relay(self) -> None:
        names = [b"%d" % number for number in range(400)]
        rooms = [self.say(name, connected=False) for name in names]
        self.assertEqual(rooms.count(Room.FREE), NEWCOMERS.burst)
        self.assertEqual(self.say(names[399], connected=False), Room.RELAY)
        self.assertEqual(self.say(names[399], by=OTHER, connected=False), Room.FREE)
        self.assertEqual(self.say(names[399], connected=False), Room.FREE, "known from now on")

    def test_others_without_end_do_not_keep_one_out(self) -> None:
        """Forty invented a second, and one that joined and says something twice a second."""
        self.said_by_new = 0
        number = tries = 0
        while tries < 200:
            self.now += 0.025
            number += 1
            self.say(b"%d" % number, connected=False)
            if number % 20 == 7:
                self.now += 0.0137
                tries += 1
                self.said_by_new += self.say(b"new", connected=False) is Room.FREE
        self.assertGreater(self.said_by_new, 50)

    def test_who_was_heard_is_remembered_within_bounds(self) -> None:
        for number in range(MAX_AUTHORS + 100):
            self.say(b"%d" % number, by=b"relay %d" % (number // 200), connected=False)
        self.assertEqual(len(self.hearing._authors), MAX_AUTHORS)
