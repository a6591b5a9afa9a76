"""The DHT of a node that is alone, or has it switched off: everything stays on one machine."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock

from chorus.identity import Identity
from chorus.protocols.kad.namespaces import BadRecordKey
from chorus.services.dht.namespaces import Unvalidated
from chorus.services.dht.ports import RecordNotFound
from chorus.services.dht.service import DhtService
from chorus.services.dht.settings import DhtSettings
from chorus.store.inline import InlineDatabase
from tests.services.memory_host import MemoryHost
from tests.support import PureTestCase

KEY = b"/test/a"
OWN = Identity.from_seed(bytes(32)).peer_id


class LocalTests(PureTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())  # type: ignore[no-untyped-call]
        self.store = InlineDatabase(self.path)
        self.addCleanup(self.close)
        self.dht = self.start()

    def close(self) -> None:
        self.store.close()

    def start(self, **settings: Any) -> DhtService:
        dht = DhtService(
            MemoryHost(OWN, Clock()),
            self.store,
            Clock(),
            namespaces={"test": Unvalidated()},
            wall=lambda: 1000.0,
            rng=random.Random(1),
            settings=DhtSettings(enabled=False, **settings),
        )
        self.successResultOf(dht.startService())
        return dht

    def test_what_is_put_is_read_and_held_here(self) -> None:
        stored = self.successResultOf(self.dht.put(KEY, b"value"))
        self.assertEqual((stored.holders, stored.wanted, stored.safe), ((OWN,), 1, False))
        self.assertEqual(self.successResultOf(self.dht.get(KEY)), b"value")
        self.assertEqual(self.successResultOf(self.dht.holders(KEY)), {OWN: b"value"})

    def test_what_is_not_there_is_a_typed_failure(self) -> None:
        self.failureResultOf(self.dht.get(KEY), RecordNotFound)
        self.failureResultOf(self.dht.get(b"/other/a"), BadRecordKey)
        self.failureResultOf(self.dht.put(b"abc", b"value"), BadRecordKey)

    def test_records_survive_a_restart(self) -> None:
        self.successResultOf(self.dht.put(KEY, b"value"))
        self.store.close()
        self.store = InlineDatabase(self.path)
        self.assertEqual(self.successResultOf(self.start().get(KEY)), b"value")
