"""Holders of a decision that was encrypted anew: the older ciphertext goes a day later."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from chorus.identity import Identity
from chorus.protocols.kad.namespaces import Namespaces
from chorus.services.dht.held import HeldRecords
from chorus.store.dht import Quotas
from chorus.store.inline import InlineDatabase
from chorus.ucxl.documents import sha256
from chorus.ucxl.namespaces import ucxl_namespaces
from chorus.ucxl.record import Decision
from chorus.ucxl.signed import Version, ciphertext_key
from tests.support import PureTestCase

AUTHOR = Identity.from_seed(b"a".ljust(32))
DAY_S = 24 * 3600.0


class Writers:
    epoch = 2
    founder = None

    def wrote_under(self, peer: Any) -> Mapping[str, int]:
        return {"developer": self.epoch}


class OutdatedTest(PureTestCase):
    def setUp(self) -> None:
        self.now = 1_800_000_000.0
        folder = Path(self.mktemp())
        folder.mkdir(parents=True)
        store = InlineDatabase(folder / "chorus.db")
        self.addCleanup(store.close)
        namespaces: Any = ucxl_namespaces(Writers())
        self.held = HeldRecords(store, Namespaces(namespaces), AUTHOR.peer_id, lambda: self.now, Quotas())
        peer = str(AUTHOR.peer_id)
        self.decision = Decision(
            address=f"ucxl://{peer}:developer@none:t",
            agent=peer,
            peer_id=peer,
            role="developer",
            project="none",
            task="t",
            seq=1,
            created=1,
            kind="design",
            summary="x",
        ).signed(AUTHOR)

    def put(self, epoch: int, ciphertext: bytes) -> bytes:
        key = ciphertext_key(sha256(ciphertext))
        version = Version.of(self.decision, AUTHOR, ciphertext=sha256(ciphertext), size=len(ciphertext), epoch=epoch)
        self.do(self.held.put(key, ciphertext))
        self.do(self.held.put(version.key, version.encode()))
        return key

    def do(self, work: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(work))

    def has(self, key: bytes) -> bool:
        return bool(self.do(self.held.get(key)))

    def test_a_day_after_the_newer_version(self) -> None:
        old, new = self.put(1, b"old"), self.put(2, b"new")
        self.now += DAY_S - 1
        self.do(self.held.sweep(100))
        self.assertEqual((self.has(old), self.has(new)), (True, True))
        self.do(self.held.put(old, b"old"))
        self.now += 2
        self.do(self.held.sweep(100))
        self.assertEqual((self.has(old), self.has(new)), (False, True))

    def test_never_without_one(self) -> None:
        key = self.put(1, b"old")
        self.now += 400 * DAY_S
        self.do(self.held.sweep(100))
        self.assertTrue(self.has(key))
