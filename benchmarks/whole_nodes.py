"""How fast whole nodes run in one process (tier C of docs/simulation.md): five messages a second among all of them.

    python -m benchmarks.whole_nodes [--nodes 1000] [--warm-up 10] [--seconds 20] [--seed 1]

The nodes start within a second and connect; what is measured comes after the warm-up. Times are of this process's
processor; memory is all it holds at the end.
"""

from __future__ import annotations

import argparse
import gc
import time

from chorus.simulation.configuration import Configuration
from chorus.simulation.gossip.run import memory_mb
from chorus.simulation.invariants.observers import ErrorWatch
from chorus.simulation.runs import SimRun


class Measured(SimRun):
    """A run that stops after the first of its phases; `configuration.seconds` are the warm-up."""

    def measure(self, seconds: float) -> None:
        """Print what `seconds` of simulated time cost. Raises `Violated` where an invariant does not hold."""
        begin = time.process_time()
        with ErrorWatch(self.judge):
            self._chaos()
            began, events, deliveries = time.process_time(), self.world.events, self.gossip.deliveries
            self._go(seconds)
        cpu = time.process_time() - began
        events, deliveries = self.world.events - events, self.gossip.deliveries - deliveries
        members = sum(len(topics) for topics in self.conversation.topics.values())
        print(f"{len(self.nodes)} nodes, {members} memberships, {self.configuration.seconds:g} s of start-up")
        print(f"  start-up: {(began - begin) / self.configuration.seconds:.1f} times real time")
        print(f"  then {seconds:g} s in {cpu:.1f} s: {cpu / seconds:.1f} times real time, {events / cpu:,.0f} events/s")
        print(f"  {deliveries:,} deliveries, {deliveries / cpu:,.0f} a processor second, {memory_mb():,.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--warm-up", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    # What a run makes lives to its end.
    gc.disable()
    Measured(
        Configuration(tier="C", nodes=options.nodes, seconds=options.warm_up, seed=options.seed),
    ).measure(options.seconds)


if __name__ == "__main__":
    main()
