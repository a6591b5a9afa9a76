"""What peer scoring shows of a peer: its score and where it comes from."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class TopicScore:
    """One topic's part of a score: counters, and what each is worth before the topic's own weight."""

    in_mesh: bool
    time_in_mesh: float
    first_deliveries: float
    mesh_deliveries: float
    mesh_deliveries_wanted: float
    mesh_failure: float
    invalid: float
    score: float


@attrs.frozen(kw_only=True)
class PeerScoreView:
    """A peer's score and where it comes from."""

    score: float
    connected: bool
    topics: dict[str, TopicScore]
    application: float
    group_size: int
    behaviour: float
