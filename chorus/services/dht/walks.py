"""Runs lookups of the pure core over requests to servers, and puts to what they find."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus.errors import ChorusError
from chorus.protocols.kad.keys import point_of
from chorus.protocols.kad.lookup import Lookup, LookupGoal
from chorus.protocols.kad.messages import KadMessage, KadRecord, RequestKind, encode
from chorus.protocols.stream import StreamReset
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import PeerId
    from chorus.protocols.kad.lookup import Ask, LookupOutcome, ValueRules
    from chorus.protocols.kad.messages import Contact
    from chorus.services.dht.servers import KnownServers


LEAST_WAIT_S = 0.001
WHOLE_S = 600.0
"""Seconds for which a lookup that met nobody unknown shows that the table has every server of a small network; who
comes later connects and enters it."""


class LookupRun:
    """One lookup on its way. `finished` fires with its outcome, whatever peers do; cancel it to give up.

    Requests in flight at the end go on, for the table to learn from.
    """

    _log = Logger()

    def __init__(self, lookup: Lookup, servers: KnownServers, clock: IReactorTime) -> None:
        self._lookup = lookup
        self._servers = servers
        self._clock = clock
        self._timer = Timer(clock, self._turn)
        self._encoded: tuple[KadMessage, bytes] | None = None
        self._turning = False
        self._again = False
        self.finished: Deferred[LookupOutcome] = Deferred(lambda _: self._timer.cancel())

    def start(self) -> Deferred[LookupOutcome]:
        self._turn()
        return self.finished

    def _turn(self) -> None:
        """Send what is due. Requests that fail at once come back here while it runs."""
        if self._turning:
            self._again = True
            return
        self._turning = True
        try:
            self._again = True
            while self._again and not self.finished.called:
                self._again = False
                for ask in self._lookup.step(self._clock.seconds()):
                    self._send(ask)
        finally:
            self._turning = False
        if self.finished.called:
            return
        if self._lookup.done:
            self._timer.cancel()
            self.finished.callback(self._lookup.outcome())
        elif (wake_at := self._lookup.wake_at) is not None:
            # A time that rounding puts a little before the one meant must not be looked at again and again.
            self._timer.arm(max(LEAST_WAIT_S, wake_at - self._clock.seconds()))

    def _send(self, ask: Ask) -> None:
        if self._encoded is None or self._encoded[0] is not ask.request:
            self._encoded = ask.request, encode(ask.request)
        reply = Deferred.fromCoroutine(self._servers.ask(ask.contact, ask.request, self._encoded[1]))
        reply.addCallbacks(self._answered, self._failed, callbackArgs=(ask,), errbackArgs=(ask,))
        reply.addErrback(lambda failure: self._log.failure("internal error in a lookup", failure))

    def _answered(self, reply: KadMessage, ask: Ask) -> None:
        try:
            self._lookup.answered(ask, reply, self._servers.address(ask.contact.peer))
        except Exception:
            self._log.failure("internal error in judging a reply")
            self._lookup.failed(ask)
        self._turn()

    def _failed(self, failure: Failure, ask: Ask) -> None:
        if not isinstance(failure.value, ChorusError):
            self._log.failure("internal error in a request", failure)
        self._lookup.failed(ask)
        self._turn()


@attrs.define
class Deliveries:
    """Servers that took a record, refused it, or gave no answer (yet)."""

    confirmed: list[PeerId] = attrs.field(factory=list)
    refused: list[PeerId] = attrs.field(factory=list)


class Walks:
    """Lookups and puts of one node. `own` is its peer id; chance is `rng`."""

    _log = Logger()

    def __init__(self, own: PeerId, servers: KnownServers, clock: IReactorTime, rng: random.Random) -> None:
        self._own = own
        self._servers = servers
        self._clock = clock
        self._rng = rng
        self._whole_until = -math.inf

    # Lookups

    async def find(
        self,
        kind: RequestKind,
        key: bytes,
        *,
        rules: ValueRules | None = None,
        enough: int | None = None,
        paths: int = 1,
    ) -> LookupOutcome:
        """Look `key` up; see `LookupGoal`. Ends within `walk_s`; nobody to ask is an empty outcome."""
        servers, table = self._servers, self._servers.table
        network = table.size_estimate()
        goal = LookupGoal(
            kind, key, self._own, rules, enough, paths if network is not None else 1, network, servers.connected
        )
        point, now = point_of(key), self._clock.seconds()
        lookup = Lookup(goal, servers.nearest(point, servers.params.k), servers.params, now, self._rng)
        outcome = await LookupRun(lookup, servers, self._clock).start()
        table.looked_up(point, self._clock.seconds())
        return outcome

    async def closest(self, key: bytes, most: int) -> tuple[Contact, ...]:
        """At most so many servers closest to a key, without a lookup where the table has every server. All in the
        region of a crowded key: the nearest of them may be liars (CVE-2023-26248)."""
        table, k = self._servers.table, self._servers.params.k
        if len(table) < k and self._clock.seconds() < self._whole_until:
            return tuple(self._servers.nearest(point_of(key), min(k, most)))
        outcome = await self.find(RequestKind.FIND_NODE, key)
        return outcome.closest if outcome.dense else outcome.closest[:most]

    async def refresh(self) -> LookupOutcome:
        """Look for the own id, then for a key in each bucket that is due; returns the first outcome."""
        table, now = self._servers.table, self._clock.seconds()
        outcome = await self.find(RequestKind.FIND_NODE, self._own.raw)
        known = outcome.complete and all(contact.peer in table for contact in outcome.closest)
        self._whole_until = now + WHOLE_S if known and len(table) < self._servers.params.k else -math.inf
        for bucket in table.due(now):
            await self.find(RequestKind.FIND_NODE, table.refresh_key(bucket, self._rng))
        return outcome

    # Puts

    def put(
        self, contacts: Sequence[Contact], key: bytes, value: bytes, wanted: int, publisher: PeerId | None = None
    ) -> Deferred[Deliveries]:
        """Send a record to servers, a copy with its publisher. Fires once each has answered or failed, or `wanted` have
        confirmed it and the others are overdue; what they answer later is still noted."""
        request = KadMessage(RequestKind.PUT_VALUE, key, KadRecord(key, value, publisher=publisher))
        encoded = encode(request)
        return self._deliver(contacts, wanted, lambda contact: self._servers.ask(contact, request, encoded))

    def announce(self, contacts: Sequence[Contact], key: bytes, own: Contact, wanted: int) -> Deferred[Deliveries]:
        """Send our provider record to servers; as `put`."""
        request = KadMessage(RequestKind.ADD_PROVIDER, key, providers=(own,))
        return self._deliver(contacts, wanted, lambda contact: self._servers.tell(contact, request))

    def _deliver(
        self, contacts: Sequence[Contact], wanted: int, send: Callable[[Contact], Coroutine[Any, Any, object]]
    ) -> Deferred[Deliveries]:
        deliveries = Deliveries()
        done: Deferred[Deliveries] = Deferred(lambda _: overdue.cancel())
        left = len(contacts)
        late = False

        def look() -> None:
            if not done.called and (not left or (late and len(deliveries.confirmed) >= wanted)):
                overdue.cancel()
                done.callback(deliveries)

        def is_late() -> None:
            nonlocal late
            late = True
            look()

        def ended(result: object, peer: PeerId) -> None:
            nonlocal left
            left -= 1
            if not isinstance(result, Failure):
                deliveries.confirmed.append(peer)
            elif isinstance(result.value, StreamReset) and result.value.remote:
                deliveries.refused.append(peer)
            elif not isinstance(result.value, ChorusError):
                self._log.failure("internal error in a put", result)
            look()

        overdue = Timer(self._clock, is_late)
        overdue.arm(self._servers.params.slow_s)
        for contact in contacts:
            Deferred.fromCoroutine(send(contact)).addBoth(ended, contact.peer)
        look()
        return done
