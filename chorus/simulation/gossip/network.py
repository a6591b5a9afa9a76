"""A network of GossipSub routers without bytes (tier D of spec/simulation.md): up to many thousand nodes a process.

Everything is drawn from streams of chance that are named for what they decide, so that one seed gives one run.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Final

from chorus.protocols.gossip import GossipRouter
from chorus.protocols.gossipsub.state import Sealing
from chorus.simulation.gossip.attackers import CLASSES
from chorus.simulation.gossip.links import Uplink, link, quiet_after
from chorus.simulation.gossip.measures import Measures
from chorus.simulation.gossip.nodes import HONEST, STARTUP, Node, RouterNode, peer_id
from chorus.simulation.gossip.objects import object_codec, signer, verify
from chorus.simulation.gossip.scenario import Scenario
from chorus.simulation.trace import Trace
from chorus.simulation.world import MILLISECOND, SECOND, World, nanoseconds

DOWN: Final = 10 * SECOND
"""How long a node that leaves stays away."""

SAMPLED: Final = 500
"""Honest nodes looked at for meshes and scores, at most."""

ORDER: Final = 3 * SECOND
"""Messages are owed to whoever was there this long; what comes last has it to arrive by lazy gossip."""

Progress = Callable[[float, float], object]
"""(simulated seconds done, of how many)."""


class GossipNet:
    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.world = World(seed)
        self.codec = object_codec()
        self.data = bytes(scenario.size)
        self.trace = Trace(keep=None)
        self.measures = Measures(scenario.nodes, self.trace)
        self._links = self.world.rng("links")
        self._dials = self.world.rng("dials")
        self.honest = [RouterNode(self, number) for number in range(scenario.nodes)]
        self.attackers = self._make_attackers()
        self.nodes: list[Node] = [*self.honest, *self.attackers]
        self.kinds = {node.peer_id: node.kind for node in self.nodes}
        self.counts = {HONEST: scenario.nodes}
        for attack in scenario.attacks:
            self.counts[attack.kind] = self.counts.get(attack.kind, 0) + attack.count
        self._looked_at = self._choose_looked_at()
        self.duplicates = 0
        """At honest nodes, while messages were measured."""
        self._schedule_start()

    # Calls of nodes

    def uplink(self, number: int) -> Uplink | None:
        links = self.scenario.links
        if not links.loss and links.rate_mbit is None:
            return None
        return Uplink(links, self.world.rng("uplink", number))

    def router(self, number: int, rng: random.Random) -> GossipRouter:
        me = peer_id(number)
        router = GossipRouter(
            me,
            Sealing(signer(me), verify, codec=self.codec),
            rng=rng,
            first_seqno=self.world.now_ns + 1,
            params=self.scenario.params,
            score_params=self.scenario.score_params,
        )
        return router

    def connect(self, dialler: Node, listener: Node) -> None:
        stale = listener.lines.get(dialler.peer_id)
        if stale is not None:
            # It left and is back before its going was heard of.
            listener.hung_up(stale)
        low, high = self.scenario.links.delay_ms
        delay = round(self._links.uniform(low, high) * MILLISECOND)
        there, back = link(
            self.world,
            (dialler.peer_id, dialler, dialler.uplink),
            (listener.peer_id, listener, listener.uplink),
            delay,
        )
        dialler.connected(listener.peer_id, there)
        listener.connected(dialler.peer_id, back)

    def dial_somebody(self, node: Node, count: int) -> None:
        """Connect to `count` honest nodes that are there, at random."""
        total = self.scenario.nodes
        for _ in range(20 * count):
            if count <= 0:
                return
            other = self.honest[self._dials.randrange(total)]
            if other is not node and other.online and other.peer_id not in node.lines:
                self.connect(node, other)
                count -= 1

    # Build-up

    def _make_attackers(self) -> list[Node]:
        attackers: list[Node] = []
        for attack in self.scenario.attacks:
            for _ in range(attack.count):
                attackers.append(CLASSES[attack.kind](self, self.scenario.nodes + len(attackers)))
        return attackers

    def _choose_looked_at(self) -> list[RouterNode]:
        count = min(SAMPLED, len(self.honest))
        return sorted(self.world.rng("looked at").sample(self.honest, count), key=lambda node: node.number)

    def _schedule_start(self) -> None:
        """Everybody starts at once and dials one by one in `STARTUP`: a ring, so that all are connected, and others.

        Half of the connections of a node are those that it dialled.
        """
        ring = list(self.honest)
        self._dials.shuffle(ring)
        for node in self.nodes:
            node.start()
        half, odd = divmod(self.scenario.degree, 2)
        for index, node in enumerate(ring):
            self.world.at(self._dials.randrange(STARTUP), partial(self._join, node, ring[index - 1]))
            self._schedule_dials(node, half - 1 + odd * (index % 2))
        numbers = iter(self.attackers)
        for attack in self.scenario.attacks:
            for _ in range(attack.count):
                self._schedule_dials(next(numbers), attack.connections)

    def _schedule_dials(self, node: Node, count: int) -> None:
        for _ in range(count):
            self.world.at(self._dials.randrange(STARTUP), partial(self.dial_somebody, node, 1))

    def _join(self, node: RouterNode, neighbour: RouterNode) -> None:
        if neighbour.peer_id not in node.lines:
            self.connect(node, neighbour)

    # The run

    def run(self, progress: Progress = lambda done, total: None) -> None:
        """Warm up, publish and measure, and let what is under way arrive."""
        scenario = self.scenario
        begin = nanoseconds(scenario.warm_up)
        end = begin + nanoseconds(scenario.seconds)
        last = end + ORDER + quiet_after(scenario.links)
        if scenario.churn:
            self._schedule_churn(begin, end)
        self._schedule_messages(begin, end)
        self.world.at(begin, self._begin)
        for second in range(last // SECOND + 1):
            self.world.run_until(second * SECOND)
            self.measures.sample(self.world.now, self._online(self._looked_at), self.kinds, self.counts)
            progress(self.world.now, last / SECOND)
        self.world.run_until(last)
        self.duplicates = sum(node.duplicates - node.duplicates_before for node in self.honest)
        self.measures.measuring = False

    @staticmethod
    def _online(nodes: list[RouterNode]) -> list[RouterNode]:
        return [node for node in nodes if node.online]

    def _begin(self) -> None:
        self.measures.measuring = True
        for node in self.honest:
            node.duplicates_before = node.duplicates

    def _schedule_messages(self, begin: int, end: int) -> None:
        chance = self.world.rng("publishers")
        count = self.scenario.publishers
        publishers = chance.sample(self.honest, count)
        for number in range(round(self.scenario.rate * self.scenario.seconds)):
            when = begin + 1 + nanoseconds(number / self.scenario.rate)
            if when < end:
                self.world.at(when, partial(self._publish, publishers[chance.randrange(count)]))

    def _publish(self, node: RouterNode) -> None:
        if node.online:
            node.publish(self.data)

    def _schedule_churn(self, begin: int, end: int) -> None:
        chance = self.world.rng("churn")
        leaves = self.scenario.churn * self.scenario.nodes * (end - begin) / (60 * SECOND)
        for _ in range(round(leaves)):
            self.world.at(chance.randrange(begin, end), partial(self._leave, chance))

    def _leave(self, chance: random.Random) -> None:
        node = self.honest[chance.randrange(len(self.honest))]
        if node.online:
            self.measures.gone(node, self.world.now_ns)
            node.stop()
            self.world.after(DOWN, partial(self._come_back, node))

    def _come_back(self, node: RouterNode) -> None:
        node.start()
        self.dial_somebody(node, max(1, self.scenario.degree // 2))
