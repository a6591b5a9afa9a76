"""The formula of the score."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chorus.protocols.ballot.score import MAX_SCORE, MAX_WEIGHT, STEP, BadWeights, ScoreParts, ScoreWeights, score_of
from tests.support import PureTestCase

SHARE = st.floats(0, 1)
WEIGHT = st.floats(0.001, MAX_WEIGHT)


class Scores(PureTestCase):
    def test_table(self) -> None:
        only_network = ScoreWeights(0, 0, 0, 1, 0)
        even = ScoreWeights(1, 1, 1, 1, 1)
        for parts, weights, score in (
            (ScoreParts(0, 0, 0, 0, 0), even, 0),
            (ScoreParts(1, 1, 1, 1, 1), even, 1000),
            (ScoreParts(1, 0, 0, 0, 0), even, 200),
            (ScoreParts(1, 1, 1, 0.5, 1), only_network, 500),
            (ScoreParts(0, 0, 0, 0.524, 0), only_network, 500),
            (ScoreParts(0, 0, 0, 0.526, 0), only_network, 550),
            (ScoreParts(1, 0, 0, 1, 0), ScoreWeights(3, 0, 0, 1, 4), 500),
        ):
            self.assertEqual(score_of(parts, weights), score, (parts, weights))

    @given(st.builds(ScoreParts, *[SHARE] * 5), st.builds(ScoreWeights, *[WEIGHT] * 5))
    def test_in_range_and_in_steps(self, parts: ScoreParts, weights: ScoreWeights) -> None:
        score = score_of(parts, weights)
        self.assertTrue(0 <= score <= MAX_SCORE and score % STEP == 0, score)

    @given(st.lists(SHARE, min_size=5, max_size=5), st.integers(0, 4), SHARE)
    def test_a_better_part_never_makes_it_worse(self, shares: list[float], which: int, other: float) -> None:
        raised = [max(each, other) if at == which else each for at, each in enumerate(shares)]
        before, after = (score_of(ScoreParts(*each), ScoreWeights()) for each in (shares, raised))
        self.assertLessEqual(before, after)

    def test_parts_are_shares(self) -> None:
        for wrong in (-0.01, 1.01, float("nan"), float("inf")):
            self.assertRaises(ValueError, ScoreParts, wrong, 0, 0, 0, 0)

    def test_weights_weigh(self) -> None:
        for weights in ((0, 0, 0, 0, 0), (-1, 1, 1, 1, 1), (float("nan"), 1, 1, 1, 1), (MAX_WEIGHT + 1, 1, 1, 1, 1)):
            error = self.assertRaises(BadWeights, ScoreWeights, *weights)
            self.assertIn("from 0 to 1000", str(error))
