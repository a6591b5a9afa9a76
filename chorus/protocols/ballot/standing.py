"""When a member stands for admin: its rank among the live ones, its delay, and whom voters wait for
(spec/election.md 4, "Score"). Pure.

Scores decide when a member stands and never whether a vote is valid: views may differ, and only timing suffers.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from chorus.protocols.ballot.profiles import BETTER_BY, MAX_RANK, ElectionProfile
from chorus.protocols.ballot.roster import Roster


def rank_of(me: str, scores: Mapping[str, int], roster: Roster) -> int:
    """How many other live voters are better: by score, and by peer id where that is the same."""
    if me not in scores:
        return sum(peer in roster.by_peer for peer in scores)
    mine = (-scores[me], me)
    return sum(peer in roster.by_peer and (-score, peer) < mine for peer, score in scores.items())


def standing_delay(rank: int, failures: int, profile: ElectionProfile, rng: random.Random) -> float:
    """Seconds from the end of one's own promise to one's candidacy, after so many failed ones."""
    halved = rank >> min(failures, MAX_RANK)
    return min(halved, MAX_RANK) * profile.slot_s + rng.uniform(0, profile.jitter_s)


def better_lives(candidate: str, score: int, scores: Mapping[str, int], roster: Roster) -> bool:
    """True if a live voter is better than `candidate` by so much that it is worth a wait."""
    return any(
        peer != candidate and peer in roster.by_peer and other >= score + BETTER_BY for peer, other in scores.items()
    )
