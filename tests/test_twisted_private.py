from __future__ import annotations

import ast
import configparser
import importlib.metadata
from pathlib import Path

from tests.support import PureTestCase

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "chorus/twisted_private.py"


def names(path: Path) -> set[str]:
    """Private names that a file reads, writes or defines."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Attribute(attr=name) | ast.FunctionDef(name=name) | ast.Name(id=name) if name.startswith("_"):
                found.add(name)
    return {name for name in found if not name.startswith("__")}


class PrivateNames(PureTestCase):
    def test_twisteds_private_names_are_used_in_one_file(self) -> None:
        # Names so plain that others of ours have them too.
        ours = {"_path", "_version", "_command"}
        theirs = names(HOME) - ours
        self.assertIn("_respondToBadRequestAndDisconnect", theirs)
        elsewhere = {
            f"{path.relative_to(ROOT)}: {name}"
            for path in (ROOT / "chorus").rglob("*.py")
            if path != HOME
            for name in names(path) & theirs
        }
        self.assertEqual(elsewhere, set())

    def test_twisted_has_an_upper_bound_and_is_below_it(self) -> None:
        config = configparser.ConfigParser()
        config.read(ROOT / "setup.cfg")
        (line,) = [each for each in config["options"]["install_requires"].splitlines() if each.startswith("twisted ")]
        bound = line.partition("<")[2].strip()
        self.assertRegex(bound, r"^\d+\.\d+$")
        installed = importlib.metadata.version("twisted")
        self.assertLess(*(tuple(map(int, text.split(".")[:2])) for text in (installed, bound)))
