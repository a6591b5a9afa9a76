from __future__ import annotations

from chorus.messages.clocks import MAX_CLOCKS, NAMED, NOTED_S, Clocks
from tests.support import PureTestCase

HOUR = 3600.0
TAIL = "; set the clock that is wrong"


class ClocksTests(PureTestCase):
    def setUp(self) -> None:
        self.clocks = Clocks()

    def test_a_line_says_who_how_many_and_how_far(self) -> None:
        self.assertIsNone(self.clocks.line(0))
        self.clocks.ignored("A", 2 * HOUR + 300, 1)
        head = "1 message was ignored, since clocks differ from this node's: "
        self.assertEqual(self.clocks.line(1), f"{head}A 2 h 5 min ahead{TAIL}")
        self.clocks.ignored("B", -901, 2)
        self.clocks.ignored("A", 50 * HOUR, 3)
        head = "3 messages were ignored, since clocks differ from this node's: "
        self.assertEqual(self.clocks.line(3), f"{head}A 2 d 2 h ahead, B 15 min behind{TAIL}")

    def test_whoever_is_heard_again_is_named_no_more(self) -> None:
        self.clocks.ignored("A", HOUR, 0)
        self.clocks.ignored("B", HOUR, 0)
        self.clocks.heard("A")
        self.assertIn(": B 1 h ahead;", str(self.clocks.line(NOTED_S)))
        self.assertIsNone(self.clocks.line(NOTED_S + 1))

    def test_many(self) -> None:
        for number in range(MAX_CLOCKS + 5):
            self.clocks.ignored(f"peer{number}", -HOUR, number)
        line = str(self.clocks.line(MAX_CLOCKS))
        self.assertTrue(line.startswith(f"{MAX_CLOCKS} messages were ignored"), line)
        self.assertIn(f"peer{MAX_CLOCKS + 4} 1 h behind", line)
        self.assertIn(f", and {MAX_CLOCKS - NAMED} more;", line)
        self.assertEqual((MAX_CLOCKS, NOTED_S, NAMED), (64, 600, 3))
