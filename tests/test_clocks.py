"""No test depends on how fast its machine is (CONTRIBUTING.md), and the tools for that are true."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.clocks import elapsed, limits, sleeps
from tests.support import PureTestCase, yardstick

ROOT = Path(__file__).resolve().parent
Rule = Callable[[ast.Module], Iterator[tuple[int, str]]]

ALLOWED: dict[str, tuple[int, str]] = {
    "integration/test_memory.py": (1, "processor time in yardsticks, of what an idle node does in each second"),
    "services/p2p/test_host.py": (1, "an argument of what is asserted, not a time"),
    "services/p2p/test_ping.py": (1, "a timer's distance, which is minutes with a quarter's tolerance"),
    "simulation/net/test_reactor.py": (1, "a simulated reactor"),
}
"""File → how many findings there may be, and why."""


def found(rule: Rule, text: str) -> list[int]:
    return sorted(line for line, _ in rule(ast.parse(textwrap.dedent(text))))


class Sources(PureTestCase):
    def test_no_test_depends_on_the_speed_of_its_machine(self) -> None:
        for path in sorted(ROOT.rglob("*.py")):
            name = str(path.relative_to(ROOT))
            tree = ast.parse(path.read_text(), name)
            seen = [f"{name}:{line}: {what}" for rule in (elapsed, sleeps, limits) for line, what in rule(tree)]
            allowed, why = ALLOWED.get(name, (0, ""))
            self.assertEqual(len(seen), allowed, "\n".join([*seen, why]))


class Rules(PureTestCase):
    """The lint finds what it is for, and nothing else."""

    def test_elapsed_times(self) -> None:
        for text in (
            "self.assertLess(time.monotonic() - begun, 5)",
            "assert time.perf_counter() - begun < 5",
            "took = time.time() - begun\nself.assertLess(took, 5)",
            "late.append(time.process_time() - begun)\nself.assertLess(max(late), 1)",
            "self.times.append(time.monotonic())\nself.assertLess(gaps(self.times), 1)",
            "one = time.thread_time() - a\ntwo = one - 1\nself.assertTrue(two < 3)",
            "self.assertLess(result.ended_at - result.started_at, 5)",
        ):
            self.assertEqual(len(found(elapsed, text)), 1, text)
        for text in (
            "end = time.monotonic() + 30\nwhile time.monotonic() < end: pass",
            "self.assert_cheap(work, 5)",
            "self.assertEqual(document['updated_at'], before['updated_at'])",
            "wall = time.time\nself.assertEqual(made(wall=wall), 1)",
            "self.assertLess(result.started_at, result.ended_at)",
        ):
            self.assertEqual(found(elapsed, text), [], text)

    def test_sleeps(self) -> None:
        for text in (
            "time.sleep(2)",
            "for _ in range(3): time.sleep(0.1)",
            "async def test(self): await self.pause(0.3)",
            "async def test(self): await deferLater(reactor, 0.05)",
            "async def test(self): await asyncio.sleep(1)",
        ):
            self.assertEqual(len(found(sleeps, text)), 1, text)
        for text in (
            "while not done(): time.sleep(0.05)",
            "async def test(self):\n    while not self.come: await deferLater(reactor, 0.01)",
            "async def test(self): await deferLater(reactor, 0)",
            "def pause(self, seconds): return deferLater(reactor, seconds)",
        ):
            self.assertEqual(found(sleeps, text), [], text)

    def test_limits(self) -> None:
        for text in (
            "until('its end', lambda: gone, 5)",
            "self.until(lambda: gone, 5.0)",
            "subprocess.run(['true'], timeout=20)",
            "process.communicate(timeout=20)",
            "process.wait(10)",
            "class A(TestCase):\n    timeout = 20",
            "async def until(condition, seconds: float = 10.0): ...",
        ):
            self.assertEqual(len(found(limits, text)), 1, text)
        for text in (
            "until('its end', lambda: gone)",
            "until('its end', lambda: gone, 60)",
            "process.communicate(timeout=60)",
            "class A(TestCase):\n    timeout = 120",
            "stream.read_exactly(4, timeout=3)",
        ):
            self.assertEqual(found(limits, text), [], text)


class YardstickTests(PureTestCase):
    def test_a_wrong_order_of_growth_is_seen(self) -> None:
        def square() -> None:
            for _ in range(30):
                yardstick()

        self.assert_cheap(yardstick, 5)
        self.assertRaises(self.failureException, self.assert_cheap, square, 5)
