"""Clients of a simulated cluster: each operation goes to some member, and all answers must be linearizable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from chorus.errors import ChorusError
from chorus.simulation.clock import EPOCH_NS
from chorus.simulation.leadership.face import MemberFace
from chorus.simulation.leadership.requests import ClientRequest
from chorus.simulation.leadership.serving import encode
from chorus.simulation.ledger.clients import ClientHistory, LedgerClients, see
from chorus.simulation.ledger.spec import ReadCall
from chorus.simulation.world import World, nanoseconds
from chorus.tasks.journal import NoQuorum

if TYPE_CHECKING:
    import random

    from chorus.simulation.invariants.observers import Judge
    from chorus.tasks.applied import Applied


@attrs.frozen
class _ClientHost:
    """The machine that clients run on: it never fails, and its clock is true."""

    world: World

    @property
    def reactor(self) -> _ClientHost:
        return self

    @property
    def clock(self) -> _ClientHost:
        return self

    def wall_ns(self) -> int:
        return EPOCH_NS + self.world.now_ns

    def callLater(self, seconds: float, call: Callable[..., object], *arguments: object) -> None:
        self.world.after(nanoseconds(seconds), lambda: call(*arguments))

    def __str__(self) -> str:
        return "the cluster"


class ClusterClients(LedgerClients):
    """Submit, assign, release, complete and read, at any member; `between` seconds on average from one to the next."""

    def __init__(self, judge: Judge, world: World, members: Sequence[MemberFace], between: float) -> None:
        host: Any = _ClientHost(world)
        super().__init__(judge, host, lambda journal, index, entry: None)
        self.between = between
        self.answered = 0
        self.operations = 0
        """Of histories for which an order was looked for."""
        self._members = members
        self._choice: random.Random = world.rng("clients choose")
        cluster: Any = self
        self.opened(cluster, world.rng("clients"))

    @property
    def open(self) -> bool:
        """The face of a journal that the base class looks for."""
        return True

    def _do(self, journal: Any, key: str, call: Any) -> Any:
        done: Deferred[Any] = Deferred()
        data = None if isinstance(call, ReadCall) else encode(self._entry(key, call))

        def answer(member: MemberFace, applied: Applied | None) -> Any:
            self.answered += 1
            if applied is None:
                return see(member.machine, key)
            at: Any = member
            return self._answer(applied, at, key, call)

        # A client whose connection is refused tries another member.
        up = [member for member in self._members if member.up]
        if not up:
            raise NoQuorum("no member is up")
        self._choice.choice(up).serve(ClientRequest(data, answer, done))
        return done

    def _refused(self, failure: Failure, history: ClientHistory, asked: Any) -> None:
        failure.trap(ChorusError)  # type: ignore[no-untyped-call]
        if failure.check(NoQuorum) or isinstance(asked.call, ReadCall):  # type: ignore[no-untyped-call]
            history.fail(asked)
        else:
            self.unknown += 1

    def check_all(self, admin: MemberFace | None) -> None:
        """After the run: an order of each key's operations; with an admin, everything is read there once more."""
        for history in self.histories if admin is not None else ():
            assert admin is not None
            history.ok(history.invoke(ReadCall()), see(admin.machine, history.key))
        self.operations = self.check(None)
