"""Who may import whom (docs/architecture.md, "Arrows"), and how much lies in one folder."""

from __future__ import annotations

import importlib.util
import re
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, Final

from tests.support import PureTestCase

ROOT: Final = Path(__file__).resolve().parent.parent
CHORUS: Final = ROOT / "chorus"
PAGE: Final = ROOT / "docs/architecture.md"

MAX_FILES: Final = 25
"""Of a folder's own, rooms apart."""

BELOW: Final = "tasks ucxl store config observe sandbox protocols messages http services"
MAY: Final[dict[str, str]] = {
    "tasks": "",
    "ucxl": "",
    "observe": "",
    "store": "tasks ucxl",
    "config": "tasks",
    "sandbox": "tasks",
    "protocols": "tasks",
    "messages": "protocols",
    "http": "tasks ucxl observe",
    "services": "tasks ucxl store sandbox observe protocols messages http",
    "preflight": "config http protocols services",
    "wiring": f"{BELOW} preflight",
    "assembly": f"{BELOW} preflight wiring",
    "runtime": f"{BELOW} preflight wiring assembly",
    "tap": f"{BELOW} preflight runtime",
    "simulation": BELOW,
    "client": f"{BELOW} simulation",
}
"""By package: those that it imports besides the ground. What has no row is the ground: it imports nothing else."""

SHARED: Final = {"surroundings"}
BEFORE: Final = {
    "execution": {"storage"},
    "scheduling": {"storage", "messages", "execution"},
    "memory": {"storage", "network", "messages"},
}
"""What a file of `chorus/wiring` may know of the others: what is handed to it."""


def house() -> Any:
    """The measures of `scripts/house`."""
    loader = SourceFileLoader("chorus_house", str(ROOT / "scripts/house"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


HOUSE: Final = house()
GRAPH: Final[dict[str, set[str]]] = HOUSE.imports(HOUSE.sources(ROOT))


def package(module: str) -> str:
    """The folder or the file right below `chorus`."""
    return (*module.split("."), "")[1]


class ArrowTests(PureTestCase):
    def importers(self, module: str) -> set[str]:
        return {
            name
            for name, targets in GRAPH.items()
            if any(target == module or target.startswith(f"{module}.") for target in targets)
        }

    def test_every_part_of_the_router_has_its_line(self) -> None:
        parts = {path.stem for path in (CHORUS / "protocols/gossipsub").glob("*.py")} - {"__init__"}
        self.assertEqual({part for part in parts if f"`{part}`" not in PAGE.read_text()}, set())

    def test_nobody_but_tap_knows_the_runtime(self) -> None:
        self.assertEqual(self.importers("chorus.runtime"), {"chorus.tap"})
        self.assertEqual(self.importers("chorus.assembly"), {"chorus.runtime"})

    def test_nobody_but_the_assembly_knows_what_the_wiring_builds(self) -> None:
        outside = {name for name in self.importers("chorus.wiring") if package(name) != "wiring"}
        self.assertEqual(outside, {"chorus.assembly", "chorus.runtime"})
        known = {target for target in GRAPH["chorus.runtime"] if target.startswith("chorus.wiring.")}
        self.assertEqual(known, {"chorus.wiring.surroundings"})

    def test_a_file_of_the_wiring_knows_what_it_is_handed(self) -> None:
        for name, targets in GRAPH.items():
            if package(name) == "wiring":
                known = {target.split(".")[2] for target in targets if target.startswith("chorus.wiring.")}
                stem = name.rpartition(".")[2]
                self.assertLessEqual(known, SHARED | BEFORE.get(stem, set()), name)

    def test_packages_import_what_their_row_says(self) -> None:
        wrong = []
        for name, targets in GRAPH.items():
            own = package(name)
            allowed = {own, *MAY.get(own, "").split()}
            wrong += [
                f"{name} imports {target}"
                for target in sorted(targets)
                if package(target) in MAY and package(target) not in allowed
            ]
        self.assertEqual(wrong, [])

    def test_the_page_has_the_same_rows(self) -> None:
        _, _, section = PAGE.read_text().partition("\n## Arrows\n")
        rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|$", section.partition("\n## ")[0], re.MULTILINE)
        self.assertEqual({name: set(text.split()) for name, text in rows}, {n: set(t.split()) for n, t in MAY.items()})

    def test_paths_that_pages_name_exist(self) -> None:
        pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
        named = {path for page in pages for path in re.findall(r"`(chorus/[\w./-]+)", page.read_text())}
        # Topics of messages begin with `chorus/` too; NAME and SUBJECT are for the reader to fill in.
        files = {
            path
            for path in (path.rstrip("/.") for path in named)
            if (path.endswith(".py") or (ROOT / "/".join(path.split("/")[:2])).exists())
            and not re.search("[A-Z]{4}", path)
        }
        self.assertEqual({path for path in files if not (ROOT / path).exists()}, set())

    def test_files_in_tables_of_the_page_exist(self) -> None:
        """A name stands below the folder of its table, below its parent, or below `chorus`."""
        missing = set()
        for table in re.findall(r"^\| file of .*(?:\n\|.*)+", PAGE.read_text(), re.MULTILINE):
            header, _, *rows = table.splitlines()
            folder = CHORUS / header.split("`")[1].removeprefix("chorus")
            for name in (name for row in rows for name in re.findall(r"`([\w/]+)`", row.split(" | ")[0])):
                places = [place / name for place in (folder, folder.parent, CHORUS)]
                if not any(place.with_suffix(".py").exists() for place in places):
                    missing.add(str((folder / name).relative_to(ROOT)))
        self.assertEqual(missing, set())

    def test_no_import_goes_in_a_circle(self) -> None:
        """Those that only type checkers see included."""
        self.assertEqual(HOUSE.circles(GRAPH), [])

    def test_no_folder_is_a_drawer(self) -> None:
        for folder in ("services", "protocols"):
            own = [path for path in (CHORUS / folder).glob("*.py") if path.name != "__init__.py"]
            self.assertLessEqual(len(own), MAX_FILES, folder)

    def test_no_arrow_of_a_package_goes_upwards(self) -> None:
        for package in ("services", "protocols", "sandbox", "simulation"):
            self.assertEqual(HOUSE.upward(HOUSE.rooms(GRAPH, f"chorus.{package}")), [], package)

    def test_a_class_name_stands_once(self) -> None:
        where: dict[str, list[str]] = {}
        for name, path in HOUSE.sources(ROOT).items():
            for each in HOUSE.Source(path).classes():
                where.setdefault(each, []).append(name)
        self.assertEqual({each: places for each, places in where.items() if len(places) > 1}, {})


class HouseTests(PureTestCase):
    """Counts of `scripts/house`."""

    def test_circles_and_upward_arrows(self) -> None:
        graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}
        self.assertEqual(HOUSE.circles(graph), [["b", "c"]])
        self.assertEqual(len(HOUSE.upward(graph)), 1)
        self.assertEqual(HOUSE.floors(graph), 4)
        self.assertEqual((HOUSE.circles({"a": {"b"}, "b": set()}), HOUSE.upward({"a": {"b"}, "b": set()})), ([], []))

    def test_rooms_are_files_and_folders_of_a_package(self) -> None:
        graph = {"p.a": {"p.q.x", "r"}, "p.q.x": {"p.q.y"}, "p.q.y": set[str](), "r": {"p.a"}}
        self.assertEqual(HOUSE.rooms(graph, "p"), {"a": {"q"}, "q": set()})

    def test_imports_of_all_kinds(self) -> None:
        path = Path(self.mktemp())
        path.write_text("import m.a\nif TYPE_CHECKING:\n    from m import b, name\ndef f():\n    from m.c import d\n")
        modules = dict.fromkeys(("m", "m.a", "m.b", "m.c"), path)
        self.assertEqual(HOUSE.imports({"x": path, **modules})["x"], {"m", "m.a", "m.b", "m.c"})

    def test_code_lines(self) -> None:
        path = Path(self.mktemp())
        lines = ('"""Text."""', "", "X = 1", '"""Why."""', "class A:", "  # No.", "  def __init__(self, a, *b):")
        path.write_text("\n".join((*lines, '    """."""', "    f(", "    )", "")))
        source = HOUSE.Source(path)
        self.assertEqual(len(source.code), 5)
        self.assertEqual(list(source.functions()), [("__init__", 3)])
        self.assertEqual((list(source.constructors()), source.classes()), ([("A", 2)], ["A"]))
