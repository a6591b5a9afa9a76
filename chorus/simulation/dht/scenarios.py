"""The scenarios of the hash table that have names; the figures wanted are those of the project's plan."""

from __future__ import annotations

from typing import Final

import attrs

from chorus.simulation.dht.scenario import MAX_CONNECTIONS, DhtScenario
from chorus.simulation.gossip.scenario import WantedFigure

WARM: Final = DhtScenario(
    name="dht-warm",
    summary="1,000 servers, 50 ms a round trip, connections to the peers of tables",
    wanted=(
        WantedFigure("get_p50_ms", high=250),
        WantedFigure("get_p95_ms", high=300),
        WantedFigure("found_percent", low=99),
        WantedFigure("exact_percent", low=99),
    ),
)

LIMITED: Final = attrs.evolve(
    WARM,
    name="dht-limited",
    summary="1,000 servers, each connected with 192 peers of its table, as many as a node has connections by default",
    connections=MAX_CONNECTIONS,
    wanted=(
        WantedFigure("get_p50_ms", high=250),
        WantedFigure("get_p95_ms", high=1500),
        WantedFigure("found_percent", low=99),
        WantedFigure("exact_percent", low=99),
    ),
)

COLD: Final = attrs.evolve(
    WARM,
    name="dht-cold",
    summary="1,000 servers with their tables and no connections: each peer is dialled first, five round trips",
    warm=False,
    wanted=(
        WantedFigure("get_p95_ms", high=1500),
        WantedFigure("found_percent", low=99),
        WantedFigure("exact_percent", low=99),
    ),
)

DEAD: Final = attrs.evolve(
    WARM,
    name="dht-dead",
    summary="a fifth of 1,000 servers is dead, in all tables and among the holders",
    dead=0.2,
    wanted=(WantedFigure("get_p95_ms", high=6000), WantedFigure("found_percent", low=95)),
)

HOLDERS: Final = attrs.evolve(
    WARM,
    name="dht-holders",
    summary="any 10 of the 20 holders of each value die before it is read",
    killed=10,
    gets=2000,
    wanted=(WantedFigure("found_percent", low=99.9),),
)

HOPS: Final = attrs.evolve(
    WARM,
    name="dht-hops",
    summary="hops of lookups in networks of 100, 1,000 and 10,000 servers",
    nodes=10_000,
    sizes=(100, 1000),
    values=20,
    gets=200,
    wanted=(WantedFigure("hops_over_log2_n", high=1), WantedFigure("exact_percent", low=99)),
)

CHURN_OF_THE_TABLE: Final = DhtScenario(
    name="dht-churn",
    summary="1,000 servers and 10,000 values; a tenth of the servers crashes in each of 24 hours and is replaced",
    values=10_000,
    hours=24.0,
    churn=0.1,
    refresh_s=7200.0,
    wanted=(WantedFigure("lost", high=0), WantedFigure("readable_percent", low=100)),
)

SMALL_CHURN: Final = attrs.evolve(
    CHURN_OF_THE_TABLE,
    name="dht-churn-small",
    summary="100 servers and 1,000 values; a tenth of the servers crashes in one hour and is replaced",
    nodes=100,
    values=1000,
    hours=1.0,
    refresh_s=1800.0,
)

DHT_SCENARIOS: Final = {
    each.name: each for each in (WARM, LIMITED, COLD, DEAD, HOLDERS, HOPS, SMALL_CHURN, CHURN_OF_THE_TABLE)
}
