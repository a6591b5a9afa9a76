"""The router's parts, each on its own: caches, backoffs, parameters, mesh choices, framing."""

from __future__ import annotations

import random
from collections import deque

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.errors import LimitExceeded, PeerError
from chorus.multiformats import varint
from chorus.protocols.delimited import DelimitedDecoder, delimit
from chorus.protocols.gossipsub import choices as gossip_mesh
from chorus.protocols.gossipsub.backoff import PruneBackoffs, clamp
from chorus.protocols.gossipsub.history import SeenCache
from chorus.protocols.gossipsub.mcache import MessageCache
from chorus.protocols.gossipsub.params import MAX_BACKOFF, GossipParams, ParameterError
from tests.support import PureTestCase


class Seen(PureTestCase):
    def test_once_until_the_time_is_over(self) -> None:
        seen = SeenCache(120, 10)
        self.assertTrue(seen.add(b"a", 0))
        self.assertFalse(seen.add(b"a", 100))
        seen.expire(119.9)
        self.assertIn(b"a", seen)
        seen.expire(120)
        self.assertNotIn(b"a", seen, "a later sight does not prolong")
        self.assertTrue(seen.add(b"a", 121))

    def test_bounded_in_entries(self) -> None:
        seen = SeenCache(120, 1000)
        for number in range(5000):
            seen.add(number.to_bytes(4, "big"), 0)
        self.assertEqual((len(seen), len(seen._order)), (1000, 1000))
        self.assertIn((4999).to_bytes(4, "big"), seen)
        self.assertNotIn((3999).to_bytes(4, "big"), seen)


class Cache(PureTestCase):
    def test_windows(self) -> None:
        cache = MessageCache(5, 3, 1 << 20)
        for window in range(5):
            cache.put(b"%d" % window, "t", b"frame")
            cache.shift()
        self.assertEqual(cache.gossip_ids(), {"t": [b"3", b"4"]}, "the current window is empty")
        self.assertEqual(len(cache), 4)
        self.assertIsNone(cache.frame_for(b"0", b"peer", 3))
        for _ in range(4):
            cache.shift()
        self.assertEqual((len(cache), cache.size, cache.gossip_ids()), (0, 0, {}))

    def test_by_topic_oldest_first(self) -> None:
        cache = MessageCache(5, 3, 1 << 20)
        for number in range(6):
            cache.put(b"%d" % number, "ab"[number % 2], b"")
        self.assertEqual(cache.gossip_ids(), {"a": [b"0", b"2", b"4"], "b": [b"1", b"3", b"5"]})

    def test_each_peer_gets_a_message_three_times(self) -> None:
        cache = MessageCache(5, 3, 1 << 20)
        cache.put(b"id", "t", b"frame")
        self.assertEqual([cache.frame_for(b"id", b"p", 3) for _ in range(5)], [b"frame"] * 3 + [None] * 2)
        self.assertEqual(cache.frame_for(b"id", b"q", 3), b"frame")

    def test_bounded_in_bytes(self) -> None:
        cache = MessageCache(5, 3, 1000)
        for number in range(50):
            cache.put(b"%d" % number, "t", bytes(100))
            if number % 7 == 0:
                cache.shift()
        self.assertEqual((len(cache), cache.size), (10, 1000))
        self.assertIsNone(cache.frame_for(b"39", b"p", 3))
        self.assertIsNotNone(cache.frame_for(b"40", b"p", 3))

    @given(st.lists(st.one_of(st.integers(0, 300), st.none()), max_size=80))
    @settings(max_examples=100, deadline=None)
    def test_counts_agree_after_anything(self, steps):
        cache = MessageCache(5, 3, 1000)
        for number, size in enumerate(steps):
            if size is None:
                cache.shift()
            else:
                cache.put(b"%d" % number, "t", bytes(size))
            self.assertEqual(sum(window.count for window in cache._windows), len(cache))
            by_topic = [ids for window in reversed(cache._windows) for ids in window.topics.values()]
            self.assertEqual(sum(by_topic, deque()), cache._order)
            self.assertTrue(all(by_topic))
            self.assertEqual(len(cache._order), len(cache))
            self.assertLessEqual(cache.size, 1000)
            self.assertLessEqual(sum(map(len, cache.gossip_ids().values())), len(cache))


class Backoff(PureTestCase):
    def test_cve_2026_33040_cve_2026_34219_backoff_is_clamped(self) -> None:
        for seconds, expected in (
            (None, 60),
            (0, 60),
            (1, 1),
            (0.5, 0.5),
            (-1, 60),
            (MAX_BACKOFF, MAX_BACKOFF),
            (MAX_BACKOFF + 1, MAX_BACKOFF),
            (2**32, MAX_BACKOFF),
            (2**63, MAX_BACKOFF),
            (2**64 - 1, MAX_BACKOFF),
        ):
            self.assertEqual(clamp(seconds, 60), expected)

    def test_only_prolonged(self) -> None:
        backoffs = PruneBackoffs()
        backoffs.set("t", b"p", 100)
        backoffs.set("t", b"p", 50)
        self.assertEqual(backoffs.until("t", b"p"), 100)
        self.assertEqual(backoffs.until("t", b"q"), 0)

    def test_soon_after_the_clock_began(self) -> None:
        backoffs = PruneBackoffs()
        backoffs.set("t", b"p", 0.5)
        self.assertEqual(backoffs.until("t", b"p"), 0.5)
        backoffs.expire(0.4)
        self.assertEqual(len(backoffs), 1)
        backoffs.expire(0.5)
        self.assertEqual(len(backoffs), 0)

    def test_the_one_set_longest_ago_leaves_first(self) -> None:
        backoffs = PruneBackoffs(2)
        for peer in (b"a", b"b", b"a", b"c"):
            backoffs.set("t", peer, 100)
        self.assertEqual([backoffs.until("t", peer) for peer in (b"a", b"b", b"c")], [100, 0, 100])

    def test_expire(self) -> None:
        backoffs = PruneBackoffs()
        backoffs.set("t", b"p", 100)
        backoffs.set("t", b"q", 200)
        backoffs.expire(150)
        self.assertEqual((len(backoffs), backoffs.until("t", b"p"), backoffs.until("t", b"q")), (1, 0, 200))

    def test_bounded(self) -> None:
        backoffs = PruneBackoffs(10)
        for number in range(30):
            backoffs.set("t", bytes([number]), 100)
        self.assertEqual(len(backoffs), 10)
        self.assertEqual(backoffs.until("t", bytes([29])), 100)


class Params(PureTestCase):
    def test_contradictions_are_refused(self) -> None:
        for wrong in (
            {"d_lo": 7},
            {"d_hi": 5},
            {"d_lo": 0},
            {"d_out": 5},
            {"d_out": 4, "d": 6},
            {"d_score": 7},
            {"heartbeat": 0.0},
            {"mcache_gossip": 6},
            {"mcache_bytes": 10},
            {"gossip_factor": 1.5},
            {"seen_ttl": 5.0},
            {"seen_entries": 0},
            {"prune_backoff": 3601.0},
            {"unsubscribe_backoff": 0.0},
        ):
            with self.assertRaises(ParameterError, msg=str(wrong)):
                GossipParams(**wrong)

    def test_defaults_are_the_deployed_ones(self) -> None:
        params = GossipParams()
        self.assertEqual((params.d, params.d_lo, params.d_hi, params.d_lazy), (6, 5, 12, 6))
        self.assertEqual((params.d_score, params.d_out, params.heartbeat), (4, 2, 1.0))
        self.assertEqual((params.mcache_windows, params.mcache_gossip, params.seen_ttl), (5, 3, 120.0))
        self.assertEqual((params.prune_backoff, params.unsubscribe_backoff), (60.0, 10.0))
        with self.assertRaises(attrs.exceptions.FrozenInstanceError):
            params.d = 1  # type: ignore[misc]


class Mesh(PureTestCase):
    @given(st.integers(13, 40), st.integers(0, 40), st.integers())
    @settings(max_examples=100, deadline=None)
    def test_keep(self, count, outbound_count, seed):
        params = GossipParams()
        members = [bytes([number]) for number in range(count)]
        outbound = set(random.Random(seed).sample(members, min(outbound_count, count)))
        kept = gossip_mesh.keep(members, lambda peer: peer[0] % 5, outbound.__contains__, params, random.Random(seed))
        self.assertEqual(len(kept), params.d)
        self.assertGreaterEqual(len(kept & outbound), min(params.d_out, len(outbound)))

    def test_the_best_stay(self) -> None:
        members = [bytes([number]) for number in range(30)]
        best = {bytes([number]) for number in range(26, 30)}
        for seed in range(20):
            kept = gossip_mesh.keep(members, lambda p: float(p[0]), lambda p: True, GossipParams(), random.Random(seed))
            self.assertLessEqual(best, kept)

    @given(st.lists(st.integers(1, 400), min_size=1, max_size=60), st.integers(60, 2000))
    @settings(max_examples=200, deadline=None)
    def test_fair_share(self, sizes, total):
        share = gossip_mesh.fair_share(sizes, total)
        told = sum(min(size, share) for size in sizes)
        self.assertLessEqual(told, total)
        if told < sum(sizes):
            self.assertGreater(told + len(sizes), total, "one more each would be too many")

    def test_fair_share_of_few_and_of_none(self) -> None:
        self.assertEqual(gossip_mesh.fair_share([3, 500, 7], 100), 90)
        self.assertEqual(gossip_mesh.fair_share([3, 5], 100), 97)
        self.assertEqual((gossip_mesh.fair_share([], 100), gossip_mesh.fair_share([9] * 300, 100)), (100, 1))

    def test_choose(self) -> None:
        rng = random.Random(1)
        self.assertEqual(gossip_mesh.choose([b"a"], 0, rng), [])
        self.assertEqual(gossip_mesh.choose([b"a"], -3, rng), [])
        self.assertEqual(gossip_mesh.choose([], 3, rng), [])
        self.assertEqual(sorted(gossip_mesh.choose([b"a", b"b"], 3, rng)), [b"a", b"b"])


def drain(decoder: DelimitedDecoder) -> list[bytes]:
    messages = []
    while (message := decoder.next_message()) is not None:
        messages.append(message)
    return messages


class Delimited(PureTestCase):
    @given(st.lists(st.binary(max_size=400), max_size=8), st.lists(st.integers(1, 60), max_size=60))
    @settings(max_examples=150, deadline=None)
    def test_any_segmentation(self, messages, cuts):
        stream = b"".join(map(delimit, messages))
        decoder = DelimitedDecoder(1000)
        found: list[bytes] = []
        offset = 0
        for cut in cuts:
            decoder.feed(stream[offset : offset + cut])
            offset += cut
            if cut % 3:
                found += drain(decoder)
        decoder.feed(stream[offset:])
        found += drain(decoder)
        self.assertEqual(found, [message for message in messages if message])
        self.assertFalse(decoder.partial)

    def test_split_at_every_byte(self) -> None:
        stream = delimit(b"a" * 200) + b"\x00" + delimit(b"b") + delimit(b"c" * 300)
        for cut in range(len(stream) + 1):
            decoder = DelimitedDecoder(1000)
            decoder.feed(stream[:cut])
            found = drain(decoder)
            decoder.feed(stream[cut:])
            self.assertEqual(found + drain(decoder), [b"a" * 200, b"b", b"c" * 300])
        decoder = DelimitedDecoder(1000)
        found = []
        for index in range(len(stream)):
            decoder.feed(stream[index : index + 1])
            found += drain(decoder)
        self.assertEqual(found, [b"a" * 200, b"b", b"c" * 300])

    def test_limit_by_the_prefix_alone(self) -> None:
        for prefix in (varint.encode(1001), b"\xff\xff\xff", b"\xff\x0f", varint.encode(2**60)):
            decoder = DelimitedDecoder(1000)
            decoder.feed(prefix)
            with self.assertRaises(PeerError):
                drain(decoder)
        decoder = DelimitedDecoder(100)
        decoder.feed(b"\x65")
        with self.assertRaises(LimitExceeded):
            drain(decoder)

    def test_prefix_that_is_not_minimal(self) -> None:
        decoder = DelimitedDecoder(1000)
        decoder.feed(b"\x81\x00a")
        with self.assertRaises(PeerError):
            drain(decoder)

    def test_work_is_linear(self) -> None:
        """A megabyte byte by byte: each byte is copied twice, not half a million times."""
        stream = delimit(bytes(1 << 20))
        decoder = DelimitedDecoder(1 << 20)
        joins = 0
        for index in range(0, len(stream), 16):
            decoder.feed(stream[index : index + 16])
            joins += decoder._data != b""
            found = drain(decoder)
        self.assertEqual(list(map(len, found)), [1 << 20])
        self.assertLessEqual(joins, 2)
