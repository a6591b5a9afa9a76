"""docs/security-coverage.md is true: its tests exist, and no advisory and no test named after one is missing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support import PureTestCase

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "security-coverage.md"

ADVISORIES = re.findall(
    r"\S+",
    """
CVE-2022-24759 CVE-2019-15545 RUSTSEC-2022-0009 RUSTSEC-2022-0093 CVE-2021-4239 RUSTSEC-2024-0011 CVE-2023-39533
CVE-2026-110789 CVE-2020-35909 GHSA-5hq8-qhww-jm7q py-1340 py-1345 py-1182
CVE-2022-23486 CVE-2022-23487 CVE-2022-23492 CVE-2024-32984 CVE-2026-31814 GHSA-4w32-2493-32g7 CVE-2026-32314
GHSA-vxx9-2994-q338 CVE-2026-73568 GHSA-hmj8-5xmh-5573 py-1312 CVE-2023-44487 CVE-2026-21438 CVE-2026-21434
CVE-2026-57497 CVE-2026-21435 CVE-2023-46239 CVE-2023-49295 CVE-2024-22189 CVE-2024-53259 CVE-2025-29785
CVE-2025-59530 CVE-2025-64702 CVE-2026-40898 CVE-2026-103936
CVE-2023-40583 go-3501 go-3486 go-3487 go-3494 py-1415 py-958 py-1338 GHSA-xqvc-92cf-94j4 py-1438 CVE-2026-35405
CVE-2026-35457 py-1342 py-1414 CVE-2026-40094
CVE-2026-46679 GHSA-4f8r-922h-2vgv go-705 py-1349 cpp-349 CVE-2026-86040 CVE-2026-95859 GHSA-g3g5-x568-qvqx
CVE-2026-33040 CVE-2026-34219 CVE-2022-47547 CVE-2020-12821
CVE-2020-10937 CVE-2023-26248 CVE-2026-45783 CVE-2026-44505 py-1405 CVE-2023-25568
CVE-2025-4565 CVE-2026-26209 CVE-2020-10735
""",
)
"""The published failures that the project knows of: sections 2.1 to 2.6 of its security checklist."""

NAMED = re.compile(r"cve_\d{4}_\d+|ghsa(?:_[a-z0-9]{4}){3}|rustsec_\d{4}_\d+|(?:py|go)_\d{3,4}(?:_\d{4})*")
REFERENCE = re.compile(r"`(tests(?:\.\w+)+)`")
ADVISORY = re.compile(r"(?:CVE|RUSTSEC)-\d{4}-\d+|GHSA(?:-[a-z0-9]{4}){3}|(?:py|go|cpp) #?\d{3,4}")


def spelled(advisory: str) -> str:
    return re.sub(r"[ #-]+", "_", advisory).lower()


def tests_of(path: Path) -> Iterator[str]:
    """`module.Class.test` of every test in the file, with those that classes of the same file inherit."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    classes = {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)}

    def methods(name: str) -> Iterator[str]:
        node = classes.get(name)
        if node is None:
            return
        for member in node.body:
            if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and member.name.startswith("test"):
                yield member.name
        for base in node.bases:
            if isinstance(base, ast.Name):
                yield from methods(base.id)

    for name in classes:
        for method in methods(name):
            yield f"{module}.{name}.{method}"


@cache
def all_tests() -> frozenset[str]:
    return frozenset(name for path in (ROOT / "tests").rglob("test_*.py") for name in tests_of(path))


class Coverage(PureTestCase):
    def setUp(self) -> None:
        self.page = PAGE.read_text()
        self.rows = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in self.page.splitlines()
            if line.startswith("| ") and not line.startswith(("| id ", "| ---"))
        ]
        self.tests = all_tests()

    def test_every_test_it_names_exists(self) -> None:
        named = [name for row in self.rows for name in REFERENCE.findall(row[2])]
        self.assertGreater(len(named), 200)
        self.assertEqual(sorted(set(named) - self.tests), [])

    def test_every_row_has_a_test_or_a_reason(self) -> None:
        for row in self.rows:
            self.assertEqual(len(row), 3, row)
            reason = re.search(r"does not apply here: \w{3}", row[2])
            self.assertTrue(REFERENCE.search(row[2]) or reason, row)

    def test_no_advisory_is_missing(self) -> None:
        listed = {spelled(found) for row in self.rows for found in ADVISORY.findall(row[0])}
        self.assertEqual({spelled(advisory) for advisory in ADVISORIES} - listed, set())

    def test_a_row_of_an_advisory_has_a_test_with_its_name(self) -> None:
        """Or one of its aliases', where the row has several."""
        for row in self.rows:
            advisories = {spelled(found) for found in ADVISORY.findall(row[0])}
            names = " ".join(REFERENCE.findall(row[2]))
            # What lacks its part says so first, and then what holds the rule elsewhere.
            if advisories and not row[2].startswith(("does not apply here: ", "there is no ")):
                self.assertTrue(any(one in names for one in advisories), row)

    def test_every_test_named_after_an_advisory_is_in_a_row(self) -> None:
        listed = set(REFERENCE.findall(self.page))
        named = {name for name in self.tests if NAMED.search(name.rpartition(".")[2])}
        self.assertGreater(len(named), 60)
        self.assertEqual(sorted(named - listed), [])
