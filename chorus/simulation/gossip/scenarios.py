"""The scenarios that have names: for tests (in a small version), for `chorus simulate`, and for docs/benchmarks.md.

The figures wanted are those of spec/anchors.md 1 and of the published evaluations it names.
"""

from __future__ import annotations

from typing import Final

import attrs

from chorus.simulation.gossip.links import LinkParams
from chorus.simulation.gossip.scenario import PARAMS, Attack, Scenario, WantedFigure

ALL: Final = WantedFigure("delivered_percent", low=100)
ONCE: Final = WantedFigure("delivered_twice", high=0)

CALIBRATION: Final = Scenario(
    name="calibration",
    summary="1,000 nodes, links 10-150 ms: the published simulations' network",
    rate=2.0,
    seconds=30.0,
    wanted=(
        WantedFigure("p50_ms", 184.5, 225.5),
        WantedFigure("p99_ms", high=325),
        WantedFigure("sends_per_delivery", high=7),
        ALL,
        ONCE,
    ),
)

FLOOD_PUBLISH: Final = attrs.evolve(
    CALIBRATION,
    name="flood-publish",
    summary="1,000 nodes, links 10-150 ms, publishers send to every peer of the topic",
    params=attrs.evolve(PARAMS, flood_publish=True),
    wanted=(
        WantedFigure("p50_ms", 153.9, 188.1),
        WantedFigure("p99_ms", high=325),
        WantedFigure("sends_per_delivery", high=7),
        ALL,
        ONCE,
    ),
)

NEAR: Final = attrs.evolve(
    CALIBRATION,
    name="near",
    summary="1,000 nodes, links of 25 ms",
    links=LinkParams(delay_ms=(22.5, 27.5)),
    wanted=(WantedFigure("p99_ms", high=300), WantedFigure("sends_per_delivery", high=7.5), ALL, ONCE),
)

LOSS: Final = attrs.evolve(
    CALIBRATION,
    name="loss",
    summary="links 10-150 ms, 5 % of the segments lost and sent again by TCP",
    links=LinkParams(loss=0.05),
    wanted=(WantedFigure("p99_ms", high=1000), ALL, ONCE),
)

CHURN: Final = attrs.evolve(
    CALIBRATION,
    name="churn",
    summary="links 10-150 ms, in each minute a fifth of the nodes leaves without a word and comes back 10 s later",
    churn=0.2,
    seconds=60.0,
    wanted=(WantedFigure("p99_ms", high=1000), ALL, ONCE),
)

SYBILS: Final = attrs.evolve(
    CALIBRATION,
    name="sybils",
    summary="400 silent attackers with 100 connections each against 1,000 nodes: two of three connections are theirs",
    attacks=(Attack("silent", 400, 100),),
    seconds=60.0,
    wanted=(WantedFigure("p99_ms", high=2000), ALL, ONCE),
)

LOST: Final = ("silent", "withholding", "replaying", "equivocating", "forging", "advertising", "grafting")

MISBEHAVIOUR: Final = attrs.evolve(
    CALIBRATION,
    name="misbehaviour",
    summary="200 nodes and 5 of each kind of attacker that scores are to find, with 20 connections each",
    nodes=200,
    attacks=tuple(Attack(kind, 5, 20) for kind in LOST),
    seconds=120.0,
    wanted=(
        *(
            WantedFigure(f"{kind}_{figure}", high=bound)
            for kind in LOST
            for figure, bound in (("score", -0.01), ("places", 1.0))
        ),
        WantedFigure("p99_ms", high=1000),
        ALL,
        ONCE,
    ),
)

FLOOD: Final = attrs.evolve(
    CALIBRATION,
    name="flood",
    summary="50 nodes, one of whose neighbours says 1,000 messages a second",
    nodes=50,
    publishers=50,
    attacks=(Attack("flooding", 1, 20),),
    seconds=20.0,
    wanted=(WantedFigure("flooding_score", high=-0.01), WantedFigure("flooding_places", high=1), ALL, ONCE),
)

TEN_THOUSAND: Final = attrs.evolve(
    CALIBRATION,
    name="ten-thousand",
    summary="10,000 nodes, links 10-150 ms",
    nodes=10_000,
    rate=1.0,
    wanted=(WantedFigure("p99_ms", high=450), WantedFigure("sends_per_delivery", high=7), ALL, ONCE),
)

SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        CALIBRATION,
        FLOOD_PUBLISH,
        NEAR,
        LOSS,
        CHURN,
        SYBILS,
        MISBEHAVIOUR,
        FLOOD,
        TEN_THOUSAND,
    )
}
