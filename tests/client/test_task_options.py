from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from chorus.client.errors import ClientError
from chorus.client.pack import PackOptions
from chorus.client.task_options import OPTIONS, fields_of, title_of, wanted_of
from chorus.tasks.spec import TaskSpec
from tests.support import PureTestCase


class Arguments(PureTestCase):
    def options(self, **given: object) -> argparse.Namespace:
        return argparse.Namespace(**{**dict.fromkeys(OPTIONS.values()), "env": [], "argv": ["true"], **given})

    def test_bytes_that_are_no_text_are_named_by_their_place(self) -> None:
        wrong = os.fsdecode(b"caf\xe9")
        for name, arguments in (
            ("the command", {"argv": ["echo", wrong]}),
            ("--env", {"env": [f"A={wrong}"]}),
            ("--title", {"title": wrong}),
        ):
            with self.assertRaises(ClientError) as caught:
                fields_of(self.options(**arguments))
            self.assertTrue(str(caught.exception).startswith(f"{name}: "), caught.exception)
            self.assertIn("no UTF-8", str(caught.exception))
        self.assertEqual(fields_of(self.options(title="café"))["title"], "café")


class Titles(PureTestCase):
    def test_made_from_a_name_of_any_bytes(self) -> None:
        for name, title in (
            (b"project", "project"),
            (b"two\nlines", "two lines"),
            (b"a\ttab", "a tab"),
            (b"caf\xe9", "caf\ufffd"),
            (b"\x1b[2Jx\x7f", "[2Jx"),
            ("\u65e5\u672c \u202etxt".encode(), "\u65e5\u672c txt"),
            ("\u65e5".encode() * 80, "\u65e5" * 66),
            (b"\n", ""),
            (b"", ""),
        ):
            self.assertEqual(title_of(Path("/", os.fsdecode(name))), title)

    @given(st.binary(min_size=1, max_size=255).filter(lambda name: not {0, 47} & set(name)))
    def test_a_task_may_have_it(self, name: bytes) -> None:
        title = title_of(Path("/", os.fsdecode(name)))
        self.assertEqual(TaskSpec.parse({"commands": ["x"], "title": title}).title, title)


class Packing(PureTestCase):
    def options(self, path: str | None, **given: object) -> argparse.Namespace:
        return argparse.Namespace(path=path, **{"include": None, "all_files": False, "with_git": False, **given})

    def test_what_is_asked_for(self) -> None:
        self.assertEqual(wanted_of(self.options(None)), PackOptions())
        found = wanted_of(self.options("/", include=["a", "b"], with_git=True))
        self.assertEqual(found, PackOptions(include=("a", "b"), with_git=True))
        self.assertEqual(wanted_of(self.options("/", all_files=True)), PackOptions(all_files=True))

    def test_options_that_make_no_sense(self) -> None:
        with tempfile.NamedTemporaryFile() as file:
            for path, given, said in (
                ("/", {"include": ["a"], "all_files": True}, "give one of them"),
                (None, {"include": ["a"]}, "PATH must be one"),
                (None, {"with_git": True}, "PATH must be one"),
                (file.name, {"all_files": True}, "PATH must be one"),
            ):
                with self.assertRaisesRegex(ClientError, said):
                    wanted_of(self.options(path, **given))
