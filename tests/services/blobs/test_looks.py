from __future__ import annotations

import hashlib
import random

from chorus.services.blobs import looks
from chorus.services.blobs.looks import Looks, closest, provider_key
from tests.services.blobs.test_service import peer_id
from tests.support import PureTestCase

BLOB = "ab" * 32
OWN, *OTHERS = (peer_id(number) for number in range(1, 7))


class LooksTests(PureTestCase):
    def setUp(self) -> None:
        self.looks = Looks(OWN, random.Random(1))

    def test_distance_is_that_of_the_dht(self) -> None:
        key = provider_key(BLOB)
        self.assertEqual(key, b"\x12\x20" + bytes.fromhex(BLOB))

        def distance(raw: bytes) -> int:
            points = (int.from_bytes(hashlib.sha256(data).digest(), "big") for data in (key, raw))
            return next(points) ^ next(points)

        near = closest(BLOB, OTHERS)
        self.assertEqual([distance(peer.raw) for peer in near], sorted(distance(peer.raw) for peer in OTHERS))

    def test_due_in_order_and_bounded(self) -> None:
        for number in range(20):
            self.looks.add(f"{number:064x}", float(number))
        self.assertEqual(self.looks.due(9.5, 5), [f"{number:064x}" for number in range(5)])
        self.assertEqual(len(self.looks.due(9.5, 50)), 10)
        self.looks.add(f"{0:064x}", 50.0)
        self.assertIn(f"{0:064x}", self.looks.due(9.5, 50), "it keeps its time")

    def test_enough_holders_rest_and_few_do_not(self) -> None:
        self.looks.add(BLOB, 0.0)
        self.looks.seen(BLOB, OTHERS[:3], 3, 0.0)
        self.assertEqual((self.looks.low, self.looks.due(looks.LOOK_S * 0.7, 9)), (0, []))
        self.assertEqual(self.looks.due(looks.LOOK_S * 1.25, 9), [BLOB])
        waits = []
        for _ in range(12):
            self.looks.seen(BLOB, OTHERS[:2], 3, 0.0)
            waits.append(next(n for n in range(1000) if self.looks.due(float(n), 9)))
        self.assertEqual(self.looks.low, 1)
        self.assertLessEqual(waits[0], 13)
        self.assertLessEqual(waits[-1], 750)
        self.assertGreaterEqual(waits[-1], 450)

    def test_the_closest_acts_and_others_only_where_it_does_not(self) -> None:
        everybody = closest(BLOB, [OWN, *OTHERS])
        rank = everybody.index(OWN)
        self.looks.add(BLOB, 0.0)
        for low in range(rank):
            self.assertFalse(self.looks.acts(BLOB, everybody), low)
            self.looks.seen(BLOB, everybody, 99, 0.0)
        self.assertTrue(self.looks.acts(BLOB, everybody))
        self.assertTrue(Looks(OWN, random.Random()).acts(BLOB, [OWN]))

    def test_a_holder_that_leaves_is_missed_soon(self) -> None:
        self.looks.add(BLOB, 0.0)
        self.looks.seen(BLOB, OTHERS[:3], 3, 0.0)
        self.looks.left(OTHERS[4], 1.0)
        self.assertEqual(self.looks.due(1.0 + looks.LEFT_S, 9), [])
        self.looks.left(OTHERS[1], 1.0)
        self.assertEqual(self.looks.due(1.0 + looks.LEFT_S, 9), [BLOB])

    def test_a_newcomer_may_take_what_is_low(self) -> None:
        for number in range(10):
            self.looks.add(f"{number:064x}", 0.0)
            for _ in range(9):
                self.looks.seen(f"{number:064x}", OTHERS[: number % 2 + 2], 3, 0.0)
        self.looks.joined(0.0)
        self.assertEqual(len(self.looks.due(looks.LOW.first, 99)), 5)

    def test_gone_ones_are_forgotten(self) -> None:
        self.looks.add(BLOB, 0.0)
        self.looks.remove(BLOB)
        self.looks.seen(BLOB, OTHERS, 9, 0.0)
        self.assertEqual((len(self.looks), self.looks.low), (0, 0))
