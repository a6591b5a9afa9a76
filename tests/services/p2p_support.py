"""Hosts on real sockets, loopback, for the tests of the parts of a host."""

from __future__ import annotations

import random
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from chorus.identity import Identity
from chorus.protocols.stream import Connection
from chorus.services.p2p.gate import OpenAdmission
from chorus.services.p2p.host import P2PService
from chorus.services.p2p.settings import HostSettings


class HostCase(TestCase):
    timeout = 120

    def host(self, *, start: bool = True, **how: Any) -> P2PService:
        how.setdefault("admission", OpenAdmission())
        how.setdefault("open_mode", isinstance(how["admission"], OpenAdmission))
        settings = HostSettings(**{each: how.pop(each) for each in attrs.fields_dict(HostSettings) if each in how})
        identity = how.pop("identity", None) or Identity.generate()
        host = P2PService(reactor, identity, settings=settings, rng=random.Random(1), **how)
        if start:
            host.startService()
            self.addCleanup(host.stopService)
        return host

    async def dial(self, one: P2PService, two: P2PService) -> Connection:
        return await one.dial(two.peer_id, two.bound_addresses())

    async def until(self, condition: Any) -> None:
        while not condition():
            await deferLater(reactor, 0.005)
