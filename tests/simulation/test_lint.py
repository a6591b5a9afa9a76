"""No clock, no chance and no order of sets in what the simulation replays; and nobody else uses what is only for it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.simulation.lint import clocks_and_chance, set_attributes, set_order
from tests.support import PureTestCase

ROOT = Path(__file__).resolve().parents[2]
PURE = ("protocols", "tasks", "ucxl", "fields", "messages")

ALLOWED = {("runs.py", "import time"), ("run.py", "import time"), ("disk.py", "id()")}
"""The processor time of a run is for its report; identity of files is not their order."""

SECURITY_PASSED_ON = {"chorus/services/p2p/host.py": 1}
"""The host hands its own parameter to its connections."""


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not path.name.endswith("_pb2.py"):
                yield path


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


class Sources(PureTestCase):
    def test_pure_code_reads_no_clock_and_draws_no_chance_by_itself(self) -> None:
        found = [
            f"{name(path)}:{line}: {what}"
            for path in sources(*(f"chorus/{folder}" for folder in PURE))
            for line, what in clocks_and_chance(tree_of(path))
        ]
        self.assertEqual(found, [], "pass it in: now, rng, or chorus.entropy as a default")

    def test_pure_code_does_not_depend_on_the_order_of_sets(self) -> None:
        trees = {path: tree_of(path) for path in sources(*(f"chorus/{folder}" for folder in PURE))}
        attributes = set_attributes(list(trees.values()))
        found = [
            f"{name(path)}:{line}: {what}" for path, tree in trees.items() for line, what in set_order(tree, attributes)
        ]
        self.assertEqual(found, [], "sort it, or keep a dict")

    def test_the_simulation_itself_keeps_the_rules(self) -> None:
        trees = {path: tree_of(path) for path in sources("chorus/simulation")}
        attributes = set_attributes(list(trees.values()))
        found = []
        for path, tree in trees.items():
            found += [f"{name(path)}:{line}: {what}" for line, what in set_order(tree, attributes)]
            found += [
                f"{name(path)}:{line}: {what}"
                for line, what in clocks_and_chance(tree)
                if (path.name, what) not in ALLOWED
            ]
        self.assertEqual(found, [])


class OnlyForSimulation(PureTestCase):
    def test_nobody_imports_the_simulation_but_the_command_and_measurements(self) -> None:
        found = []
        for path in sources("chorus", "twisted", "scripts", "examples"):
            place = name(path)
            if place.startswith(("chorus/simulation/", "chorus/client/")):
                continue
            for node in ast.walk(tree_of(path)):
                modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom):
                    modules = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
                if any(f"{module}.".startswith("chorus.simulation.") for module in modules):
                    found.append(f"{place}:{node.lineno}")
        self.assertEqual(found, [])

    def test_nobody_passes_a_security_layer_but_the_simulation(self) -> None:
        found: dict[str, int] = {}
        for path in sources("chorus", "twisted", "examples"):
            if name(path).startswith("chorus/simulation/"):
                continue
            for node in ast.walk(tree_of(path)):
                if isinstance(node, ast.Call):
                    passed = any(keyword.arg in {"security", "make_handshake"} for keyword in node.keywords)
                    if passed and "ConnectionCore" not in ast.unparse(node.func):
                        found[name(path)] = found.get(name(path), 0) + 1
        self.assertEqual(found, SECURITY_PASSED_ON)

    def test_a_host_speaks_noise_unless_it_is_told_otherwise(self) -> None:
        import inspect

        from chorus.protocols.connection.core import ConnectionCore
        from chorus.protocols.connection.shell import ConnectionProtocol
        from chorus.protocols.noise.handshake import NoiseHandshake
        from chorus.services.p2p.settings import HostSettings

        for made, parameter in (
            (HostSettings, "security"),
            (ConnectionProtocol, "security"),
            (ConnectionCore, "make_handshake"),
        ):
            self.assertIs(inspect.signature(made).parameters[parameter].default, NoiseHandshake)


class Rules(PureTestCase):
    """The lint finds what it is for, and nothing else."""

    def lines(self, found: Iterator[tuple[int, str]]) -> list[int]:
        return sorted({line for line, _ in found})

    def test_clocks_and_chance(self) -> None:
        bad = [
            "import time",
            "from time import monotonic",
            "import secrets",
            "from uuid import uuid4",
            "from twisted.internet import reactor",
            "from random import shuffle",
            "from os import urandom",
            "x = os.urandom(8)",
            "x = random.random()",
            "x = random.Random()",
            "x = random.SystemRandom()",
            "x = datetime.datetime.now()",
            "x = hash(y)",
            "def f(source=os.urandom): ...",
        ]
        good = [
            "import random",
            "from random import Random",
            "def f(rng: random.Random) -> float: return rng.random()",
            "x = random.Random(5)",
            "import os",
            "from twisted.internet import defer",
            "x = self.time.now()",
        ]
        for line in bad:
            self.assertEqual(self.lines(clocks_and_chance(ast.parse(line))), [1], line)
        for line in good:
            self.assertEqual(self.lines(clocks_and_chance(ast.parse(line))), [], line)

    def test_the_order_of_sets(self) -> None:
        bad = [
            "for x in {1, 2}: ...",
            "for x in set(y): ...",
            "a = [x for x in frozenset(y)]",
            "a = {x: 1 for x in set(y) | z}",
            "a = list(set(y))",
            "a = min(set(y), key=f)",
            "a = ', '.join({x for x in y})",
            "rng.sample(set(y), 2)",
            "a = [*set(y)]",
            "s: set[int] = f()\nfor x in s: ...",
            "def f(s: 'frozenset[int] | None'):\n    for x in s: ...",
            "class A:\n    def __init__(self):\n        self.s = set()\n    def f(self):\n        for x in self.s: ...",
            "class A:\n    s: set[int]\n    def f(self):\n        for x in self.s: ...",
            "def f() -> set[int]: ...\nfor x in f(): ...",
            "for x in a.keys() - b.keys(): ...",
            "for x in set(y).union(z): ...",
            "s = set(y)\ns.pop()",
            "a = dict.fromkeys(set(y))",
        ]
        good = [
            "for x in sorted({1, 2}): ...",
            "a = sorted(x for x in set(y))",
            "a = len(set(y)), any(x for x in set(y)), x in {1, 2}",
            "a = {x for x in set(y)}",
            "a = frozenset(x for x in set(y))",
            "for x in {1: 2}: ...",
            "for x in dict.fromkeys(y): ...",
            "def f():\n    s = set()\ndef g(s):\n    for x in s: ...",
            "d = {}\nd.pop(3)",
            "class A:\n    s: set[int]\ndef f(s):\n    for x in s: ...",
            "a = min(1, 2)",
        ]
        for text in bad:
            self.assertNotEqual(list(set_order(ast.parse(text))), [], text)
        for text in good:
            self.assertEqual(list(set_order(ast.parse(text))), [], text)

    def test_attributes_that_are_sets_are_known_in_other_modules(self) -> None:
        declared = ast.parse("class A:\n    waiting: frozenset[str]\n    other: list[str]\n    both: set[int]")
        again = ast.parse("class B:\n    both: list[int]")
        attributes = set_attributes([declared, again])
        self.assertEqual(attributes, {"waiting"})
        self.assertNotEqual(list(set_order(ast.parse("for x in task.waiting: ..."), attributes)), [])
