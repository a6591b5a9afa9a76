"""Peer scores P1 to P7: service and harm of each peer (GossipSub 1.1, "Peer Scoring"; spec/wire.md 12).

Pure: events come in with `now`, `score` gives a number. The router acts on it; nothing here knows a mesh or a wire.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from chorus.protocols.gossipsub.score_params import ScoreParams, TopicScoreParams
from chorus.protocols.gossipsub.score_stats import PeerScoreView, PeerStats, Record, Records, TopicScore, TopicStats

REPLAY: Final = 0.1
"""Of a misbehaviour (P7): the same message once more from the same peer."""

WITNESSES: Final = 3
"""Members of a mesh that must have brought a message before it is expected of the rest: two who work together cannot
make the others look silent."""

SMALL_MESH: Final = 4
"""Up to so many members one witness less is enough: there may be no third one."""

GOSSIP_LEFT: Final = 0.9
"""Of the way to the gossip threshold that P3 and P3b of all topics together may cost."""

CHANCE: Final = 1.0
"""Deliveries that P3 lets a peer lack: of few messages an honest one may by chance have brought none."""

MAX_RETAINED: Final = 4096
"""Peers that have left and of whom something is kept; the one that left longest ago goes first."""

UNJUDGED: Final = 120.0
"""Seconds that is kept of a peer that has left what was not enough yet to judge it by."""


class PeerScores:
    """Scores of all peers. `refresh` decays them, every `params.decay_interval` seconds."""

    def __init__(self, params: ScoreParams | None = None) -> None:
        self.params = params or ScoreParams()
        self.application: Callable[[bytes], float] = _nothing
        """P5: what the application says of a connected peer; asked at every refresh."""
        self._peers: dict[bytes, PeerStats] = {}
        self._gone: dict[bytes, None] = {}
        """Peers that have left and of whom something is kept, in the order in which they did."""
        self._groups: dict[str, int] = {}
        self._traffic: dict[str, float] = {}
        """Topic → messages that its mesh could have brought more often than it did, decaying as P3's counters do."""
        self._counted: dict[tuple[str, bytes], None] = {}
        """(topic, publisher) of the messages that count since the last decay: one of each. The burst of a single
        publisher comes by one way; whom we reach first with it would lack all of it at once."""
        self._mesh_sizes: dict[str, int] = {}
        self._records = Records()
        self._next_refresh = 0.0

    def __len__(self) -> int:
        return len(self._peers)

    @property
    def records(self) -> int:
        """Messages whose senders are remembered."""
        return len(self._records)

    # Peers

    def joined(self, peer: bytes, group: str | None) -> None:
        """A peer has connected; `group` is its public network, None where addresses are not counted (a LAN, a host)."""
        stats = self._peers.get(peer)
        if stats is None:
            stats = self._peers[peer] = PeerStats()
        self._gone.pop(peer, None)
        stats.connected = True
        self._set_group(stats, group)

    def left(self, peer: bytes, now: float) -> None:
        """It is gone. A good score goes with it; a bad one is kept for `params.retain` seconds, and what is not enough
        to judge it by for `UNJUDGED`: coming and going washes nothing off."""
        stats = self._peers.get(peer)
        if stats is None:
            return
        stats.connected = False
        self._set_group(stats, None)
        bad = self.score(peer) < 0
        for topic, entry in stats.topics.items():
            entry.first = 0.0
            self._leave_mesh(topic, entry, now)
        stats.value = None
        if not bad and not stats.behaviour and not any(entry.burdened for entry in stats.topics.values()):
            self._forget(peer)
            return
        stats.expires = now + (self.params.retain if bad else UNJUDGED)
        self._gone[peer] = None
        if len(self._gone) > MAX_RETAINED:
            self._forget(next(iter(self._gone)))

    def _forget(self, peer: bytes) -> None:
        del self._peers[peer]
        self._gone.pop(peer, None)

    def _set_group(self, stats: PeerStats, group: str | None) -> None:
        if stats.group == group:
            return
        for name, change in ((stats.group, -1), (group, 1)):
            if name is not None:
                count = self._groups.get(name, 0) + change
                if count:
                    self._groups[name] = count
                else:
                    del self._groups[name]
        changed = {stats.group, group}
        stats.group = group
        for other in self._peers.values():
            if other.group in changed:
                other.value = None
        stats.value = None

    def grafted(self, peer: bytes, topic: str, now: float) -> None:
        stats = self._peers.get(peer)
        if stats is None:
            return
        entry = self._entry(stats, topic)
        if not entry.in_mesh:
            self._mesh_sizes[topic] = self._mesh_sizes.get(topic, 0) + 1
        entry.in_mesh = True
        entry.grafted_at = now
        entry.mesh_time = 0.0
        entry.active = entry.served > self.params.of(topic).mesh_deliveries_activation
        entry.before = self._traffic.get(topic, 0.0) - entry.owed
        stats.value = None

    def pruned(self, peer: bytes, topic: str, now: float) -> None:
        stats = self._peers.get(peer)
        entry = stats.topics.get(topic) if stats is not None else None
        if stats is not None and entry is not None:
            self._leave_mesh(topic, entry, now)
            stats.value = None

    def _leave_mesh(self, topic: str, entry: TopicStats, now: float) -> None:
        if not entry.in_mesh:
            return
        if entry.active:
            deficit = self._deficit(topic, entry)
            entry.failure += deficit * deficit
            entry.served = entry.owed = 0.0
        else:
            entry.served += now - entry.grafted_at
            entry.owed = self._traffic.get(topic, 0.0) - entry.before
        left = self._mesh_sizes[topic] - 1
        if left:
            self._mesh_sizes[topic] = left
        else:
            del self._mesh_sizes[topic]
        entry.in_mesh = entry.active = False
        entry.mesh_time = 0.0

    def _entry(self, stats: PeerStats, topic: str) -> TopicStats:
        entry = stats.topics.get(topic)
        if entry is None:
            entry = stats.topics[topic] = TopicStats()
        return entry

    # Messages

    def arrived(
        self, peer: bytes, origin: bytes, message_id: bytes, mark: bytes, now: float, *, promised: bool = False
    ) -> None:
        """A message's first copy; its validity is not known yet. `origin` is its publisher, `mark` is equal for equal
        messages; `promised` when `peer` had advertised it and was asked for it."""
        self._records.add(message_id, Record(peer, origin, mark, promised), now)

    def accepted(self, peer: bytes, topic: str, message_id: bytes, now: float) -> None:
        """The message whose first copy `peer` sent is valid; those who sent it too while that was open count as near
        first."""
        record = self._records.get(message_id)
        if record is None:
            return
        record.at = now
        params = self.params.of(topic)
        if self._is_redundant(topic, record):
            self._count_redundant(topic, record)
        for sender in record.senders:
            stats = self._peers.get(sender)
            if stats is None:
                continue
            entry = self._entry(stats, topic)
            if sender == peer and sender != record.origin:
                # Saying much is not forwarding: a publisher's own words would outweigh what it is held to.
                entry.first = min(entry.first + 1.0, params.first_cap)
            self._near_first(entry, params, record, sender)
            stats.value = None

    def duplicate(self, peer: bytes, topic: str, message_id: bytes, mark: bytes, now: float) -> bool:
        """One more copy of a message that has been here; false when it is another message under the same id, and it is
        not known yet that there are several."""
        record = self._records.get(message_id)
        stats = self._peers.get(peer)
        if record is None or stats is None:
            return True
        if record.mark != mark:
            if not record.others:
                return False
            if peer in record.others:
                self.misbehaved(peer, REPLAY)
            else:
                self.equivocated(peer, topic, message_id)
            return True
        if peer in record.senders:
            # Gossip and mesh may bring the same once each; who plays it again and again is a flood.
            self.misbehaved(peer, REPLAY)
            return True
        record.senders += (peer,)
        if record.invalid:
            self.invalid(peer, topic)
        elif record.at is not None and now - record.at <= (params := self.params.of(topic)).mesh_deliveries_window:
            entry = self._entry(stats, topic)
            self._near_first(entry, params, record, peer)
            if self._is_redundant(topic, record) or self._past_the_mesh(topic, record):
                self._count_redundant(topic, record)
            stats.value = None
        return True

    def was_accepted(self, message_id: bytes) -> bool:
        record = self._records.get(message_id)
        return record is not None and record.at is not None

    def equivocated(self, peer: bytes, topic: str, message_id: bytes) -> None:
        """Its publisher signed another message under this id, which `peer` sent: the publisher pays once for each who
        does, so that no peer alone sets the price."""
        record = self._records.get(message_id)
        if record is not None:
            record.others += (peer,)
            self.invalid(record.origin, topic)

    def rejected(self, topic: str, message_id: bytes) -> None:
        """A validator found it invalid, whoever looks at it: all who sent it should have seen that."""
        record = self._records.get(message_id)
        if record is None or record.invalid:
            return
        record.invalid = True
        for sender in record.senders:
            self.invalid(sender, topic)

    def invalid(self, peer: bytes, topic: str) -> None:
        """P4: an invalid message that never got as far as its id (a forged signature, a broken shape)."""
        stats = self._peers.get(peer)
        if stats is not None:
            self._entry(stats, topic).invalid += 1.0
            stats.value = None

    def _is_redundant(self, topic: str, record: Record) -> bool:
        """True if so many of the mesh, or the publisher itself and so many less one, brought it that the others could
        have, too. A peer outside of the mesh has no part in that."""
        if record.counted:
            return False
        wanted = WITNESSES if self._mesh_sizes.get(topic, 0) > SMALL_MESH else WITNESSES - 1
        if len(record.senders) < wanted:
            return False
        return sum(each == record.origin or self._in_mesh(each, topic) for each in record.senders) >= wanted

    def _in_mesh(self, peer: bytes, topic: str) -> bool:
        stats = self._peers.get(peer)
        entry = stats.topics.get(topic) if stats is not None else None
        return entry is not None and entry.in_mesh

    def advertised(self, peer: bytes, topic: str, message_id: bytes) -> None:
        """A peer advertises with IHAVE what has been here."""
        record = self._records.get(message_id)
        if record is None or not record.promised or record.at is None or peer in record.advertisers:
            return
        record.advertisers += (peer,)
        if self._past_the_mesh(topic, record):
            self._count_redundant(topic, record)

    def _past_the_mesh(self, topic: str, record: Record) -> bool:
        """True if gossip had to bring what the mesh should have: of a mesh that silent peers fill, nothing ever comes
        twice. Only what was asked for is gossip: whoever pushes a message past the mesh is a round trip quicker, and
        could make a mesh look silent that is merely behind it. And as many as usual must have had it outside of the
        mesh, or two could say to us alone what nobody else can bring."""
        outside = [
            each
            for each in dict.fromkeys(record.senders + record.advertisers)
            if each != record.origin and not self._in_mesh(each, topic)
        ]
        return (
            len(outside) >= WITNESSES
            and record.promised
            and not record.counted
            and not any(self._in_mesh(each, topic) for each in record.senders)
        )

    def _count_redundant(self, topic: str, record: Record) -> None:
        if record.counted:
            return
        record.counted = True
        if (topic, record.origin) in self._counted:
            return
        self._counted[topic, record.origin] = None
        self._traffic[topic] = self._traffic.get(topic, 0.0) + 1.0
        publisher = self._peers.get(record.origin)
        if publisher is not None and topic in publisher.topics:
            publisher.topics[topic].before += 1.0

    @staticmethod
    def _near_first(entry: TopicStats, params: TopicScoreParams, record: Record, sender: bytes) -> None:
        # Who publishes much is no more of a forwarder for it.
        if entry.in_mesh and sender != record.origin:
            entry.mesh_deliveries = min(entry.mesh_deliveries + 1.0, params.mesh_deliveries_cap)

    # Behaviour

    def misbehaved(self, peer: bytes, times: float = 1.0) -> None:
        """P7."""
        stats = self._peers.get(peer)
        if stats is not None:
            stats.behaviour += times
            stats.value = None

    # Time

    def refresh(self, now: float) -> None:
        """Decay everything by one step when `decay_interval` is over. After a pause no step is made up for: a node
        that slept must not find its peers forgiven."""
        self._records.expire(now)
        if now < self._next_refresh:
            return
        params = self.params
        self._next_refresh = now + params.decay_interval * 0.99
        zero = params.decay_to_zero
        self._counted.clear()
        for topic, traffic in list(self._traffic.items()):
            self._traffic[topic] = traffic * params.of(topic).mesh_deliveries_decay
            if self._traffic[topic] < zero:
                del self._traffic[topic]
        for peer in [peer for peer in self._gone if self._peers[peer].expires <= now]:
            self._forget(peer)
        for peer, stats in self._peers.items():
            stats.value = None
            if stats.connected:
                stats.application = self.application(peer)
            stats.behaviour = _decay(stats.behaviour, params.behaviour_decay, zero)
            for topic, entry in list(stats.topics.items()):
                self._age(entry, params.of(topic), now)
                if entry.empty:
                    del stats.topics[topic]

    def _age(self, entry: TopicStats, params: TopicScoreParams, now: float) -> None:
        zero = self.params.decay_to_zero
        entry.first = _decay(entry.first, params.first_decay, zero)
        entry.mesh_deliveries = _decay(entry.mesh_deliveries, params.mesh_deliveries_decay, zero)
        entry.before = _decay(entry.before, params.mesh_deliveries_decay, zero)
        entry.failure = _decay(entry.failure, params.mesh_failure_decay, zero)
        entry.invalid = _decay(entry.invalid, params.invalid_decay, zero)
        if entry.in_mesh:
            entry.mesh_time = now - entry.grafted_at
            entry.active = entry.active or entry.served + entry.mesh_time > params.mesh_deliveries_activation
            return
        entry.owed = entry.owed * params.mesh_deliveries_decay
        entry.served = entry.served * params.mesh_deliveries_decay
        if entry.served < 1.0:
            entry.served = entry.owed = 0.0

    # The score

    def score(self, peer: bytes) -> float:
        """0 for a peer that nobody knows."""
        stats = self._peers.get(peer)
        if stats is None:
            return 0.0
        if stats.value is None:
            stats.value = self._compute(stats)
        return stats.value

    def _compute(self, stats: PeerStats) -> float:
        params = self.params
        topics = owed = 0.0
        for topic, entry in stats.topics.items():
            weight = params.of(topic).weight
            topics += weight * self._earned(topic, entry)
            owed += weight * self._owed(topic, entry)
        if params.topic_cap:
            topics = min(topics, params.topic_cap)
        topics += max(owed, GOSSIP_LEFT * params.thresholds.gossip)
        crowd = max(0, self._group_size(stats) - params.group_threshold)
        excess = max(0.0, stats.behaviour - params.behaviour_threshold)
        return (
            topics
            + params.application_weight * stats.application
            + params.group_weight * crowd * crowd
            + params.behaviour_weight * excess * excess
        )

    def _earned(self, topic: str, entry: TopicStats) -> float:
        """P1, P2 and P4."""
        params = self.params.of(topic)
        score = params.first_weight * entry.first + params.invalid_weight * entry.invalid * entry.invalid
        if entry.in_mesh:
            quanta = min(entry.mesh_time / params.mesh_time_quantum, params.mesh_time_cap)
            score += params.mesh_time_weight * quanta
        return score

    def _owed(self, topic: str, entry: TopicStats) -> float:
        """P3 and P3b."""
        params = self.params.of(topic)
        score = params.mesh_failure_weight * entry.failure
        if entry.in_mesh and entry.active:
            deficit = self._deficit(topic, entry)
            score += params.mesh_deliveries_weight * deficit * deficit
        return score

    def _wanted(self, topic: str, entry: TopicStats) -> float:
        """P3's threshold as it is now: a share of what several brought since the peer came, at most the configured."""
        params = self.params.of(topic)
        traffic = self._traffic.get(topic, 0.0) - entry.before
        return max(0.0, min(params.mesh_deliveries_threshold, params.mesh_deliveries_share * traffic - CHANCE))

    def _deficit(self, topic: str, entry: TopicStats) -> float:
        return max(0.0, self._wanted(topic, entry) - entry.mesh_deliveries)

    def _group_size(self, stats: PeerStats) -> int:
        return self._groups.get(stats.group, 0) if stats.group is not None else 0

    def view(self, peer: bytes) -> PeerScoreView | None:
        stats = self._peers.get(peer)
        if stats is None:
            return None
        return PeerScoreView(
            score=self.score(peer),
            connected=stats.connected,
            topics={
                topic: TopicScore(
                    in_mesh=entry.in_mesh,
                    time_in_mesh=entry.mesh_time,
                    first_deliveries=entry.first,
                    mesh_deliveries=entry.mesh_deliveries,
                    mesh_deliveries_wanted=self._wanted(topic, entry) if entry.in_mesh else 0.0,
                    mesh_failure=entry.failure,
                    invalid=entry.invalid,
                    score=self._earned(topic, entry) + self._owed(topic, entry),
                )
                for topic, entry in stats.topics.items()
            },
            application=stats.application,
            group_size=self._group_size(stats),
            behaviour=stats.behaviour,
        )


def _nothing(peer: bytes) -> float:
    return 0.0


def _decay(value: float, factor: float, zero: float) -> float:
    value *= factor
    return value if value >= zero else 0.0
