"""Networks of servers without bytes, small ones; and mutants that their figures must find."""

from __future__ import annotations

from typing import Any

import attrs

from chorus.protocols.kad import messages as kad_messages
from chorus.protocols.kad.messages import RequestKind
from chorus.protocols.kad.replication import Copies
from chorus.simulation.dht.network import DhtNet
from chorus.simulation.dht.nodes import SimRecord, SimServer
from chorus.simulation.dht.run import VALUE, ChurnRun, DhtResult, StandingRun, simulate_dht
from chorus.simulation.dht.scenario import DhtScenario
from chorus.simulation.dht.scenarios import CHURN_OF_THE_TABLE, DEAD, DHT_SCENARIOS, HOLDERS, WARM
from chorus.simulation.gossip.scenario import ScenarioError
from tests.support import PureTestCase

CHURN = attrs.evolve(CHURN_OF_THE_TABLE, nodes=40, values=60, hours=2.0, churn=1.0, refresh_s=1800.0)
"""In two hours seven of eight machines are others."""


def ran(scenario: DhtScenario, **changes: Any) -> DhtResult:
    return simulate_dht(attrs.evolve(scenario, **{"nodes": 150, "gets": 25, "values": 20, **changes}), 3)


class Standing(PureTestCase):
    def test_figures_that_are_wanted_hold_in_a_small_network(self) -> None:
        for name in ("dht-warm", "dht-cold", "dht-dead", "dht-holders"):
            result = ran(DHT_SCENARIOS[name])
            self.assertEqual(result.missed(), [], name)
            self.assertEqual(len(result.latencies_ms), 1000)

    def test_a_dial_costs_five_round_trips(self) -> None:
        warm, cold = ran(WARM), ran(attrs.evolve(WARM, warm=False))
        self.assertGreater(warm.figures["get_p50_ms"], 0.9 * 50)
        self.assertGreater(cold.figures["get_p50_ms"], 6 * 0.9 * 50)

    def test_dead_servers_are_time_outs(self) -> None:
        found = ran(attrs.evolve(DEAD, dead=0.5, wanted=()))
        self.assertGreater(found.figures["find_p95_ms"], 500)

    def test_hops_of_several_sizes(self) -> None:
        result = ran(WARM, sizes=(50,), gets=10)
        self.assertEqual([size.nodes for size in result.hops], [50, 150])
        self.assertLessEqual(result.figures["hops_over_log2_n"], 1)

    def test_one_seed_is_one_run(self) -> None:
        scenario = attrs.evolve(WARM, nodes=60, gets=5, values=5)
        one, again, other = (simulate_dht(scenario, seed) for seed in (1, 1, 2))
        self.assertEqual(one.trace, again.trace)
        self.assertNotEqual(one.trace, other.trace)

    def test_mutant_points_that_are_no_hashes(self) -> None:
        """Ids are compared as they are, without SHA-256."""
        self.patch(kad_messages, "point_of", lambda raw: int.from_bytes(raw[2:].ljust(32, b"\0"), "big"))
        result = ran(WARM)
        self.assertIn("exact_percent", " ".join(result.missed()))

    def stale_after(self) -> float:
        """Share of the closest that lack the newest value after it was read with all of the closest."""
        run = StandingRun(attrs.evolve(HOLDERS, nodes=100, gets=1, values=1, killed=0), 5)
        key, net = b"/v/0", run.net
        for place, peer in enumerate(net.closest(key)):
            value = VALUE if place % 4 == 0 else b"older"
            net.by_peer[peer].records[key] = SimRecord(value, Copies(0.0, frozenset()), 0)
        reader = next(one for one in net.servers if key not in one.records)
        run._lookup(reader, RequestKind.GET_VALUE, key, None)
        held = [net.by_peer[peer].records.get(key) for peer in net.closest(key, without=reader.peer)]
        return sum(record is None or record.value != VALUE for record in held) / len(held)

    def test_stale_holders_are_corrected(self) -> None:
        self.assertEqual(self.stale_after(), 0.0)

    def test_mutant_no_correction(self) -> None:
        def get(server: SimServer, key: bytes, found: Any, enough: int | None) -> None:
            server.lookup(RequestKind.GET_VALUE, key, found, enough)

        self.patch(SimServer, "get", get)
        self.assertGreater(self.stale_after(), 0.5)

    def test_a_put_reaches_the_closest(self) -> None:
        net = DhtNet(attrs.evolve(WARM, nodes=100), 1)
        confirmed: list[int] = []
        net.servers[7].put(b"/v/x", VALUE, confirmed.append)
        net.world.run_for(60.0)
        self.assertEqual(confirmed, [20])
        for peer in net.closest(b"/v/x", without=net.servers[7].peer):
            self.assertIn(b"/v/x", net.by_peer[peer].records)

    def test_bounds(self) -> None:
        for change in ({"nodes": 29}, {"nodes": 20_001}, {"dead": 0.95}, {"killed": 21}, {"gets": 0}):
            with self.assertRaises(ScenarioError):
                attrs.evolve(WARM, **change)
        self.assertEqual(attrs.evolve(CHURN, nodes=400, values=600).resized(100).values, 150)


class Churn(PureTestCase):
    """A day of 1,000 servers is a command of its own: `chorus simulate dht-churn`."""

    def test_an_hour_of_a_hundred_servers(self) -> None:
        result = simulate_dht(DHT_SCENARIOS["dht-churn-small"], 1)
        self.assertEqual(result.missed(), [])
        self.assertGreater(result.figures["crashes"], 5)

    def test_nothing_is_lost_while_nearly_all_machines_are_replaced(self) -> None:
        run = ChurnRun(CHURN, 1)
        run.run(lambda done, total: None)
        result = run.result(1.0)
        self.assertEqual(result.missed(), [])
        self.assertGreater(result.figures["crashes"], 50)
        self.assertGreater(result.figures["least_copies"], 5)
        self.assertEqual(len(result.samples), 8)

    def test_mutant_no_replication(self) -> None:
        class Careless(DhtNet):
            def __init__(self, scenario: DhtScenario, seed: int) -> None:
                super().__init__(scenario, seed)
                self.replication = lambda *words: []

        run = ChurnRun(attrs.evolve(CHURN, hours=4.0), 1, Careless)
        run.run(lambda done, total: None)
        self.assertIn("lost", " ".join(run.result(1.0).missed()))
