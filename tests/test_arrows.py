"""Who may import whom at the top of the tree (docs/architecture.md, "Arrows")."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support import PureTestCase

CHORUS = Path(__file__).resolve().parent.parent / "chorus"

SHARED = {"surroundings"}
BEFORE = {
    "execution": {"storage"},
    "scheduling": {"storage", "messages", "execution"},
}
"""What a file of `chorus/wiring` may know of the others: what is handed to it."""


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


class ArrowTests(PureTestCase):
    def importers(self, module: str) -> set[str]:
        return {
            str(path.relative_to(CHORUS))
            for path in CHORUS.rglob("*.py")
            if any(name == module or name.startswith(f"{module}.") for name in imported(path))
        }

    def test_every_part_of_the_router_has_its_line(self) -> None:
        text = (CHORUS.parent / "docs/architecture.md").read_text()
        parts = {path.stem for path in (CHORUS / "protocols/gossipsub").glob("*.py")} - {"__init__"}
        self.assertEqual({part for part in parts if f"`{part}`" not in text}, set())

    def test_nobody_but_tap_knows_the_runtime(self) -> None:
        self.assertEqual(self.importers("chorus.runtime"), {"tap.py"})
        self.assertEqual(self.importers("chorus.assembly"), {"runtime.py"})

    def test_nobody_but_the_assembly_knows_what_the_wiring_builds(self) -> None:
        outside = {name for name in self.importers("chorus.wiring") if not name.startswith("wiring/")}
        self.assertEqual(outside, {"assembly.py", "runtime.py"})
        known = {name for name in imported(CHORUS / "runtime.py") if name.startswith("chorus.wiring.")}
        self.assertEqual(known, {"chorus.wiring.surroundings", "chorus.wiring.surroundings.Surroundings"})

    def test_a_file_of_the_wiring_knows_what_it_is_handed(self) -> None:
        for path in (CHORUS / "wiring").glob("*.py"):
            known = {name.split(".")[2] for name in imported(path) if name.startswith("chorus.wiring.")}
            self.assertLessEqual(known, SHARED | BEFORE.get(path.stem, set()), path.name)
