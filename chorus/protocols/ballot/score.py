"""Score of a member, 0 to 1000: who stands first for admin, and whom an admin hands over to (spec/election.md 4). Pure.

It says nothing about who may win.
"""

from __future__ import annotations

from typing import Final

import attrs

from chorus.errors import UserError

MAX_SCORE: Final = 1000
STEP: Final = 50
"""Scores are multiples of this: smaller differences are noise, and would make members change places all the time."""


MAX_WEIGHT: Final = 1000.0
"""Weights are relative; with more than this beside 1 the others say nothing."""


class BadWeights(UserError):
    """Weights of a score that weigh nothing, or less."""

    code = "bad_score_weights"


def _is_share(instance: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{attribute.name} is from 0 to 1, not {value}")


@attrs.frozen
class ScoreParts:
    """Five components of a score, each from 0 to 1 (the best)."""

    uptime: float = attrs.field(validator=_is_share)
    capabilities: float = attrs.field(validator=_is_share)
    resources: float = attrs.field(validator=_is_share)
    network: float = attrs.field(validator=_is_share)
    experience: float = attrs.field(validator=_is_share)


@attrs.frozen
class ScoreWeights:
    """Relative weights; measured facts weigh more than what a member says of itself."""

    uptime: float = 0.25
    capabilities: float = 0.1
    resources: float = 0.2
    network: float = 0.3
    experience: float = 0.15

    def __attrs_post_init__(self) -> None:
        weights = attrs.astuple(self)
        if not (all(0 <= each <= MAX_WEIGHT for each in weights) and sum(weights) > 0):
            raise BadWeights(f"weights of the score are from 0 to {MAX_WEIGHT:g}, and one of them is above 0")


def score_of(parts: ScoreParts, weights: ScoreWeights) -> int:
    """The weighted mean of the parts in thousandths, rounded to the nearest `STEP`."""
    values, weighing = attrs.astuple(parts), attrs.astuple(weights)
    mean = sum(value * weight for value, weight in zip(values, weighing, strict=True)) / sum(weighing)
    return min(MAX_SCORE, STEP * int(mean * MAX_SCORE / STEP + 0.5))
