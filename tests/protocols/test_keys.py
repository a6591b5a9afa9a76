"""What members show over /chorus/keys/1.0.0."""

from __future__ import annotations

import json

import attrs
from hypothesis import given
from hypothesis import strategies as st

from chorus.identity import Identity
from chorus.protocols.keys import MAX_SHOW, BadKeyShow, KeyShow
from chorus.security import age
from tests.support import PureTestCase

ALICE, BOB = (Identity.from_seed(bytes((seed,)) * 32) for seed in (1, 2))
CLUSTER = bytes(range(32))
RECIPIENT = age.recipient_of(age.identity_of(b"\3" * 32))
SHOW = KeyShow.make(ALICE, CLUSTER, RECIPIENT, (2, 7))


class KeyShows(PureTestCase):
    def refused(self, data: bytes, signer: Identity = ALICE, cluster: bytes = CLUSTER) -> None:
        error = self.assertRaises(BadKeyShow, KeyShow.decode, data, signer.peer_id, cluster)
        self.assertNotIn("\n", str(error))

    def test_what_is_shown_is_read(self) -> None:
        self.assertEqual(KeyShow.decode(SHOW.encode(), ALICE.peer_id, CLUSTER), SHOW)
        self.assertLess(len(SHOW.encode()), MAX_SHOW // 2)

    def test_newer_members_may_say_more(self) -> None:
        value = {**json.loads(SHOW.encode()), "later": 1}
        self.assertEqual(KeyShow.decode(json.dumps(value).encode(), ALICE.peer_id, CLUSTER), SHOW)

    def test_nobody_shows_for_another(self) -> None:
        self.refused(SHOW.encode(), BOB)
        self.refused(SHOW.encode(), cluster=bytes(32))
        other = age.recipient_of(age.identity_of(b"\4" * 32))
        self.refused(attrs.evolve(SHOW, recipient=other).encode())

    def test_limits(self) -> None:
        for wrong in (
            attrs.evolve(SHOW, recipient="age1" + "q" * 200),
            attrs.evolve(SHOW, recipient="AGE-SECRET-KEY-1"),
            attrs.evolve(SHOW, signature=b""),
            attrs.evolve(SHOW, signature=bytes(65)),
            attrs.evolve(SHOW, serial=-1),
            attrs.evolve(SHOW, epoch=-1),
        ):
            self.refused(wrong.encode())
        self.refused(SHOW.encode() + b" " * MAX_SHOW)

    def test_cut_at_every_byte(self) -> None:
        data = SHOW.encode()
        for at in range(len(data)):
            self.refused(data[:at])

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        self.refused(data)
