"""Parameters of peer scoring, and the rules that bind them (GossipSub 1.1, "Peer Scoring"; spec/wire.md 12).

The defaults are for a closed mesh of members on quiet topics. Some things differ from a public network with a busy
topic:

- P1 is worth little (3 points at most), so that staying is no substitute for forwarding (CVE-2022-47547). Nor is
  publishing: P2 counts what a peer brought first of others' words.
- P3's threshold follows what the topic's mesh really does: `share` of the messages that three or more of it brought
  (or that three others had to bring by gossip) since a peer came to the mesh, its own words and one for chance taken
  off, at most `threshold`. Where hardly anything is said, and where messages come by one way only (a chain, a star of
  members that know nobody else), nothing is asked. Copies count for `window` seconds after the first one: a peer behind
  a slow link forwards late but does forward.
- P3 and P3b of all topics together cost a peer its place in the mesh and never the gossip: an honest member with one
  connection has nothing to bring, and must still hear everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, Final

import attrs

from chorus.errors import UserError

MAX_WINDOW: Final = 60.0
"""Seconds: later copies of a message say nothing about its senders."""


class ScoreParameterError(UserError):
    """A set of scoring parameters that contradicts itself."""

    code = "score_parameters"


def _check(rules: tuple[tuple[bool, str], ...]) -> None:
    for holds, rule in rules:
        if not holds:
            raise ScoreParameterError(f"scoring parameters must keep {rule}")


def _check_finite(value: Any) -> None:
    for attribute in attrs.fields(type(value)):
        number = getattr(value, attribute.name)
        if isinstance(number, float) and not isfinite(number):
            raise ScoreParameterError(f"scoring parameters must keep {attribute.name} finite")


@attrs.frozen(kw_only=True)
class TopicScoreParams:
    """Of one topic. Decays are factors a `decay_interval`, times are seconds; a weight of 0 switches its part off."""

    weight: float = 1.0
    mesh_time_weight: float = 0.01
    """P1: for each `mesh_time_quantum` in the mesh, up to `mesh_time_cap` of them."""
    mesh_time_quantum: float = 1.0
    mesh_time_cap: float = 300.0
    first_weight: float = 1.0
    """P2: for each message of somebody else that it brought first."""
    first_decay: float = 0.99
    first_cap: float = 50.0
    mesh_deliveries_weight: float = -1.0
    """P3: the square of what its deliveries lack, while it is in the mesh."""
    mesh_deliveries_decay: float = 0.995
    mesh_deliveries_cap: float = 100.0
    mesh_deliveries_threshold: float = 5.0
    mesh_deliveries_share: float = 0.2
    """Of the topic's recent messages that several members of its mesh brought; honest ones bring a third and more."""
    mesh_deliveries_activation: float = 30.0
    mesh_deliveries_window: float = 2.0
    mesh_failure_weight: float = -0.5
    """P3b: a deficit stays with a peer that is pruned or leaves."""
    mesh_failure_decay: float = 0.995
    invalid_weight: float = -20.0
    """P4: the square of the number of invalid messages: one costs the place in the mesh, four in a row all hearing."""
    invalid_decay: float = 0.995

    def __attrs_post_init__(self) -> None:
        _check_finite(self)
        _check(
            (
                (self.weight >= 0, "weight >= 0"),
                (self.mesh_time_weight >= 0 and self.first_weight >= 0, "the weights of P1 and P2 >= 0"),
                (self.mesh_time_quantum > 0 and self.mesh_time_cap >= 0, "mesh_time_quantum > 0, mesh_time_cap >= 0"),
                (self.first_cap >= 0, "first_cap >= 0"),
                (self.mesh_deliveries_weight <= 0 and self.mesh_failure_weight <= 0, "the weights of P3 and P3b <= 0"),
                (self.invalid_weight <= 0, "the weight of P4 <= 0"),
                (0 < self.mesh_deliveries_threshold <= self.mesh_deliveries_cap, "0 < P3's threshold <= its cap"),
                (0 <= self.mesh_deliveries_share <= 1, "0 <= mesh_deliveries_share <= 1"),
                (0 <= self.mesh_deliveries_window <= MAX_WINDOW, f"0 <= mesh_deliveries_window <= {MAX_WINDOW:g}"),
                (self.mesh_deliveries_activation >= 0, "mesh_deliveries_activation >= 0"),
                *(
                    (0 < decay < 1, "every decay between 0 and 1")
                    for decay in (
                        self.first_decay,
                        self.mesh_deliveries_decay,
                        self.mesh_failure_decay,
                        self.invalid_decay,
                    )
                ),
            )
        )


@attrs.frozen(kw_only=True)
class ScoreThresholds:
    gossip: float = -50.0
    """Below it no gossip is given or taken."""
    publish: float = -100.0
    """… our own messages are not flooded to a peer."""
    graylist: float = -200.0
    """… nothing that a peer says is heard."""
    accept_px: float = 5.0
    """Whose PRUNE may name other peers: an attacker must have been useful first."""
    opportunistic: float = 5.0
    """A mesh whose median is below looks for better peers: more than P1 can give."""

    def __attrs_post_init__(self) -> None:
        _check_finite(self)
        _check(
            (
                (self.gossip <= 0, "gossip <= 0"),
                (self.publish <= self.gossip, "publish <= gossip"),
                (self.graylist <= self.publish, "graylist <= publish"),
                (self.accept_px >= 0 and self.opportunistic >= 0, "accept_px and opportunistic >= 0"),
            )
        )


@attrs.frozen(kw_only=True)
class ScoreParams:
    topics: Mapping[str, TopicScoreParams] = attrs.field(factory=dict)
    """Of topics that are scored otherwise than `topic`."""
    topic: TopicScoreParams = attrs.field(factory=TopicScoreParams)
    topic_cap: float = 100.0
    """The most that all topics together can add; 0 for no limit."""
    application_weight: float = 1.0
    """P5: what the application says of a peer."""
    group_weight: float = -5.0
    """P6: the square of the peers of one public network above `group_threshold`."""
    group_threshold: int = 8
    behaviour_weight: float = -5.0
    """P7: the square of the misbehaviours above `behaviour_threshold`."""
    behaviour_threshold: float = 6.0
    """Broken promises and GRAFTs too soon happen to honest peers, at a restart or on a bad link."""
    behaviour_decay: float = 0.98
    decay_interval: float = 1.0
    decay_to_zero: float = 0.01
    retain: float = 3600.0
    """Seconds that a bad score outlives the connection: coming back does not clean a peer."""
    thresholds: ScoreThresholds = attrs.field(factory=ScoreThresholds)

    def __attrs_post_init__(self) -> None:
        _check_finite(self)
        _check(
            (
                (self.topic_cap >= 0, "topic_cap >= 0"),
                (self.application_weight >= 0, "the weight of P5 >= 0"),
                (self.group_weight <= 0 and self.group_threshold >= 1, "the weight of P6 <= 0, its threshold >= 1"),
                (self.behaviour_weight <= 0, "the weight of P7 <= 0"),
                (self.behaviour_threshold >= 0, "the threshold of P7 >= 0"),
                (0 < self.behaviour_decay < 1, "every decay between 0 and 1"),
                (self.decay_interval > 0, "decay_interval > 0"),
                (0 < self.decay_to_zero < 1, "decay_to_zero between 0 and 1"),
                (self.retain >= 0, "retain >= 0"),
            )
        )

    def of(self, topic: str) -> TopicScoreParams:
        return self.topics.get(topic, self.topic)
