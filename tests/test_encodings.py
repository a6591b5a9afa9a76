"""No text takes the encoding of the host's locale: every place that opens, reads, writes or starts something in text
mode names one."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support import PureTestCase

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("chorus", "twisted", "benchmarks")
PLACE = {"read_text": 0, "write_text": 1, "TextIOWrapper": 1}
"""Where the encoding stands among the arguments of what is always text."""
MODE = {"open": 1, "fdopen": 1}
"""Where the mode stands among the arguments of what is text without one."""
TEMPORARY = {"NamedTemporaryFile": 0, "TemporaryFile": 0, "SpooledTemporaryFile": 1}
"""The same of what is binary without one."""


def unnamed(tree: ast.AST) -> Iterator[int]:
    """Lines of calls that leave the encoding to the locale. A path's `open` is found by a mode that is one of text."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            keywords = {keyword.arg: keyword.value for keyword in call.keywords}
            if not keywords.keys() & {"encoding", None} and _is_text(call, keywords):
                yield call.lineno


def _is_text(call: ast.Call, keywords: dict[str | None, ast.expr]) -> bool:
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    owner = getattr(getattr(call.func, "value", None), "id", None)
    if any(_constant(keywords.get(each)) for each in ("text", "universal_newlines")):
        return True
    if name in PLACE:
        return len(call.args) <= PLACE[name]
    if name in TEMPORARY:
        return _is_text_mode(_argument(call, keywords, TEMPORARY[name]))
    if name not in MODE or (name == "open" and owner in {"os", "tarfile"}):
        return False
    if isinstance(call.func, ast.Name) or owner in {"io", "os"}:
        mode = _argument(call, keywords, MODE[name])
        return mode is None or _is_text_mode(mode)
    return _is_text_mode(_argument(call, keywords, 0))


def _argument(call: ast.Call, keywords: dict[str | None, ast.expr], at: int) -> ast.expr | None:
    return keywords.get("mode") or (call.args[at] if len(call.args) > at else None)


def _is_text_mode(mode: ast.expr | None) -> bool:
    value = _constant(mode)
    return isinstance(value, str) and "b" not in value and set(value) <= set("rwxa+t")


def _constant(value: ast.expr | None) -> object:
    return value.value if isinstance(value, ast.Constant) else None


class InAnotherLocale(PureTestCase):
    """Processes: the encoding of file names is fixed when the interpreter starts."""

    def printed(self, *command: str, **more: str) -> bytes:
        env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT), **more}
        return subprocess.run([sys.executable, *command], env=env, stdout=subprocess.PIPE, check=True).stdout

    def test_a_program_begins_anew_in_utf_8(self) -> None:
        code = (
            "import sys; from chorus import encoding; encoding.begin(); print(sys.getfilesystemencoding(), sys.argv[1])"
        )
        self.assertEqual(self.printed("-c", code, "日"), "utf-8 日\n".encode())
        self.assertEqual(self.printed("-c", code, "é日", PYTHONIOENCODING="latin-1"), "utf-8 é?\n".encode("latin-1"))

    def test_so_does_the_agent(self) -> None:
        command = (str(Path(sys.executable).parent / "twistd"), "chorus", "config")
        self.assertIn("/tmp/日".encode(), self.printed(*command, CHORUS_DATA_DIR="/tmp/日"))


class EncodingTests(PureTestCase):
    def test_every_place_names_one(self) -> None:
        found = [
            f"{path.relative_to(ROOT)}:{line}"
            for folder in SOURCES
            for path in sorted((ROOT / folder).rglob("*.py"))
            for line in unnamed(ast.parse(path.read_text("utf-8")))
        ]
        self.assertEqual(found, [])

    def test_what_is_found(self) -> None:
        for text in (
            *("open(x)", "open(x, 'w')", "x.read_text()", "x.write_text(y)", "os.fdopen(x)", "x.open('r')"),
            *("run(x, text=True)", "io.TextIOWrapper(x)", "NamedTemporaryFile('w')", "(a / b).open('a')"),
            *("run(x, universal_newlines=True)", "io.open(x)", "open(x, mode='r')", "os.fdopen(x, 'w')"),
        ):
            self.assertEqual(list(unnamed(ast.parse(text))), [1], text)
        for text in (
            *("open(x, 'rb')", "open(x, encoding='utf-8')", "x.read_text('utf-8')", "x.write_text(y, 'utf-8')"),
            *(
                "os.open(x, y)",
                "run(x, text=True, encoding='utf-8')",
                "x.open('wb')",
                "store.open()",
                "run(text=False)",
            ),
            *("os.fdopen(x, 'rb')", "NamedTemporaryFile()", "tarfile.open(x, 'w')", "self.session.open(data)"),
        ):
            self.assertEqual(list(unnamed(ast.parse(text))), [], text)
