"""Lazy gossip: IHAVE and IWANT for cached messages, promises, and IDONTWANT (GossipSub 1.0 to 1.2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from chorus.protocols.gossipsub import choices
from chorus.protocols.gossipsub.events import Entry, Frame, Kind
from chorus.protocols.gossipsub.history import SeenMessages
from chorus.protocols.gossipsub.ids import canonical
from chorus.protocols.gossipsub.mcache import MessageCache
from chorus.protocols.gossipsub.meshes import Meshes
from chorus.protocols.gossipsub.peers import Peer
from chorus.protocols.gossipsub.promises import Promises
from chorus.protocols.gossipsub.state import GossipState

USELESS_PER_MISBEHAVIOUR: Final = 100
"""Entries without a use, beyond those that are allowed, that count as one misbehaviour (P7)."""


class LazyGossip:
    def __init__(
        self,
        state: GossipState,
        *,
        meshes: Meshes,
        seen: SeenMessages,
    ) -> None:
        params = state.params
        self.cache = MessageCache(params.mcache_windows, params.mcache_gossip, params.mcache_bytes)
        self.promises = Promises()
        self._params = params
        self._peers = state.peers
        self._meshes = meshes
        self._outbox = state.outbox
        self._scores = state.scores
        self._seen = seen
        self._counters = state.counters
        self._codec = state.codec
        self._rng = state.rng
        self._tick = 0
        self._unwanted = False
        """True if any peer may hold an IDONTWANT."""

    # Input

    def ihave_received(self, peer: bytes, state: Peer, ihave: Iterable[tuple[str, list[bytes]]], now: float) -> None:
        params = self._params
        state.ihaves += 1
        room = params.max_ihave_length - state.asked
        if state.ihaves > params.max_ihave_messages or room <= 0 or not self._gossips(peer):
            self._counters.ihave_ignored += 1
            state.useless += sum(len(ids) for _, ids in ihave)
            return
        wanted: dict[bytes, None] = {}
        for topic, ids in ihave:
            if topic in self._meshes:
                for message_id in ids:
                    if (named := canonical(message_id)) in self._seen:
                        self._scores.advertised(peer, topic, named)
                    else:
                        wanted[message_id] = None
        # In a random order, so that a peer which advertises more than it may cannot choose what is asked for, nor
        # know which id is the promise.
        ids = choices.choose(list(wanted), room, self._rng)
        if not ids:
            return
        state.asked += len(ids)
        self._counters.iwant_sent += len(ids)
        self.promises.made(peer, canonical(ids[0]), now + params.iwant_followup)
        self._outbox.send_all(peer, Kind.GOSSIP, self._codec.iwant_frames(ids))

    def iwant_received(self, peer: bytes, state: Peer, ids: Iterable[bytes]) -> None:
        if not self._gossips(peer):
            return
        for message_id in ids:
            frame = self.cache.frame_for(canonical(message_id), peer, self._params.retransmissions)
            if frame is not None:
                self._counters.iwant_served += 1
                self._outbox.send(peer, Kind.MESSAGE, frame)
            else:
                state.useless += 1

    def idontwant_received(self, state: Peer, ids: Iterable[bytes]) -> None:
        room = self._params.idontwant_per_heartbeat - state.idontwants
        last = self._tick + self._params.idontwant_heartbeats
        self._unwanted = True
        for message_id in ids:
            if room <= 0:
                self._counters.passed_over += 1
                state.useless += 1
                continue
            room -= 1
            state.idontwants += 1
            self._counters.idontwant_taken += 1
            state.unwanted.setdefault(canonical(message_id), last)

    # Output

    def tell_idontwant(self, topic: str, message_id: bytes, *not_to: bytes) -> None:
        """A large message is here: the mesh need not send it too. Before it is validated, so that it comes in time."""
        told = [peer for peer in self._meshes.members(topic) if self._peers[peer].known and peer not in not_to]
        if not told:
            return
        frames = self._codec.idontwant_frames([message_id])
        self._counters.idontwant_sent += len(told)
        for frame in frames:
            self._outbox.send_to(told, Kind.CONTROL, frame)

    def wanted(self, targets: list[bytes], message_id: bytes) -> list[bytes]:
        """Those of `targets` that have not said they do not want it."""
        if not self._unwanted:
            return targets
        left = [peer for peer in targets if message_id not in self._peers[peer].unwanted]
        self._counters.spared += len(targets) - len(left)
        return left

    # The heartbeat

    def left(self, peer: bytes, state: Peer) -> None:
        """It is gone: what it would have been charged for is charged now, or leaving in time would cost nothing."""
        broken = self.promises.left(peer)
        self._counters.promises_broken += broken
        self._scores.misbehaved(peer, broken)
        self._charge_useless(peer, state)

    def _charge_useless(self, peer: bytes, state: Peer) -> None:
        if state.useless > self._params.max_useless:
            self._scores.misbehaved(peer, (state.useless - self._params.max_useless) / USELESS_PER_MISBEHAVIOUR)

    def begin_heartbeat(self, tick: int, now: float) -> None:
        """Counters begin anew; broken promises are charged."""
        self._tick = tick
        self._unwanted = False
        for peer in self._peers.ids():
            state = self._peers[peer]
            self._charge_useless(peer, state)
            state.ihaves = state.asked = state.idontwants = state.useless = 0
            unwanted = state.unwanted
            while unwanted and unwanted[first := next(iter(unwanted))] < tick:
                del unwanted[first]
            self._unwanted = self._unwanted or bool(unwanted)
        for peer, times in self.promises.broken(now).items():
            self._counters.promises_broken += times
            self._scores.misbehaved(peer, times)

    def end_heartbeat(self) -> None:
        """IHAVE to peers outside the meshes. A topic's ids are chosen and encoded once for all peers, few enough that
        one who is told of every topic is not told too much."""
        cached = self.cache.gossip_ids()
        topics = list(cached)
        # A frame too many is not sent: which topics are in it is chance.
        self._rng.shuffle(topics)
        to_peer = self._told(topics)
        share = choices.fair_share(map(len, cached.values()), self._params.max_ihave_length)
        entries: dict[str, list[Entry]] = {}
        frames: dict[tuple[str, ...], list[Frame]] = {}
        for peer, told in to_peer.items():
            key = tuple(told)
            if key not in frames:
                for topic in told:
                    if topic not in entries:
                        ids = choices.choose(cached[topic], share, self._rng)
                        entries[topic] = self._codec.ihave_entries(topic, ids)
                joined = self._codec.entry_frames(entry for topic in told for entry in entries[topic])
                frames[key] = joined[: self._params.max_ihave_messages]
            self._outbox.send_all(peer, Kind.GOSSIP, frames[key])
        self.cache.shift()

    def _told(self, topics: Iterable[str]) -> dict[bytes, list[str]]:
        """Peer → the topics of which it is told."""
        able = {
            peer
            for peer in self._peers.ids()
            if not (state := self._peers[peer]).floods and not state.direct and self._gossips(peer)
        }
        to_peer: dict[bytes, list[str]] = {}
        for topic in topics:
            members = self._meshes.around(topic)
            candidates = [peer for peer in self._peers.subscribers(topic) if peer in able and peer not in members]
            count = max(self._params.d_lazy, int(self._params.gossip_factor * len(candidates)))
            for peer in choices.choose(candidates, count, self._rng):
                to_peer.setdefault(peer, []).append(topic)
        return to_peer

    def _gossips(self, peer: bytes) -> bool:
        return self._scores.score(peer) >= self._scores.params.thresholds.gossip
