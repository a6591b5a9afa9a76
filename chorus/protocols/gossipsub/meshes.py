"""Meshes, fanouts and backoffs: the peers that get our full messages, kept by GRAFT and PRUNE (GossipSub 1.1)."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil
from statistics import median

from chorus.protocols.gossipsub import choices
from chorus.protocols.gossipsub.backoff import PruneBackoffs, clamp
from chorus.protocols.gossipsub.exchange import PeerExchange
from chorus.protocols.gossipsub.peers import Peer
from chorus.protocols.gossipsub.rpc import Exchanged, Prune
from chorus.protocols.gossipsub.state import GossipState, SignedRecord, no_record

BACKOFF_SWEEP = 15
"""Heartbeats between two sweeps of ended backoffs."""

Members = dict[bytes, None]


class _Fanout:
    __slots__ = ("peers", "used")

    def __init__(self) -> None:
        self.peers: Members = {}
        self.used = 0.0


class Meshes:
    """`record(peer)` is a peer's signed record, for peer exchange; `direct` are the direct peers, connected or not."""

    def __init__(
        self,
        state: GossipState,
        *,
        direct: Members,
        record: SignedRecord = no_record,
    ) -> None:
        self.backoffs = PruneBackoffs()
        self.exchange = PeerExchange(state, record)
        self.fanouts: dict[str, _Fanout] = {}
        self._meshes: dict[str, Members] = {}
        """Of our subscriptions."""
        self._params = state.params
        self._peers = state.peers
        self._outbox = state.outbox
        self._scores = state.scores
        self._counters = state.counters
        self._rng = state.rng
        self._direct = direct

    # State

    def __contains__(self, topic: str) -> bool:
        return topic in self._meshes

    def topics(self) -> list[str]:
        return list(self._meshes)

    def members(self, topic: str) -> Members:
        """Not to be changed."""
        return self._meshes.get(topic, {})

    def around(self, topic: str) -> Iterable[bytes]:
        """The peers that get our messages of a topic: its mesh, or its fanout."""
        if topic in self._meshes:
            return self._meshes[topic]
        fanout = self.fanouts.get(topic)
        return fanout.peers if fanout is not None else ()

    # Our topics

    def join(self, topic: str, now: float) -> None:
        fanout = self.fanouts.pop(topic, None)
        members = self._meshes[topic] = {}
        candidates = self._graftable(topic, now)
        first = [peer for peer in fanout.peers if peer in candidates] if fanout is not None else []
        first = first[: self._params.d]
        rest = [peer for peer in candidates if peer not in first]
        for peer in first + choices.choose(rest, self._params.d - len(first), self._rng):
            self._graft(topic, members, peer, now)

    def leave(self, topic: str, now: float, *, told: bool = True) -> None:
        """The mesh is `told` not to graft us for `unsubscribe_backoff` seconds."""
        for peer in self._meshes.pop(topic):
            self._scores.pruned(peer, topic, now)
            if told:
                self._prune(topic, peer, self._params.unsubscribe_backoff, now, exchange=True)

    # Peers

    def arrived(self, topic: str, peer: bytes, state: Peer, now: float) -> bool:
        """A peer has come to a topic; whether it is one of ours."""
        members = self._meshes.get(topic)
        if members is None:
            return False
        # A thin mesh does not wait for the heartbeat: a node that has just joined gets messages at once.
        if len(members) < self._params.d and self._may_graft(topic, peer, state, now):
            self._graft(topic, members, peer, now)
        return True

    def unsubscribed(self, topic: str, peer: bytes, now: float) -> None:
        members = self._meshes.get(topic)
        if members is not None and peer in members:
            del members[peer]
            self._scores.pruned(peer, topic, now)
        fanout = self.fanouts.get(topic)
        if fanout is not None:
            fanout.peers.pop(peer, None)

    def greet(self, peer: bytes, state: Peer, now: float) -> None:
        """Tell a peer again which meshes it is in, and which not: a PRUNE that was lost with a stream would leave it
        believing for ever that it gets our messages."""
        for topic, members in self._meshes.items():
            if peer in members:
                self._outbox.graft(peer, topic)
            elif topic in state.topics and not state.floods:
                left = max(1.0, self.backoffs.until(topic, peer) - now)
                state.told[topic] = None
                self._outbox.prune(peer, Prune(topic, None if state.old else ceil(left)))

    # Input

    def graft_received(self, peer: bytes, state: Peer, topic: str, now: float) -> None:
        members = self._meshes.get(topic)
        if members is None or topic not in state.topics or state.floods:
            # Silence instead of PRUNE: an answer would let anybody make us send, and say which topics we know.
            self._counters.passed_over += 1
            state.useless += 1
            return
        if peer in members:
            return
        until = self.backoffs.until(topic, peer)
        score = self._scores.score(peer)
        exchange = False
        if state.direct:
            pass
        elif now < until:
            self._counters.grafts_in_backoff += 1
            if topic not in state.told:
                self._counters.grafts_refused += 1
                self._prune(topic, peer, until - now, now, exchange=False)
                return
            flood = now < until - self._params.prune_backoff + self._params.graft_flood
            self._scores.misbehaved(peer, 2.0 if flood else 1.0)
        elif score < 0:
            pass
        elif len(members) < self._params.d_hi or state.outbound:
            self._counters.grafted += 1
            members[peer] = None
            self._scores.grafted(peer, topic, now)
            return
        else:
            exchange = True
        self._counters.grafts_refused += 1
        self._prune(topic, peer, self._params.prune_backoff, now, exchange=exchange)

    def prune_received(self, peer: bytes, state: Peer, prune: Prune, now: float) -> tuple[Exchanged, ...]:
        """Returns the peers that it names, where they may be believed."""
        members = self._meshes.get(prune.topic)
        if members is None:
            self._counters.passed_over += 1
            state.useless += 1
            return ()
        self.backoffs.set(prune.topic, peer, now + clamp(prune.backoff, self._params.prune_backoff))
        state.told[prune.topic] = None
        if peer not in members:
            # It has nobody to name instead of itself.
            state.useless += 1
            return ()
        del members[peer]
        self._scores.pruned(peer, prune.topic, now)
        if self._scores.score(peer) < self._scores.params.thresholds.accept_px:
            return ()
        return prune.peers

    # Publishing

    def publish_targets(self, topic: str, now: float) -> list[bytes]:
        """Own messages flood, also in topics that we take no part in: silent subscribers could fill a fanout."""
        threshold = self._scores.params.thresholds.publish
        subscribers = self._peers.subscribers(topic)
        if self._params.flood_publish:
            return [peer for peer in subscribers if self._peers[peer].direct or self._scores.score(peer) >= threshold]
        always = [peer for peer in subscribers if self._peers[peer].direct] + self._floodsub(topic)
        if topic in self._meshes:
            return [*self._meshes[topic], *always]
        return [*self._fanout(topic, now), *always]

    def _fanout(self, topic: str, now: float) -> Iterable[bytes]:
        fanout = self.fanouts.get(topic)
        if fanout is None:
            fanout = _Fanout()
            self._fill_fanout(topic, fanout)
            if not fanout.peers:
                return ()
            self.fanouts[topic] = fanout
        fanout.used = now
        return fanout.peers

    def forward_targets(self, topic: str, *not_to: bytes) -> list[bytes]:
        """Mesh, direct and floodsub peers but those who have the message."""
        targets = [member for member in self._meshes[topic] if member not in not_to]
        always = self._floodsub(topic) + [peer for peer in self._direct if self._wants(peer, topic)]
        return targets + [peer for peer in always if peer not in not_to] if always else targets

    def _floodsub(self, topic: str) -> list[bytes]:
        """Peers that have no mesh to lose are held to the publish threshold; direct ones are added elsewhere."""
        threshold = self._scores.params.thresholds.publish
        return [
            peer
            for peer in self._peers.floodsub(topic)
            if self._scores.score(peer) >= threshold and not self._peers[peer].direct
        ]

    def _wants(self, peer: bytes, topic: str) -> bool:
        state = self._peers.get(peer)
        return state is not None and topic in state.topics

    # The heartbeat

    def heartbeat(self, tick: int, now: float) -> None:
        self.exchange.heartbeat()
        if tick % BACKOFF_SWEEP == 0:
            self.backoffs.expire(now - self._params.backoff_slack)
        for topic, members in self._meshes.items():
            self._keep(topic, members, now)
            if tick % self._params.opportunistic_ticks == 0:
                self._graft_better(topic, members, now)
        for topic, fanout in list(self.fanouts.items()):
            self._keep_fanout(topic, fanout, now)

    def _keep(self, topic: str, members: Members, now: float) -> None:
        params = self._params
        for peer in [peer for peer in members if self._scores.score(peer) < 0]:
            self._cut(topic, members, peer, now, exchange=False)
        if len(members) < params.d_lo:
            candidates = self._graftable(topic, now)
            for peer in choices.choose(candidates, params.d - len(members), self._rng):
                self._graft(topic, members, peer, now)
        elif len(members) > params.d_hi:
            kept = choices.keep(list(members), self._scores.score, self._is_outbound, params, self._rng)
            for peer in [peer for peer in members if peer not in kept]:
                self._cut(topic, members, peer, now, exchange=True)
        outbound = sum(map(self._is_outbound, members))
        if len(members) >= params.d_lo and outbound < params.d_out:
            candidates = self._graftable(topic, now, outbound=True)
            for peer in choices.choose(candidates, params.d_out - outbound, self._rng):
                self._graft(topic, members, peer, now)

    def _graft_better(self, topic: str, members: Members, now: float) -> None:
        """A mesh of the mediocre takes in better ones: an attacker who fills it with the silent does not keep it."""
        if len(members) < 2:
            return
        middle = median(self._scores.score(peer) for peer in members)
        if middle >= self._scores.params.thresholds.opportunistic:
            return
        better = [peer for peer in self._graftable(topic, now) if self._scores.score(peer) > middle]
        for peer in choices.choose(better, self._params.opportunistic_peers, self._rng):
            self._counters.opportunistic += 1
            self._graft(topic, members, peer, now)

    def _keep_fanout(self, topic: str, fanout: _Fanout, now: float) -> None:
        if fanout.used + self._params.fanout_ttl <= now:
            del self.fanouts[topic]
            return
        threshold = self._scores.params.thresholds.publish
        for peer in [peer for peer in fanout.peers if self._scores.score(peer) < threshold]:
            del fanout.peers[peer]
        if len(fanout.peers) < self._params.d:
            self._fill_fanout(topic, fanout)

    def _fill_fanout(self, topic: str, fanout: _Fanout) -> None:
        threshold = self._scores.params.thresholds.publish
        candidates = [
            peer
            for peer in self._peers.subscribers(topic)
            if peer not in fanout.peers
            and self._meshes_with(self._peers[peer])
            and self._scores.score(peer) >= threshold
        ]
        for peer in choices.choose(candidates, self._params.d - len(fanout.peers), self._rng):
            fanout.peers[peer] = None

    # Membership

    @staticmethod
    def _meshes_with(state: Peer) -> bool:
        return not state.floods and not state.direct

    def _is_outbound(self, peer: bytes) -> bool:
        return self._peers[peer].outbound

    def _may_graft(self, topic: str, peer: bytes, state: Peer, now: float) -> bool:
        until = self.backoffs.until(topic, peer)
        return (
            self._meshes_with(state)
            and (not until or until + self._params.backoff_slack <= now)
            and self._scores.score(peer) >= 0
        )

    def _graftable(self, topic: str, now: float, *, outbound: bool = False) -> list[bytes]:
        """`outbound`: only those that we dialled."""
        members = self._meshes[topic]
        return [
            peer
            for peer in self._peers.subscribers(topic)
            if peer not in members
            and ((state := self._peers[peer]).outbound or not outbound)
            and self._may_graft(topic, peer, state, now)
        ]

    def _graft(self, topic: str, members: Members, peer: bytes, now: float) -> None:
        members[peer] = None
        self._counters.grafted += 1
        self._scores.grafted(peer, topic, now)
        self._outbox.graft(peer, topic)

    def _cut(self, topic: str, members: Members, peer: bytes, now: float, *, exchange: bool) -> None:
        del members[peer]
        self._counters.pruned += 1
        self._scores.pruned(peer, topic, now)
        self._prune(topic, peer, self._params.prune_backoff, now, exchange=exchange)

    def _prune(self, topic: str, peer: bytes, backoff: float, now: float, *, exchange: bool) -> None:
        """Tell a peer that it is not in our mesh; neither side grafts the other for `backoff` seconds."""
        self.backoffs.set(topic, peer, now + backoff)
        self._peers[peer].told[topic] = None
        if self._peers[peer].old:
            self._outbox.prune(peer, Prune(topic, None))
            return
        others = self.exchange.give(topic, peer) if exchange and self._params.peer_exchange else ()
        self._outbox.prune(peer, Prune(topic, ceil(backoff), others))
